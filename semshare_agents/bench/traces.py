"""Traces of who asked what when: read from files, taken from a registry's history, or drawn at random."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from semshare_agents.errors import ConfigurationError
from semshare_agents.values import Ints

if TYPE_CHECKING:
    from semshare_agents.registry import Registry


@dataclass(frozen=True)
class Visit:
    """A turn of a trace.

    Attributes:
        at: When, in seconds.
        tenant: Whose.
        session: Conversation; empty for a stateless call.
        prompt_tokens: Tokens of the prompt.
        tokens: Tokens of prompt and answer.
        blocks: Names of its whole blocks; equal names are equal text after equal text.
    """

    at: float
    tenant: str
    session: str
    prompt_tokens: int
    tokens: int
    blocks: tuple[str, ...]


def block_names(tenant: str, tokens: Ints, block_tokens: int) -> tuple[str, ...]:
    """Names of the whole blocks of token ids, shape `(tokens,)`, each made of all that comes before its end."""
    digest, names = blake2b(tenant.encode(), digest_size=12), []
    for end in range(block_tokens, len(tokens) + 1, block_tokens):
        digest.update(tokens[end - block_tokens : end].astype("<i8").tobytes())
        names.append(digest.copy().hexdigest())
    return tuple(names)


def read_trace(file: Path, block_tokens: int) -> list[Visit]:
    """A trace from a file of one JSON object a line, ordered by time.

    Raises:
        ConfigurationError: the file cannot be read or is no trace.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigurationError(f"the trace {file} cannot be read: {e}") from e
    visits = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            visit = Visit(
                float(row["at"]),
                str(row.get("tenant") or ""),
                str(row.get("session") or ""),
                int(row["prompt_tokens"]),
                int(row["tokens"]),
                tuple(str(name) for name in row["blocks"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise ConfigurationError(f"{file}, line {number}: no turn of a trace ({e!r})") from e
        if not 0 < visit.prompt_tokens <= visit.tokens or len(visit.blocks) != visit.tokens // block_tokens:
            raise ConfigurationError(
                f"{file}, line {number}: {visit.tokens} tokens, {visit.prompt_tokens} of them the prompt's, "
                f"and {len(visit.blocks)} whole blocks of {block_tokens} do not agree"
            )
        visits.append(visit)
    if not visits:
        raise ConfigurationError(f"the trace {file} is empty")
    return sorted(visits, key=lambda v: v.at)


async def past(registry: Registry, block_tokens: int) -> list[Visit]:
    """A registry's own history. Turns count with all tokens they ever had, also where their KV was evicted since.

    Raises:
        ConfigurationError: no turns are stored.
    """
    visits = []
    for row in await registry.past_turns():
        scope, tokens = str(row.scope_id), row.tokens
        if len(tokens):
            session = "" if row.session_id is None else str(row.session_id)
            asked, names = min(row.prompt_tokens, len(tokens)), block_names(scope, tokens, block_tokens)
            visits.append(Visit(row.at, scope, session, asked, len(tokens), names))
    if not visits:
        raise ConfigurationError("no turns are stored: give a trace, `semshare evict trace` draws one")
    return sorted(visits, key=lambda v: v.at)


def write_trace(visits: Iterable[Visit], file: Path) -> None:
    """Write a trace as `read_trace` reads it."""
    file.write_text("".join(json.dumps(asdict(visit), separators=(",", ":")) + "\n" for visit in visits))


@dataclass(frozen=True)
class Mix:
    """A random trace of many conversations.

    Bursts of turns begin as a Poisson process. A burst is a user's, drawn by Zipf's law, who goes on with the last
    conversation or begins one; or it is a stateless call. Conversations and calls begin with one of a few system
    prompts, drawn by Zipf's law too. Sizes and pauses are log-normal.

    Attributes:
        bursts: Bursts in all.
        users: Users.
        zipf: Exponent of Zipf's law for users.
        burst_turns: Mean turns of a burst, geometric.
        arrival_seconds: Mean time between beginnings of bursts.
        pause_seconds: Median pause between turns of a burst.
        stateless: Share of bursts that are one stateless call.
        anew: Share of a user's bursts that begin a conversation.
        prompts: System prompts.
        context_tokens: A conversation that would be longer ends.
        block_tokens: Tokens of a block.
    """

    bursts: int = 1000
    users: int = 400
    zipf: float = 1.0
    burst_turns: float = 4.0
    arrival_seconds: float = 5.0
    pause_seconds: float = 45.0
    stateless: float = 0.3
    anew: float = 0.1
    prompts: int = 8
    context_tokens: int = 8192
    block_tokens: int = 64


@dataclass
class _Talk:
    session: str
    tokens: Ints
    free_at: float = 0.0


@dataclass
class _Draws:
    """Random sizes, texts and choices."""

    seed: int
    mix: Mix
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def text(self, median_tokens: int, sigma: float, most_tokens: int) -> Ints:
        drawn = int(np.clip(self.rng.lognormal(np.log(median_tokens), sigma), 5, most_tokens))
        return self.rng.integers(0, 2**31, drawn)

    def message(self) -> Ints:
        """One in ten has a document in it."""
        return self.text(1200, 0.7, 4000) if self.rng.random() < 0.1 else self.text(60, 0.8, 500)

    def answer(self) -> Ints:
        return self.text(150, 0.7, 1000)

    def zipf(self, count: int, exponent: float) -> int:
        weights = 1.0 / np.arange(1, count + 1) ** exponent
        return int(self.rng.choice(count, p=weights / weights.sum()))


def draw_trace(mix: Mix, seed: int) -> list[Visit]:
    """A random trace; the same seed gives the same."""
    return list(heapq.merge(*_bursts(mix, _Draws(seed, mix)), key=lambda v: v.at))


def _bursts(mix: Mix, draws: _Draws) -> Iterator[list[Visit]]:
    prompts = [draws.text(600, 0.6, 3000) for _ in range(mix.prompts)]
    talks: dict[int, _Talk] = {}
    at = 0.0
    for number in range(mix.bursts):
        at += draws.rng.exponential(mix.arrival_seconds)
        if draws.rng.random() < mix.stateless:
            opening = prompts[draws.zipf(mix.prompts, 1.0)]
            yield [_visit(mix, at, "", np.r_[opening, draws.text(400, 1.0, 4000)], draws.answer())[0]]
            continue
        user = draws.zipf(mix.users, mix.zipf)
        talk = talks.get(user)
        if talk is None or draws.rng.random() < mix.anew:
            talk = talks[user] = _Talk(f"u{user}-{number}", prompts[draws.zipf(mix.prompts, 1.0)])
        yield list(_turns(mix, draws, talk, max(at, talk.free_at)))
        if len(talk.tokens) > mix.context_tokens - 1000:
            del talks[user]


def _turns(mix: Mix, draws: _Draws, talk: _Talk, at: float) -> Iterator[Visit]:
    for _ in range(draws.rng.geometric(1.0 / mix.burst_turns)):
        prompt = np.r_[talk.tokens, draws.message()]
        if len(prompt) > mix.context_tokens - 1000:
            return
        visit, talk.tokens = _visit(mix, at, talk.session, prompt, draws.answer())
        yield visit
        at += draws.rng.lognormal(np.log(mix.pause_seconds), 0.8)
        talk.free_at = at


def _visit(mix: Mix, at: float, session: str, prompt: Ints, answer: Ints) -> tuple[Visit, Ints]:
    tokens = np.r_[prompt, answer]
    names = block_names("", tokens, mix.block_tokens)
    return Visit(at, "", session, len(prompt), len(tokens), names), tokens
