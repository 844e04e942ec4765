"""What the adapter is asked for one request: a conversation, or prompts that are continued as they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from semshare_agents.llm import SemShareLLM
from semshare_agents.timing.clock import Clock
from semshare_agents.values import Generation, Piece, Usage
from semshare_server.errors import APIError
from semshare_server.schemas import CompletionRequest


@dataclass(frozen=True)
class Call:
    """A call of the adapter.

    Attributes:
        messages: Its messages.
        options: Its options.
    """

    messages: list[dict[str, Any]]
    options: dict[str, Any]


async def answered(llm: SemShareLLM, calls: Sequence[Call], clock: Clock) -> AsyncGenerator[Piece]:
    """Pieces of the answers to several prompts, one after the other, each with the place of its answer among all."""
    before = 0
    for i, call in enumerate(calls):
        last = 0
        # Only the first has waited since the request came.
        timed = {"clock": clock} if i == 0 else {}
        async with aclosing(llm.stream(call.messages, **timed, **call.options)) as pieces:
            async for piece in pieces:
                last = piece.choice
                yield _placed(piece, before)
        before += last + 1


def _placed(piece: Piece, before: int) -> Piece:
    generation = piece.generation
    if generation is None:
        return replace(piece, choice=before + piece.choice) if before else piece
    placed: Generation = replace(generation, choice=before + generation.choice)
    if piece.choice:
        # The prompt was read for the first of its answers.
        placed = replace(placed, usage=Usage(0, generation.usage.completion_tokens, 0))
    return replace(piece, choice=placed.choice, generation=placed)


def text_of(tokenizer: Any, prompt: str | list[int]) -> str:
    """A prompt's text.

    Raises:
        APIError: the model does not know one of its token ids.
    """
    if isinstance(prompt, str):
        return prompt
    if tokenizer is None:
        raise APIError(400, "prompt: this model has no tokenizer: give text", "invalid_prompt", "prompt")
    if max(prompt) >= len(tokenizer):
        message = f"prompt: there is no token {max(prompt)}; the model knows 0 to {len(tokenizer) - 1}"
        raise APIError(400, message, "invalid_prompt", "prompt")
    text: str = tokenizer.decode(prompt)
    return text


def raw_calls(body: CompletionRequest, texts: Sequence[str], options: dict[str, Any]) -> list[Call]:
    """The calls that continue a request's prompts.

    Args:
        body: The request.
        texts: The prompts as text.
        options: What all calls have in common.
    """
    most, likeliest = body.most_tokens, body.likeliest
    options = {**options, "raw": True, "max_new_tokens": None if most is None else max(1, most)}
    if likeliest is not None:
        options["logprobs"] = likeliest
        if body.echo:
            options["prompt_logprobs"] = likeliest
            # Whoever only wants to know how likely a text is goes on from nothing.
            options["store"] = options["store"] and most != 0
    calls = []
    for prompt, text in zip(body.prompts, texts, strict=True):
        given = {} if isinstance(prompt, str) else {"prompt_ids": prompt}
        # A prompt that no text says still has its tokens.
        calls.append(Call([{"role": "user", "content": text}], {**options, **given}))
    return calls
