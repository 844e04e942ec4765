"""The chat model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput, ModelProfile
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_semshare import messages as convert
from langchain_semshare.errors import translated
from langchain_semshare.model import STRICT, AdapterModel, configured
from langchain_semshare.structured import structured
from semshare_agents.values import Piece


class ChatSemShare(AdapterModel, BaseChatModel):
    """A chat model over local weights with a memory made of KV.

    Without an adapter of yours it opens one, on a thread of its own, with the first call.

    Example:
        .. code-block:: python

            model = ChatSemShare(max_tokens=64)
            answer = model.invoke("Name three rivers.", {"configurable": {"tenant": "acme", "session": "ana"}})
            answer.usage_metadata["input_token_details"]["cache_read"]
            answer.response_metadata["semshare"]["tokens"]
    """

    model_config = STRICT

    @property
    def _llm_type(self) -> str:
        return "semshare-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self.identity()

    def _told(self, prompt: Any) -> list[dict[str, Any]]:
        return convert.to_adapter(prompt)

    def _options(self, stop: list[str] | None, given: dict[str, Any]) -> dict[str, Any]:
        return {"split_thoughts": True, **super()._options(stop, given)}

    def _resolve_model_profile(self) -> ModelProfile:
        profile = ModelProfile(
            name=self.model,
            open_weights=True,
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            pdf_inputs=False,
            tool_calling=True,
            tool_choice=True,
            structured_output=True,
            temperature=True,
        )
        context_tokens = self._context_tokens()
        if context_tokens is not None:
            profile["max_input_tokens"] = context_tokens
        return profile

    # --- counting

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of a text inside a message; see `get_num_tokens_from_messages` for whole prompts.

        Raises:
            ModelNotFoundError: the model's files are not on this machine.
        """
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self.counter.text(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Tokens of the prompt that these messages and tools become: the `input_tokens` of a call.

        Args:
            messages: The messages; of a list that is no conversation each counts for itself.
            tools: Tools in any of LangChain's forms, as they are bound.

        Raises:
            ModelInvalidRequestError: messages or tools cannot be told to a model.
            ModelNotFoundError: the model's files are not on this machine.
        """
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens_from_messages(messages, tools)
        counter = self.counter
        with translated(None):
            return counter.messages(self._told(messages), [convert_to_openai_tool(tool) for tool in tools or ()])

    # --- answers

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        generation = self._answer(messages, stop, kwargs)
        return _result(convert.whole(generation, self.model))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        generation = await self._aanswer(messages, stop, kwargs)
        return _result(convert.whole(generation, self.model))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for piece in self._parts(messages, stop, kwargs):
            chunk = self._chunk(piece)
            if run_manager is not None:
                run_manager.on_llm_new_token(piece.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for piece in self._aparts(messages, stop, kwargs):
            chunk = self._chunk(piece)
            if run_manager is not None:
                await run_manager.on_llm_new_token(piece.text, chunk=chunk)
            yield chunk

    def _chunk(self, piece: Piece) -> ChatGenerationChunk:
        return ChatGenerationChunk(message=convert.part(piece, self.model))

    def stream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """See the base class and `invoke`."""
        return super().stream_events(input, config, **_of_v3(config, kwargs))

    def astream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """See the base class and `invoke`."""
        return super().astream_events(input, config, **_of_v3(config, kwargs))

    # --- tools and structured answers

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools.

        Args:
            tools: Tools in any of LangChain's forms.
            tool_choice: `auto`, `none`, `any` (or `required`, or True), or the name of the tool that must be called.
                Calls that must be made are valid JSON of the tool's schema on any model.
            parallel_tool_calls: Whether an answer may hold several calls.
            kwargs: Further options of every call; `strict` refuses tools whose schema a call cannot be held to in full.
        """
        # False leaves it to the model, as with other models; an empty name is nobody's and will be refused.
        chosen = {True: "required", False: None}[tool_choice] if isinstance(tool_choice, bool) else tool_choice
        bound = {"tool_choice": chosen, "parallel_tool_calls": parallel_tool_calls}
        return self.bind(
            tools=[convert_to_openai_tool(tool) for tool in tools],
            **{name: value for name, value in bound.items() if value is not None},
            **kwargs,
        )

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Literal["function_calling", "json_mode", "json_schema"] = "function_calling",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """The model with answers of a schema; see `langchain_semshare.structured`.

        Args:
            schema: A Pydantic class, a TypedDict or a JSON schema.
            method: `function_calling` tells the model of the schema; `json_schema` and `json_mode` only hold it to it.
            include_raw: Answer with `raw`, `parsed` and `parsing_error`.
            strict: As other models have it; answers are always held to the schema.
            kwargs: Further options of every call.
        """
        return structured(self, schema, method, include_raw, kwargs)


def _of_v3(config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Other versions go through `stream`, which reads the config itself."""
    return configured(config, kwargs) if kwargs.get("version") == "v3" else kwargs


def _result(message: AIMessage) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message)])
