"""Bodies of `/v1/responses`: the parts of OpenAI's Responses API that this server has."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from semshare_server.schemas import (
    MOST_TOOLS,
    Effort,
    Named,
    NamedSchema,
    ObjectFormat,
    Open,
    ReuseOptions,
    Text,
    TextFormat,
    Tokens,
)

MOST_ITEMS = 10_000

Json = Annotated[dict[str, Any], Field(description="an object of OpenAI's API")]


class SchemaFormat(NamedSchema):
    """JSON that keeps to a schema."""

    type: Literal["json_schema"]


class TextOptions(Open):
    """What the answer's text is like."""

    format: Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Any = Field(None, description="a wish; this server's models know none")


class Reasoning(Open):
    """How a model thinks; what else clients ask of it changes nothing."""

    effort: Effort | None = None


class ResponseRequest(Named):
    """Body of `POST /v1/responses`."""

    input: Text | Annotated[list[Json], Field(max_length=MOST_ITEMS)] | None = None
    instructions: Text | None = Field(None, description="system text of this answer alone; the next one has its own")
    previous_response_id: Annotated[str, Field(max_length=400)] | None = None
    max_output_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    tools: Annotated[list[Json], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | Json | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    stream: bool | None = None
    store: bool | None = Field(None, description="false: nothing of the turn is kept; default: it is kept")
    semshare: ReuseOptions | None = None

    background: Literal[False] | None = None
    conversation: None = None
    prompt: None = None
    top_logprobs: Literal[0] | None = None
    truncation: Literal["auto", "disabled"] | None = Field(None, description="nothing is ever left out")

    metadata: dict[str, str] | None = Field(None, description="given back")
    # What follows cannot change an answer of this server: taken and ignored.
    client_metadata: Any = None
    include: Any = None
    max_tool_calls: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    stream_options: Any = None
    user: Any = None

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The JSON schema of the answer; None for text."""
        wanted = self.text.format if self.text is not None else None
        if isinstance(wanted, SchemaFormat):
            return wanted.schema_
        return {"type": "object"} if isinstance(wanted, ObjectFormat) else None
