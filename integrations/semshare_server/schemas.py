"""What clients send and get: the parts of OpenAI's API that this server has."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

INT64 = 2**63

Text = Annotated[str, Field(max_length=4 * 1024**2)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Tokens = Annotated[int, Field(ge=1, le=2**31)]


class Strict(BaseModel):
    """Fields that nobody knows are refused: a client must not believe that they did something."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """A message; what else clients echo of earlier answers is ignored."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=1000)]
    name: str | None = None


class StreamOptions(Strict):
    """How an answer is streamed."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ReuseOptions(Strict):
    """This server's own options; the tenant is never one of them."""

    session: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")] | None = None
    reuse: Literal["off", "exact", "moved", "semantic"] | None = None
    fidelity: Literal["strict", "balanced", "fast"] | Annotated[float, Field(gt=0)] | None = None
    store: bool = True


class Common(Strict):
    """What both kinds of completion take."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    n: Literal[1] | None = Field(None, description="one answer a request")
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    user: str | None = None
    semshare: ReuseOptions = ReuseOptions()


class TextFormat(Strict):
    """Plain text."""

    type: Literal["text"]


class ChatRequest(Common):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    response_format: TextFormat | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    logprobs: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    @field_validator("tools", "response_format", "tool_choice", mode="before")
    @classmethod
    def _not_here(cls, value: Any, info: ValidationInfo) -> Any:
        """Say so clearly: an answer that ignored them would look like one that followed them."""
        asked = {
            "tools": bool(value),
            "response_format": isinstance(value, dict) and value.get("type") in ("json_object", "json_schema"),
            "tool_choice": value == "required" or isinstance(value, dict),
        }
        if asked[str(info.field_name)]:
            raise ValueError("this server answers in plain text, without tools and JSON modes: leave it out")
        return value


class CompletionRequest(Common):
    """Body of `/v1/completions`."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    max_tokens: Tokens | None = 16
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
    content: str


class ChatChoice(BaseModel):
    """The answer and why it ended."""

    index: int
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
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
