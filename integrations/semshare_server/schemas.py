"""What clients send and get: the parts of OpenAI's API that this server has."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from semshare_agents.errors import InvalidToolsError
from semshare_agents.request.options import MOST_CHOICES, MOST_LIKELY
from semshare_agents.tools.checking import clean_choice
from semshare_server.forms import AUTO_WORDS, one_choice, one_form, one_tool, usable

INT64 = 2**63
MOST_TOOLS = 128
MOST_STOPS = 256
MOST_PROMPTS = 256
TEXT_TOKENS = 16

Text = Annotated[str, Field(max_length=4 * 1024**2)]
Message = Annotated[
    dict[str, Any],
    Field(description="a message in any form that hosted APIs take, see docs/messages.md; the adapter checks it"),
]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
AsMany = Literal[-1]
"""What some clients say where they mean no limit."""
Tokens = Annotated[int, Field(ge=1, le=2**31)] | AsMany
TokenId = Annotated[int, Field(ge=0, le=2**31)]
Number = Annotated[float, Field(ge=-100, le=100)]


class Strict(BaseModel):
    """Fields that nobody knows are refused: a client must not believe that they did something."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Open(BaseModel):
    """Fields that nobody knows are kept apart, for `semshare_server.fields` to look at."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class Named(Open):
    """A body that names a model; null is not given."""

    model: str | None = Field(None, description="any name is served by the one model, unless the server is strict")


class CalledFunction(BaseModel):
    """A tool and what it was called with."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    arguments: Text = Field(description="JSON text, as the model wrote it")


class ToolCall(BaseModel):
    """A call of a tool."""

    id: Annotated[str, Field(max_length=200)]
    type: Literal["function"]
    function: CalledFunction


class StreamOptions(Open):
    """How an answer is streamed."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="changes nothing: events are never padded")


class ReuseOptions(Strict):
    """This server's own options; the tenant is never one of them."""

    session: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")] | None = None
    reuse: Literal["off", "exact", "moved", "semantic"] | None = None
    fidelity: Literal["auto", "strict", "balanced", "fast"] | Annotated[float, Field(gt=0)] | None = None
    store: bool | None = Field(None, description="false: nothing of the turn is kept; default: it is kept")


class TextFormat(Open):
    """Plain text."""

    type: Literal["text"]


class ObjectFormat(Open):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Open):
    """A JSON schema with a name."""

    name: str | None = Field(None, description="changes nothing")
    description: str | None = None
    schema_: dict[str, Any] = Field({"type": "object"}, alias="schema")
    strict: bool | None = Field(None, description="answers are held to the schema with or without it")


class SchemaFormat(Open):
    """JSON that keeps to a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


Format = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]


class Common(Named):
    """What both kinds of completion take."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31)] | AsMany | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Number] | None = Field(
        None, description="what is added to logits, by token ids"
    )
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = Field(None, description="answers, from one prefill")
    response_format: Format | None = None
    semshare: ReuseOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_form(cls, body: Any) -> Any:
        return one_form(body)

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The JSON schema of the answer; None for text."""
        if isinstance(self.response_format, SchemaFormat):
            return self.response_format.json_schema.schema_
        return {"type": "object"} if isinstance(self.response_format, ObjectFormat) else None

    @property
    def sampling_options(self) -> dict[str, Any]:
        """What the adapter is told of how tokens are drawn."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": max(0, self.top_k) if self.top_k is not None else None,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "logit_bias": self.logit_bias,
            "seed": self.seed,
            "stop": self.stop,
            "n": self.n,
        }


class ChatRequest(Common):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    reasoning_effort: Effort | None = Field(None, description="how much a model thinks that can be told so")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables of the model's chat template")
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MOST_TOOLS)] | None = Field(
        None, description="functions, in OpenAI's form or one like it; what cannot be used is passed over"
    )
    tool_choice: Annotated[str, Field(min_length=1)] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = Field(None, description="several calls in one answer; only where true")
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LIKELY)] | None = None
    store: bool | None = Field(None, description="as in `semshare`; false in one of both is enough")

    @property
    def template_options(self) -> dict[str, Any]:
        """What the adapter is told of thinking and the template."""
        return {
            "reasoning_effort": self.reasoning_effort,
            "chat_template_kwargs": self.chat_template_kwargs,
            "split_thoughts": True,
        }

    @property
    def most_tokens(self) -> int | None:
        """Longest answer; None for what there is room for."""
        longest = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return None if longest == -1 else longest

    @property
    def likeliest(self) -> int | None:
        """How many likely tokens are told of each place; None where nobody asks."""
        return (self.top_logprobs or 0) if self.logprobs or (self.top_logprobs and self.logprobs is None) else None

    def tool_options(self) -> tuple[dict[str, Any], list[str]]:
        """What the adapter is told of tools, and which of them are passed over.

        Raises:
            InvalidToolsError: no tool can be used, or the choice is none of them.
        """
        tools, odd = usable(self.tools or ())
        choice = one_choice(self.tool_choice)
        if not tools and choice not in (None, *AUTO_WORDS[:2]):
            raise InvalidToolsError("tool_choice asks for a call, but there are no tools")
        clean_choice(choice if tools else None, tools)
        return {
            "tools": tools or None,
            "tool_choice": choice if tools else None,
            "parallel_tool_calls": bool(self.parallel_tool_calls),
        }, odd

    @property
    def strict_schemas(self) -> list[dict[str, Any]]:
        """Schemas of the tools that are `strict`."""
        found = (one_tool(tool).get("function") for tool in self.tools or ())
        functions = [function for function in found if isinstance(function, dict) and function.get("strict") is True]
        return [f["parameters"] for f in functions if isinstance(f.get("parameters"), dict)]


class CompletionRequest(Common):
    """Body of `/v1/completions`."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=MOST_PROMPTS)]
    )
    max_tokens: Annotated[int, Field(ge=0, le=2**31)] | AsMany | None = Field(
        None, description=f"default: {TEXT_TOKENS}, as with OpenAI; 0 reads the prompt alone"
    )
    echo: bool | None = Field(None, description="the prompt stands before the answer, with its own `logprobs`")
    logprobs: Annotated[int, Field(ge=0, le=MOST_LIKELY)] | bool | None = None
    store: bool | None = Field(None, description="as in `semshare`; false in one of both is enough")

    @property
    def most_tokens(self) -> int | None:
        """Longest answer; None for what there is room for."""
        if self.max_tokens == -1:
            return None
        return TEXT_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def likeliest(self) -> int | None:
        """How many likely tokens are told of each place; None where nobody asks."""
        return None if self.logprobs is None or self.logprobs is False else int(self.logprobs)

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, each as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [self.prompt] if isinstance(self.prompt[0], int) else self.prompt


class CachedTokens(BaseModel):
    """Details of the prompt's tokens."""

    cached_tokens: int = Field(description="tokens whose KV was reused and is exact; part of the prompt's tokens")
    reused_tokens: int = Field(description="tokens whose KV was reused, exact or not: `cached_tokens` and what moved")


class TokenUsage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class AnswerMessage(BaseModel):
    """An answer."""

    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None = Field(None, description="what the model thought before; null where nothing")
    tool_calls: list[ToolCall] | None = None


class ChatChoice(BaseModel):
    """The answer and why it ended."""

    index: int
    message: AnswerMessage
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: dict[str, Any] | None = None


class ChatCompletion(BaseModel):
    """Answer of `/v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage
    semshare: dict[str, Any] = Field(description="what was reused")


class TextChoice(BaseModel):
    """The text and why it ended."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: dict[str, Any] | None = None


class Completion(BaseModel):
    """Answer of `/v1/completions`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: TokenUsage
    semshare: dict[str, Any] = Field(description="what was reused")


class ModelInfo(BaseModel):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str = Field(description="what it was loaded from")
    max_model_len: int = Field(description="longest prompt and answer, in tokens")
    context_length: int = Field(description="the same")
    context_window: int = Field(description="the same")
    aliases: list[str] = Field(description="other names under which it is served")


class ModelList(BaseModel):
    """Answer of `/v1/models`."""

    object: Literal["list"]
    data: list[ModelInfo]


class Health(BaseModel):
    """Answer of `/health`."""

    status: Literal["ok"]
