"""The completion model: a text is continued as it is, without a chat template."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation as Text
from langchain_core.outputs import GenerationChunk, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_semshare.messages import metadata_of, usage_of
from langchain_semshare.model import STRICT, AdapterModel
from semshare_agents.request.options import said
from semshare_agents.values import Generation, Piece


class SemShareCompletion(AdapterModel, BaseLLM):
    """A completion model over local weights with a memory made of KV; see `ChatSemShare`."""

    model_config = STRICT

    @property
    def _llm_type(self) -> str:
        return "semshare"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self.identity()

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return {**super()._get_ls_params(stop=stop, **kwargs), "ls_provider": "semshare"}

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of a prompt, as it is continued: the `prompt_tokens` of a call.

        Raises:
            ModelNotFoundError: the model's files are not on this machine.
        """
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self.counter.raw(text)

    def _told(self, prompt: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": prompt}]

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        return self._result([self._answer(prompt, stop, {"raw": True, **said(kwargs)}) for prompt in prompts])

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        answers = (self._aanswer(prompt, stop, {"raw": True, **said(kwargs)}) for prompt in prompts)
        return self._result(await asyncio.gather(*answers))

    def _result(self, answers: list[Generation]) -> LLMResult:
        texts = [[Text(text=answer.text, generation_info=self._info(answer))] for answer in answers]
        usage = {
            "prompt_tokens": sum(answer.usage.prompt_tokens for answer in answers),
            "completion_tokens": sum(answer.usage.completion_tokens for answer in answers),
            "total_tokens": sum(answer.usage.total_tokens for answer in answers),
        }
        return LLMResult(generations=list(texts), llm_output={"token_usage": usage, "model_name": self.model})

    def _info(self, generation: Generation) -> dict[str, Any]:
        return {**metadata_of(generation, self.model), "usage_metadata": usage_of(generation)}

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        for piece in self._parts(prompt, stop, {"raw": True, **said(kwargs)}):
            chunk = self._chunk(piece)
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        async for piece in self._aparts(prompt, stop, {"raw": True, **said(kwargs)}):
            chunk = self._chunk(piece)
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _chunk(self, piece: Piece) -> GenerationChunk:
        info = None if piece.generation is None else self._info(piece.generation)
        return GenerationChunk(text=piece.text, generation_info=info)

    # Each input has a config of its own, and what it says belongs to that input alone.

    def batch(self, inputs: Any, config: Any = None, *, return_exceptions: bool = False, **kwargs: Any) -> list[Any]:
        """See the base class."""
        return Runnable.batch(self, inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: Any,
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """See the base class."""
        return await Runnable.abatch(self, inputs, config, return_exceptions=return_exceptions, **kwargs)
