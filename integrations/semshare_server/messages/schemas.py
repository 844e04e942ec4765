"""Bodies of `/v1/messages`: the parts of the Anthropic API that this server has."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from semshare_server.schemas import MOST_TOOLS, Named, Open, ReuseOptions, Stop, Text, Tokens

MOST_STOPS = 64

Json = Annotated[dict[str, Any], Field(description="an object of the Anthropic API")]


class OutputFormat(Open):
    """JSON that keeps to a schema."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputOptions(Open):
    """What the answer is like."""

    format: OutputFormat | None = None
    effort: Any = Field(None, description="a wish; this server's models know none")


class Thinking(Open):
    """Whether a model thinks before it answers; its budget changes nothing."""

    type: Literal["enabled", "adaptive", "disabled"]


class CountRequest(Named):
    """Body of `/v1/messages/count_tokens`."""

    messages: Annotated[list[Json], Field(min_length=1, max_length=10_000)]
    system: Text | Annotated[list[Json], Field(max_length=1000)] | None = None
    tools: Annotated[list[Json], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Json | None = None
    cache_control: Json | None = None
    output_config: OutputOptions | None = None
    thinking: Thinking | None = None
    output_format: OutputFormat | None = None

    # What follows cannot change an answer of this server: taken and ignored.
    betas: Any = None
    context_management: Any = None
    diagnostics: Any = None
    inference_geo: Any = None
    metadata: Any = None
    service_tier: Any = None
    speed: Any = None
    user_profile_id: Any = None
    workspace_id: Any = None


class MessageRequest(CountRequest):
    """Body of `/v1/messages`."""

    max_tokens: Tokens
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31)] | None = None
    stop_sequences: Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    semshare: ReuseOptions | None = None

    @property
    def effort(self) -> str | None:
        """How much a model thinks that can be told so; None for as much as it does by itself."""
        return "none" if self.thinking is not None and self.thinking.type == "disabled" else None

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The JSON schema of the answer; None for text."""
        wanted = self.output_format or (self.output_config.format if self.output_config is not None else None)
        return None if wanted is None else wanted.schema_


class TokenCount(BaseModel):
    """Answer of `/v1/messages/count_tokens`."""

    input_tokens: int


class AnthropicError(BaseModel):
    """What went wrong."""

    type: str
    message: str


class AnthropicErrorResponse(BaseModel):
    """Every error's body."""

    type: Literal["error"]
    error: AnthropicError
