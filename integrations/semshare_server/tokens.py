"""`/tokenize` and `/detokenize`, as vLLM and llama.cpp have them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from semshare_agents.llm import SemShareLLM
from semshare_agents.messages.cleaning import clean_messages
from semshare_agents.model.likelihoods import names_of
from semshare_agents.request.output import response_spec
from semshare_server import schemas
from semshare_server.bodies import BoundedRoute
from semshare_server.errors import RESPONSES, APIError
from semshare_server.forms import usable
from semshare_server.prompts import text_of


class TokenizeRequest(schemas.Open):
    """Body of `/tokenize`: one of `prompt`, `content` and `messages`."""

    model: str | None = None
    prompt: schemas.Text | None = Field(None, description="a text")
    content: schemas.Text | None = Field(None, description="a text; special tokens are not added unless asked for")
    messages: Annotated[list[schemas.Message], Field(min_length=1, max_length=10_000)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=schemas.MOST_TOOLS)] | None = None
    add_special_tokens: bool | None = Field(None, description="default: with `prompt`")
    add_special: bool | None = Field(None, description="the same")
    return_token_strs: bool | None = None
    with_pieces: bool | None = Field(None, description="each token with its text")


class TokenizeResponse(BaseModel):
    """Answer of `/tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int] | list[dict[str, Any]]
    token_strs: list[str] | None = None


class DetokenizeRequest(schemas.Open):
    """Body of `/detokenize`."""

    model: str | None = None
    tokens: list[schemas.TokenId]


class DetokenizeResponse(BaseModel):
    """Answer of `/detokenize`."""

    prompt: str
    content: str = Field(description="the same")


class Tokens:
    """The routes, with and without `/v1`.

    Args:
        llm: The adapter.
    """

    def __init__(self, llm: SemShareLLM):
        self._llm = llm
        self.router = APIRouter(responses=RESPONSES, route_class=BoundedRoute)
        for prefix in ("", "/v1"):
            add = self.router.add_api_route
            add(f"{prefix}/tokenize", self.tokenize, methods=["POST"], response_model=TokenizeResponse)
            add(f"{prefix}/detokenize", self.detokenize, methods=["POST"], response_model=DetokenizeResponse)

    async def tokenize(self, body: TokenizeRequest) -> dict[str, Any]:
        """Token ids of a text, or of the prompt that messages become."""
        ids = await asyncio.to_thread(self._ids, body)
        found: dict[str, Any] = {"count": len(ids), "max_model_len": self._llm.reader.model.context_tokens}
        tokenizer = self._llm.reader.model.tokenizer
        if tokenizer is None or not (body.with_pieces or body.return_token_strs):
            return {**found, "tokens": ids}
        names = names_of(tokenizer)
        texts = await asyncio.to_thread(lambda: [names.of(i)[0] for i in ids])
        pieces = [{"id": i, "piece": text} for i, text in zip(ids, texts, strict=True)]
        return {**found, "tokens": pieces if body.with_pieces else ids, "token_strs": texts}

    def _ids(self, body: TokenizeRequest) -> list[int]:
        reader = self._llm.reader
        if body.messages is not None:
            messages = clean_messages(body.messages)
            tools, _ = usable(body.tools or ())
            prompt = reader.output.prompt(messages, response_spec(tools or None, None, False, None))
            return [int(i) for i in prompt]
        text = body.prompt if body.prompt is not None else body.content
        if text is None:
            raise APIError(400, "give `prompt`, `content` or `messages`", "invalid_request", "prompt")
        asked = body.add_special_tokens if body.add_special is None else body.add_special
        special = body.prompt is not None if asked is None else asked
        counter = reader.counter()
        return counter.raw(text) if special else counter.text(text)

    async def detokenize(self, body: DetokenizeRequest) -> dict[str, Any]:
        """The text of token ids."""
        tokenizer = self._llm.reader.model.tokenizer
        text = await asyncio.to_thread(text_of, tokenizer, body.tokens) if body.tokens else ""
        return {"prompt": text, "content": text}
