"""What clients send and get: the parts of OpenAI's API that this server has."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

INT64 = 2**63
MOST_TOOLS = 128
TEXT_TOKENS = 16

Text = Annotated[str, Field(max_length=4 * 1024**2)]
Message = Annotated[
    dict[str, Any],
    Field(description="a message in any form that hosted APIs take, see docs/messages.md; the adapter checks it"),
]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Tokens = Annotated[int, Field(ge=1, le=2**31)]


class Strict(BaseModel):
    """Fields that nobody knows are refused: a client must not believe that they did something."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class CalledFunction(BaseModel):
    """A tool and what it was called with."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    arguments: Text = Field(description="JSON text, as the model wrote it")


class ToolCall(BaseModel):
    """A call of a tool."""

    id: Annotated[str, Field(max_length=200)]
    type: Literal["function"]
    function: CalledFunction


class Function(BaseModel):
    """What a tool is called, does and takes."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: Text | None = None
    parameters: dict[str, Any] | None = Field(None, description="JSON schema of an object")
    strict: bool | None = Field(None, description="refuse a schema that the answer cannot be held to in full")


class Tool(BaseModel):
    """A tool that may be called."""

    type: Literal["function"]
    function: Function


class NamedFunction(Strict):
    """The name of a tool."""

    name: Annotated[str, Field(min_length=1, max_length=64)]


class NamedTool(Strict):
    """The tool that has to be called."""

    type: Literal["function"]
    function: NamedFunction


class StreamOptions(Strict):
    """How an answer is streamed."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = Field(None, description="events are never padded")


class ReuseOptions(Strict):
    """This server's own options; the tenant is never one of them."""

    session: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")] | None = None
    reuse: Literal["off", "exact", "moved", "semantic"] | None = None
    fidelity: Literal["auto", "strict", "balanced", "fast"] | Annotated[float, Field(gt=0)] | None = None
    store: bool | None = Field(None, description="false: nothing of the turn is kept; default: it is kept")


class TextFormat(Strict):
    """Plain text."""

    type: Literal["text"]


class ObjectFormat(Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Strict):
    """A JSON schema with a name."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] = Field({"type": "object"}, alias="schema")
    strict: bool | None = Field(None, description="answers are held to the schema with or without it")


class SchemaFormat(Strict):
    """JSON that keeps to a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


Format = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]


class Common(Strict):
    """What both kinds of completion take."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    n: Literal[1] | None = Field(None, description="one answer a request")
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    response_format: Format | None = None
    user: str | None = None
    semshare: ReuseOptions | None = None

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The JSON schema of the answer; None for text."""
        if isinstance(self.response_format, SchemaFormat):
            return self.response_format.json_schema.schema_
        return {"type": "object"} if isinstance(self.response_format, ObjectFormat) else None


class ChatRequest(Common):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    reasoning_effort: Effort | None = Field(None, description="how much a model thinks that can be told so")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables of the model's chat template")
    verbosity: Literal["low", "medium", "high"] | None = Field(None, description="changes nothing")
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = Field(None, description="several calls in one answer; only where true")
    logprobs: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = Field(None, description="as in `semshare`; false in one of both is enough")
    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    @model_validator(mode="after")
    def _choice_has_tools(self) -> Self:
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise ValueError("tool_choice asks for a call, but there are no tools")
        return self

    @property
    def template_options(self) -> dict[str, Any]:
        """What the adapter is told of thinking and the template."""
        return {
            "reasoning_effort": self.reasoning_effort,
            "chat_template_kwargs": self.chat_template_kwargs,
            "split_thoughts": True,
        }

    @property
    def tool_options(self) -> dict[str, Any]:
        """What the adapter is told of tools."""
        choice = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else self.tool_choice
        return {
            "tools": [tool.model_dump(exclude={"function": {"strict"}}) for tool in self.tools or ()] or None,
            "tool_choice": choice if self.tools else None,
            "parallel_tool_calls": bool(self.parallel_tool_calls),
        }

    @property
    def strict_schemas(self) -> list[dict[str, Any]]:
        """Schemas of the tools that are `strict`."""
        functions = [tool.function for tool in self.tools or ()]
        return [f.parameters for f in functions if f.strict and f.parameters is not None]


class CompletionRequest(Common):
    """Body of `/v1/completions`."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    max_tokens: Tokens | None = Field(None, description=f"default: {TEXT_TOKENS}, as with OpenAI")
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None


class CachedTokens(BaseModel):
    """Details of the prompt's tokens."""

    cached_tokens: int = Field(description="tokens whose KV was reused and is exact; part of the prompt's tokens")


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
    logprobs: None = None


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
    logprobs: None = None


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


class ModelList(BaseModel):
    """Answer of `/v1/models`."""

    object: Literal["list"]
    data: list[ModelInfo]


class Health(BaseModel):
    """Answer of `/health`."""

    status: Literal["ok"]
