"""A replay's figures from made-up timings, and its order, on scripted servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from semshare_agents.bench.made import Message
from semshare_agents.bench.serve import WARM_UP, Ended, TurnFigures, replay, summarise
from semshare_agents.errors import ConfigurationError


def figures(first: float = 1.0, gap: float = 0.0, completion: int | None = 4, **reused: int) -> TurnFigures:
    return TurnFigures(0, 0, first, first + 1, gap, 100, completion, reused)


def test_a_turn_from_its_moments() -> None:
    row = TurnFigures.of(3, 1, 10.0, [10.5, 10.6, 11.4, 11.5], 12.0, Ended(50, 4, {"exact": 50}))
    assert (row.session, row.turn, row.prompt_tokens, row.completion_tokens) == (3, 1, 50, 4)
    assert row.ttft_seconds == pytest.approx(0.5)
    assert row.turn_seconds == pytest.approx(2.0)
    assert row.gap_seconds == pytest.approx(0.8)
    assert row.reused == {"exact": 50}


def test_an_answer_without_text_has_its_end_as_first_token() -> None:
    row = TurnFigures.of(0, 0, 1.0, [], 3.0, Ended())
    assert (row.ttft_seconds, row.turn_seconds, row.gap_seconds) == (2.0, 2.0, 0.0)
    assert TurnFigures.of(0, 0, 1.0, [2.0], 3.0, Ended()).gap_seconds == 0.0


def test_a_summary_of_made_up_turns() -> None:
    rows = [figures(float(n), gap=n / 10, exact=n, computed=1) for n in range(1, 22)]
    summary = summarise(rows, wall_seconds=42.0)
    assert summary["turns"] == 21
    assert summary["ttft_seconds_median"] == 11.0
    assert summary["ttft_seconds_p95"] == 20.0
    assert summary["turn_seconds_median"] == 12.0
    assert summary["gap_seconds_longest"] == pytest.approx(2.1)
    assert (summary["prompt_tokens"], summary["completion_tokens"]) == (2100, 84)
    assert summary["tokens_per_second"] == pytest.approx(2.0)
    assert summary["reused"] == {"exact": sum(range(1, 22)), "computed": 21}


def test_what_a_server_does_not_count_is_not_made_up() -> None:
    summary = summarise([figures(), figures(completion=None)], wall_seconds=1.0)
    assert summary["completion_tokens"] is None
    assert summary["tokens_per_second"] is None
    assert summary["reused"] == {}


class Scripted:
    """Answers when all of a number of callers wait for it."""

    def __init__(self, together: int, refused: str = "") -> None:
        self.asked: list[str] = []
        self._barrier = asyncio.Barrier(together)
        self._refused = refused
        self.ended = 0

    async def ask(self, messages: Sequence[Message], tokens: int) -> AsyncGenerator[str | Ended]:
        text = messages[0]["content"]
        try:
            if text != WARM_UP[0]["content"]:
                if text == self._refused:
                    raise ConfigurationError(f"{text} is refused")
                self.asked.append(text)
                await self._barrier.wait()
            yield "a"
            yield ""
            yield "b"
            yield Ended(10, tokens, {"exact": 7, "computed": 3})
        finally:
            self.ended += 1


def asked(*texts: str) -> list[list[Message]]:
    return [[{"role": "user", "content": text}] for text in texts]


async def test_sessions_go_on_at_once_and_their_turns_one_by_one() -> None:
    server = Scripted(together=3)
    sessions = [asked("a0", "a1"), asked("b0", "b1"), asked("c0", "c1")]
    result = await asyncio.wait_for(replay(server, sessions, 5), 10)
    assert sorted(server.asked[:3]) == ["a0", "b0", "c0"]
    assert sorted(server.asked[3:]) == ["a1", "b1", "c1"]
    assert sorted((row["session"], row["turn"]) for row in result["rows"]) == [(s, t) for s in range(3) for t in (0, 1)]
    assert all(row["completion_tokens"] == 5 for row in result["rows"])
    assert result["summary"]["reused"] == {"exact": 42, "computed": 18}


async def test_what_is_refused_ends_all_with_its_own_error() -> None:
    server = Scripted(together=3, refused="b0")
    with pytest.raises(ConfigurationError, match="b0 is refused"):
        await asyncio.wait_for(replay(server, [asked("a0"), asked("b0")], 5), 10)
    assert server.ended == 3, "the answer that waited was ended"
