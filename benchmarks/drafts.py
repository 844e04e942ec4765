"""How much faster are answers decoded with drafts than without, on what agents repeat and on free text?

Every answer is decoded twice on one adapter, without and with drafts in turn, from the first piece to the last; only
the second is remembered. Answers of the first three kinds are scripted: whatever the model would say, the script's
tokens are drawn, so that drafts meet what an agent's trace repeats and not what a small model makes of it. Those of
the other two are the model's own. `gain` is by the clock; `busy`, with its range, by what processors worked, which
other work on the machine disturbs less.

    calls     an agent's tool calls, each with names, places and days of its own
    repeated  the calls and answers of a chat, again in another session that begins with another time
    quotes    sentences of a tool's result, word for word
    own       the model's greedy answers to questions that were asked in another session before
    free      sampled answers to questions that have nothing in common

    python benchmarks/drafts.py [--kinds KIND ...] [--answers 8] [--tokens 64] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import ended, sentences

from semshare_agents.bench.chats import ChatOptions, Mode, made_chats, prompts
from semshare_agents.bench.made import Writer
from semshare_agents.bench.output import console_table
from semshare_agents.bench.pairs import fresh_memory
from semshare_agents.cli.common import console, quiet_libraries
from semshare_agents.constrain.constraint import Constraint
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import load
from semshare_agents.request.output import OutputControl
from semshare_agents.request.request import Request
from semshare_agents.settings import load_settings
from semshare_agents.timing.clock import Clock
from semshare_agents.turn import Pipeline
from semshare_agents.values import Generation, Reuse, Sampling

KINDS = ("calls", "repeated", "quotes", "own", "free")
HISTORY = 6
SEED = 5


@dataclass(frozen=True)
class Asked:
    """A question, and its scripted answer; None where the model says what it likes."""

    messages: Sequence[dict[str, str]]
    answer: str | None = None
    sampling: Sampling = field(default_factory=Sampling)


class Scripted:
    """A constraint under which a script's tokens are drawn; see `semshare_agents.constrain.constraint.Constraint`."""

    complete = False

    def __init__(self, tokens: Sequence[int]):
        self._left = list(tokens)

    def narrow(self, logits: torch.Tensor) -> torch.Tensor:
        """The next token's logits alone."""
        allowed = torch.full_like(logits, -torch.inf)
        allowed[self._left[0]] = 0.0
        return allowed

    def accept(self, token: int) -> None:
        """Go on."""
        assert token == self._left.pop(0)

    def possible(self, tokens: Sequence[int]) -> int:
        """Nothing is told of the script."""
        return len(tokens)


class Script(OutputControl):
    """Holds every answer to a text."""

    def __init__(self, whole: OutputControl, tokens: Sequence[int]):
        self.__dict__.update(vars(whole))
        self._tokens = tokens

    def constraint(self, *_: Any) -> Constraint:
        """The script."""
        return Scripted(self._tokens)


def asked(kind: str, answers: int) -> Iterator[tuple[bool, Asked]]:
    """What is asked, and whether it is measured or only remembered."""
    if kind == "free":
        for number in range(answers):
            text = Writer(SEED + number).text(40)
            yield (
                True,
                Asked([_user(f"{text}\n\nGo on with this story.")], None, Sampling(temperature=1.0, seed=number)),
            )
        return
    # Every other round of a made-up chat is a call, so two chats give as many calls, or results, as are wanted.
    options = ChatOptions(mode=Mode.CLOCK, sessions=2, turns=answers, history=HISTORY, seed=SEED)
    first, other = made_chats(options)
    again = kind in ("repeated", "own")
    chats = [(not again, first, 0), (True, first if again else other, 1)]
    for measured, chat, session in chats:
        for turn, messages in enumerate(prompts(chat, options, session)):
            said = chat.rounds[HISTORY // 2 + turn]
            if kind == "quotes" and said.has_result:
                yield measured, Asked(messages, _quoted(messages[-1]["content"], turn))
            elif (kind == "calls" and not said.has_result) or kind == "repeated":
                yield measured, Asked(messages, said.answer)
            elif kind == "own":
                yield measured, Asked(messages)


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _quoted(text: str, seed: int) -> str:
    """Two sentences of a text that stand together, with some words before them."""
    said = sentences(text.partition("\n")[2])
    at = random.Random(seed).randrange(max(1, len(said) - 1))
    return f"The notes say: {''.join(said[at : at + 2]).strip()}"


async def decoded(pipeline: Pipeline, what: Asked, tokens: int, store: bool) -> tuple[Generation, float, float]:
    """An answer, and the seconds between its first and last piece: those of a clock, and those of processors."""
    sampling = replace(what.sampling, max_new_tokens=tokens)
    request = Request(what.messages, "default", Reuse.MOVED, sampling, store=store)
    if what.answer is not None:
        said = pipeline.model.tokenizer.encode(what.answer, add_special_tokens=False)
        script = Script(pipeline.output, [*said, min(pipeline.model.end_tokens)])
        pipeline = replace(pipeline, output=script)
    times: list[tuple[float, float]] = []
    async with aclosing(pipeline.stream(request, Clock())) as pieces:
        async for piece in pieces:
            if piece.generation is None:
                times.append((time.perf_counter(), time.process_time()))
            else:
                generation = piece.generation
    return generation, times[-1][0] - times[0][0], times[-1][1] - times[0][1]


async def measure(llm: SemShareLLM, kind: str, answers: int, tokens: int) -> list[dict[str, Any]]:
    """Each answer without and with drafts."""
    drafting = llm.pipeline
    plain = replace(drafting, decoding=replace(drafting.decoding, drafts=None))
    rows = []
    for measured, what in asked(kind, answers):
        if not measured:
            await decoded(drafting, what, tokens, store=True)
            continue
        without, before, busy_before = await decoded(plain, what, tokens, store=False)
        found, after, busy_after = await decoded(drafting, what, tokens, store=True)
        await llm.settle()
        assert found.tokens == without.tokens, "drafts changed an answer"
        if len(found.tokens) < 8:
            continue  # too short to be timed
        counts = {"drafted": found.report.drafted_tokens, "accepted": found.report.accepted_tokens}
        seconds = {"without_s": before, "with_s": after, "without_busy_s": busy_before, "with_busy_s": busy_after}
        rows.append({"kind": kind, "tokens": len(found.tokens) - 1, **seconds, **counts})
    return rows


def summed(kind: str, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """A line of the table."""
    gains = [row["without_s"] / row["with_s"] for row in rows]
    busy = [row["without_busy_s"] / row["with_busy_s"] for row in rows]
    without, with_drafts = (median(row["tokens"] / row[side] for row in rows) for side in ("without_s", "with_s"))
    tokens, accepted = (sum(row[name] for row in rows) for name in ("tokens", "accepted"))
    return {
        "kind": kind,
        "tokens": f"{tokens} of {len(rows)}",
        "a second": f"{without:.1f}",
        "drafting": f"{with_drafts:.1f}",
        "gain": f"{median(gains):.2f}",
        "busy": f"{median(busy):.2f} ({min(busy):.2f}-{max(busy):.2f})",
        "accepted": f"{accepted / tokens:.0%}",
        "drafted": str(sum(row["drafted"] for row in rows)),
    }


async def run(given: argparse.Namespace) -> None:
    settings = load_settings(model=given.model, home=given.home)
    model = load(settings.model, settings.home, settings.device, settings.dtype)
    table, every = [], []
    for kind in given.kinds:
        # Each kind has a memory of its own: nothing is drafted from another one's answers.
        async with fresh_memory(model, settings) as llm:
            await decoded(llm.pipeline, Asked([_user("Hello.")]), 16, store=False)
            rows = await measure(llm, kind, given.answers, given.tokens)
        table.append(summed(kind, rows))
        every += rows
        console.print(console_table("Decoding with drafts beside without", table))
    if given.json:
        given.json.write_text(json.dumps(every, indent=1))


def main() -> None:
    quiet_libraries()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--answers", type=int, default=8, help="answers of each kind")
    parser.add_argument("--tokens", type=int, default=64, help="longest answer")
    parser.add_argument("--model", default=None)
    parser.add_argument("--home", type=Path, default=None)
    parser.add_argument("--json", type=Path, help="write every answer's figures here")
    given = parser.parse_args()
    asyncio.run(run(given))


if __name__ == "__main__":
    ended(main)
