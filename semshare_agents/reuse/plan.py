"""Plan: which rows of a prompt are computed, and whether that beats a cold prefill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from semshare_agents.reuse.cost import CostModel
from semshare_agents.reuse.look import OBSERVATION_TOKENS, look_among_moved, look_at_moved
from semshare_agents.reuse.strategies import Candidates, Choice, SelectionStrategy
from semshare_agents.values import Alignment, Ints, Kind, Look, Plan, Reason, ReasonCode
from semshare_agents.values.reason import NOTHING_STORED, joined, not_served

COHERENT_TOKENS = 64
"""How far back in a prompt a moved span looks for semantic matches that it goes on from."""
DRIFTED_HEADS = 3
"""Heads are so many times longer where the donor is approximate itself: drift must not add up from turn to turn."""
SEEN_TOKENS = 128
"""A moved span whose donor had the same so many tokens before it, word for word, needs no head."""
SINK_TOKENS = 4
"""The first tokens of a prompt are attention sinks (Xiao et al., ICLR 2024): never approximate."""


@dataclass(frozen=True)
class PlanSettings:
    """The settings that shape a plan; see `semshare_agents.settings.Settings`."""

    head_tokens: int
    tail_tokens: int
    semantic_share: float
    look_share: float
    look_late: bool
    min_gain: float
    moved_share: float = 0.0
    """Share of moved rows computed before the first token, as a look chooses; with 1 only exact text is reused."""
    may_hurry: bool = True
    """Whether the answer's first tokens may carry what is left, until the turn is exact."""
    hurried: bool = False
    """Whether they do."""
    certain: bool = False
    """Whether near ties are computed to the end; see `semshare_agents.reuse.certain`."""


def cold_plan(tokens: int, reason: Reason | None, predicted_seconds: float = 0.0) -> Plan:
    """Everything is computed."""
    rows = np.arange(tokens)
    return Plan(
        rows, True, reason, predicted_seconds=predicted_seconds, predicted_cold_seconds=predicted_seconds, required=rows
    )


def make_plan(
    alignment: Alignment,
    settings: PlanSettings,
    strategy: SelectionStrategy,
    cost: CostModel,
    layers: int,
    on_disk: Callable[[str], bool],
) -> Plan:
    """Choose rows and predict what they take.

    Computed are: unmatched and invalidated tokens, the head of each moved span that goes on from other text
    (its KV saw other text there, EPIC's finding), the prompt's tail, and the strategy's choice of semantic matches; in
    a second pass, before the first token or beside the next ones, what the prompt's end attends to, of the spans whose
    KV lacks much that precedes them here.

    Args:
        alignment: What was found.
        settings: Shares and sizes.
        strategy: Chooses among semantic matches.
        cost: Predicts times.
        layers: Layers of the model.
        on_disk: Whether a block would have to come from disk.
    """
    tokens = len(alignment)
    cold_seconds = cost.cold_seconds(tokens)
    if not (alignment.kind != Kind.COMPUTED).any():
        return cold_plan(tokens, alignment.refused or NOTHING_STORED, cold_seconds)
    required = required_rows(alignment, settings.head_tokens, settings.tail_tokens)
    if settings.moved_share >= 1.0:
        required |= alignment.kind == Kind.MOVED
    free = np.flatnonzero((alignment.kind == Kind.SEMANTIC) & ~required)
    asked = alignment.asked if len(alignment.asked) else np.zeros(tokens, np.float32)
    candidates = Candidates(free, alignment.distance[free], asked[free])
    choice = strategy.choose(candidates, settings.semantic_share, layers)
    wanted = required.copy()
    wanted[choice.rows] = True
    rows = np.flatnonzero(wanted)
    loaded = (alignment.kind != Kind.COMPUTED) & (np.ones(tokens, bool) if choice.layer_shares else ~wanted)
    share = layer_share(choice, len(candidates), len(rows), layers)
    looks = _looks(alignment, settings, rows)
    seconds = cost.reuse_seconds(rows, share, int(loaded.sum()), _disk_tokens(alignment, loaded, on_disk))
    seconds += sum(cost.pass_seconds(_typical(look, tokens)) for look in looks if not look.late)
    if seconds * settings.min_gain > cold_seconds:
        dearer = f"reuse would take {seconds:.2f} s, a cold prefill {cold_seconds:.2f} s"
        why = joined(alignment.refused, Reason(ReasonCode.COLD_IS_FASTER, dearer))
        return cold_plan(tokens, why, cold_seconds)
    return Plan(
        rows=rows,
        cold=False,
        predicted_seconds=seconds,
        predicted_cold_seconds=cold_seconds,
        layer_shares=choice.layer_shares,
        check_layer=choice.check_layer,
        required=np.flatnonzero(required),
        looks=looks,
        hurried=settings.hurried,
    )


def _looks(alignment: Alignment, settings: PlanSettings, rows: Ints) -> tuple[Look, ...]:
    """What the prompt's end looks at, of a plan that computes `rows` anyway."""
    if 0 < settings.moved_share < 1:
        early = look_among_moved(alignment, settings.moved_share, rows)
        return () if early is None else (early,)
    if settings.hurried or settings.look_share <= 0:
        return ()
    look = look_at_moved(alignment, settings.look_share, rows)
    return () if look is None else (replace(look, late=settings.look_late),)


def _typical(look: Look, tokens: int) -> Ints:
    """Rows that cost about what a look's choice and the prompt's end will."""
    spread = np.linspace(0, len(look.candidates) - 1, look.rows).astype(np.int64)
    return np.concatenate((look.candidates[spread], np.full(OBSERVATION_TOKENS, tokens - 1)))


def required_rows(alignment: Alignment, head_tokens: int, tail_tokens: int) -> NDArray[np.bool_]:
    """Rows that every strategy computes in every layer, as a mask of shape `(tokens,)`."""
    tokens = len(alignment)
    required: NDArray[np.bool_] = np.equal(alignment.kind, Kind.COMPUTED)
    required[max(0, tokens - tail_tokens) :] = True
    required[alignment.invalidated] = True
    required[:SINK_TOKENS] |= alignment.kind[:SINK_TOKENS] != Kind.EXACT
    for start, end in alignment.runs():
        if alignment.kind[start] == Kind.MOVED and not _goes_on(alignment, start):
            drifted = alignment.donors[alignment.donor[start]].depth > 0
            head = head_tokens * (DRIFTED_HEADS if drifted else 1)
            required[start : min(end, start + head)] = True
    return required


def _goes_on(alignment: Alignment, start: int) -> bool:
    """Whether a span's KV saw, in its donor, what precedes it here."""
    if start == 0:
        return bool(alignment.source[0] == 0)
    before = start - 1
    if alignment.kind[before] == Kind.EXACT:
        # After an exact prefix, a donor at its own place saw just this prefix.
        donor = alignment.donors[alignment.donor[start]]
        other = alignment.donors[alignment.donor[before]]
        at_home = alignment.source[start] == start
        return bool(at_home and np.array_equal(donor.tokens[:start], other.tokens[:start]))
    if _same_before(alignment, start):
        return True
    # Inside reworded text of the same donor, what precedes is much what the donor had.
    near = np.flatnonzero(alignment.kind[max(0, start - COHERENT_TOKENS) : start] == Kind.SEMANTIC)
    if not len(near):
        return False
    last = max(0, start - COHERENT_TOKENS) + int(near[-1])
    step = int(alignment.source[start] - alignment.source[last])
    return bool(alignment.donor[start] == alignment.donor[last] and 0 < step <= 2 * COHERENT_TOKENS)


def _same_before(alignment: Alignment, start: int) -> bool:
    """Whether the same text, word for word, precedes a span here and in its donor, whoever's KV the one here is."""
    source, before = int(alignment.source[start]), np.arange(start - SEEN_TOKENS, start)
    if min(start, source) < SEEN_TOKENS or not np.isin(alignment.kind[before], (Kind.EXACT, Kind.MOVED)).all():
        return False
    theirs = alignment.donors[alignment.donor[start]].tokens[source - SEEN_TOKENS : source]
    ours = [alignment.donors[alignment.donor[i]].tokens[alignment.source[i]] for i in before]
    return bool(np.array_equal(ours, theirs))


def layer_share(choice: Choice, candidates: int, rows: int, layers: int) -> float:
    """Computed row-layers over `rows` in all layers."""
    if not choice.layer_shares or not rows:
        return 1.0
    fixed = rows - candidates
    computed = sum(fixed + round(share * candidates) for share in choice.layer_shares)
    return computed / (rows * layers)


def _disk_tokens(alignment: Alignment, loaded: NDArray[np.bool_], on_disk: Callable[[str], bool]) -> int:
    total = 0
    for index, donor in enumerate(alignment.donors):
        sources = alignment.source[loaded & (alignment.donor == index)]
        for block in donor.blocks:
            inside = int(((sources >= block.start) & (sources < block.start + block.length)).sum())
            if inside and on_disk(block.key):
                total += inside
    return total


def without(alignment: Alignment, missing: set[str]) -> Alignment:
    """The alignment when some blocks cannot be served: their tokens are computed, and exactness ends there."""
    kind, donor, source = alignment.kind.copy(), alignment.donor.copy(), alignment.source.copy()
    for index, who in enumerate(alignment.donors):
        for block in who.blocks:
            if block.key in missing:
                inside = (donor == index) & (source >= block.start) & (source < block.start + block.length)
                kind[inside], donor[inside], source[inside] = Kind.COMPUTED, -1, -1
    lost = kind.max(initial=0) < alignment.kind.max(initial=0)
    why = not_served(len(missing)) if lost else None
    return replace(alignment, kind=kind, donor=donor, source=source, refused=alignment.refused or why)


def used_rows(plan: Plan, alignment: Alignment) -> Ints:
    """Prompt positions whose KV is loaded: matched ones, less those computed in every layer."""
    needed = alignment.kind != Kind.COMPUTED
    if not plan.layer_shares:
        needed[plan.rows] = False
    else:
        needed[plan.required] = False
    return np.flatnonzero(needed)
