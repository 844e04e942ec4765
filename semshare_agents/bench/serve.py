"""`semshare bench serve`: chats replayed over many sessions at once, against this adapter or any server.

A replay is the same for whatever is measured: a prompt holds the scripted answers of the turns before, not what the
model said to them. All sessions go on at once; each one's next turn comes when its last answer has ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from semshare_agents.bench.made import Message
from semshare_agents.llm import SemShareLLM

WARM_UP = [{"role": "user", "content": " ".join(map(str, range(256)))}]
"""The first forward of a process pays for allocations that no later one does."""
WARM_UP_TOKENS = 4


@dataclass(frozen=True)
class Ended:
    """What is known of an answer at its end.

    Attributes:
        prompt_tokens: Tokens of the prompt; None where the server does not say.
        completion_tokens: Tokens generated; None where the server does not say.
        reused: Tokens of the prompt by kind, as far as the server says.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reused: Mapping[str, int] = field(default_factory=dict)


class Target(Protocol):
    """What is measured."""

    def ask(self, messages: Sequence[Message], tokens: int) -> AsyncGenerator[str | Ended]:
        """A greedy answer of at most so many tokens: pieces of its text as they come, then how it ended."""


class Adapter:
    """This adapter, in this process."""

    def __init__(self, llm: SemShareLLM):
        self._llm = llm

    async def ask(self, messages: Sequence[Message], tokens: int) -> AsyncGenerator[str | Ended]:
        """See `Target`."""
        async with aclosing(self._llm.stream(messages, max_new_tokens=tokens, temperature=0.0)) as pieces:
            async for piece in pieces:
                yield piece.text
                if piece.generation is not None:
                    usage, report = piece.generation.usage, piece.generation.report
                    yield Ended(usage.prompt_tokens, usage.completion_tokens, dict(report.tokens))


@dataclass(frozen=True)
class TurnFigures:
    """How a turn went.

    Attributes:
        session: Whose turn.
        turn: Which of the session's.
        ttft_seconds: To the first piece of text; of an answer without text, to its end.
        turn_seconds: To the end.
        gap_seconds: The longest between two pieces of text; 0.0 with fewer than two.
        prompt_tokens: See `Ended`.
        completion_tokens: See `Ended`.
        reused: See `Ended`.
    """

    session: int
    turn: int
    ttft_seconds: float
    turn_seconds: float
    gap_seconds: float
    prompt_tokens: int | None
    completion_tokens: int | None
    reused: Mapping[str, int]

    @classmethod
    def of(
        cls, session: int, turn: int, begun: float, pieces: Sequence[float], done: float, ended: Ended
    ) -> TurnFigures:
        """From the moments, in seconds of one clock, of the call, of its pieces of text and of its end."""
        first = pieces[0] if pieces else done
        gap = max((later - earlier for earlier, later in pairwise(pieces)), default=0.0)
        known = (ended.prompt_tokens, ended.completion_tokens, ended.reused)
        return cls(session, turn, first - begun, done - begun, gap, *known)


async def replay(
    target: Target,
    sessions: Sequence[Sequence[Sequence[Message]]],
    answer_tokens: int,
    done: Callable[[TurnFigures], None] = lambda _: None,
) -> dict[str, Any]:
    """Ask every session's prompts, one after the other, of all sessions at once.

    Args:
        target: What is measured; a short prompt, which is not counted, warms it up.
        sessions: Each session's prompts.
        answer_tokens: Most tokens of an answer.
        done: Called with each finished turn.

    Returns:
        `rows`, one a turn in the order in which they ended, and `summary`.

    Raises:
        ConfigurationError: a server cannot be reached or refuses a prompt; the other sessions are ended.
        SemShareError: the adapter refuses a prompt; the same.
    """
    await _turn(target, WARM_UP, WARM_UP_TOKENS, 0, 0)
    rows: list[TurnFigures] = []

    async def chat(session: int) -> None:
        for turn, messages in enumerate(sessions[session]):
            rows.append(await _turn(target, messages, answer_tokens, session, turn))
            done(rows[-1])

    begun = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for session in range(len(sessions)):
                group.create_task(chat(session))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed.exceptions[0].__cause__
    wall = time.perf_counter() - begun
    return {"rows": [asdict(row) for row in rows], "summary": summarise(rows, wall)}


async def _turn(
    target: Target, messages: Sequence[Message], answer_tokens: int, session: int, turn: int
) -> TurnFigures:
    moments: list[float] = []
    ended, begun = Ended(), time.perf_counter()
    async with aclosing(target.ask(messages, answer_tokens)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Ended):
                ended = piece
            elif piece:
                moments.append(time.perf_counter())
    return TurnFigures.of(session, turn, begun, moments, time.perf_counter(), ended)


def summarise(rows: Sequence[TurnFigures], wall_seconds: float) -> dict[str, Any]:
    """Figures of a whole replay; None where the server did not count its tokens."""
    first = [row.ttft_seconds for row in rows]
    completion = _total([row.completion_tokens for row in rows])
    kinds = dict.fromkeys(kind for row in rows for kind in row.reused)
    return {
        "turns": len(rows),
        "ttft_seconds_median": float(np.median(first)),
        "ttft_seconds_p95": float(np.percentile(first, 95)),
        "turn_seconds_median": float(np.median([row.turn_seconds for row in rows])),
        "gap_seconds_longest": max(row.gap_seconds for row in rows),
        "wall_seconds": wall_seconds,
        "prompt_tokens": _total([row.prompt_tokens for row in rows]),
        "completion_tokens": completion,
        "tokens_per_second": None if completion is None else completion / wall_seconds,
        "reused": {kind: sum(row.reused.get(kind, 0) for row in rows) for kind in kinds},
    }


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
