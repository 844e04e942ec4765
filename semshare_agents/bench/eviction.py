"""Replay a trace under eviction policies: what each would have saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from semshare_agents.bench.clairvoyant import Clairvoyant
from semshare_agents.bench.traces import Visit
from semshare_agents.evict import Entry, EvictionPolicy, PolicyOptions, make_policy
from semshare_agents.kv.layout import KV
from semshare_agents.kv.packing import Packed
from semshare_agents.reuse.cost import CostModel
from semshare_agents.store import BlockInfo, BlockStore, Tier
from semshare_agents.store.holds import Leases
from semshare_agents.store.loaded import Owner

CLAIRVOYANT = "clairvoyant"
"""The name, in replays only, of the policy that knows the rest of the trace."""
HEAD_TOKENS = 32
"""Rows computed again where reuse goes on behind a gap, as the setting `head_tokens` has it."""


class PaperStore(BlockStore):
    """Keeps nothing: the books alone are of interest."""

    name = "paper"

    def put(self, info: BlockInfo, kv: KV | Packed) -> int:
        """Nothing is kept."""
        return 0

    def get_packed(self, info: BlockInfo) -> Packed | None:
        """Nothing is there."""
        return None

    def delete(self, key: str) -> None:
        """Nothing is there."""

    def entries(self) -> Iterator[tuple[str, int]]:
        """Nothing is there."""
        return iter(())


@dataclass(frozen=True)
class Setup:
    """What a trace is replayed with.

    Attributes:
        cost: Speeds of the machine, and bytes of a token.
        token_bytes: KV bytes of a token.
        block_tokens: Tokens of a block.
        moved: Whether blocks count behind a gap, less the head that is computed again.
        ttl_seconds: Of policy `ttl`.
    """

    cost: CostModel
    token_bytes: int
    block_tokens: int = 64
    moved: bool = False
    ttl_seconds: float = 3600.0

    @property
    def block_bytes(self) -> int:
        """KV bytes of a block."""
        return self.token_bytes * self.block_tokens


@dataclass(frozen=True)
class Outcome:
    """What a policy would have made of a trace.

    Attributes:
        policy: Its name.
        hit_tokens: Prompt tokens whose KV was there and of use.
        prompt_tokens: All prompt tokens.
        saved_seconds: What computing the hits would have taken longer than loading them.
        cold_seconds: What all prompts take with nothing stored.
        evicted_bytes: Bytes that had to go.
    """

    policy: str
    hit_tokens: int
    prompt_tokens: int
    saved_seconds: float
    cold_seconds: float
    evicted_bytes: int

    @property
    def hit_share(self) -> float:
        """Share of prompt tokens that hit."""
        return self.hit_tokens / self.prompt_tokens


def all_bytes(trace: Sequence[Visit], setup: Setup) -> int:
    """What a memory without limits would hold at the end."""
    return len({name for visit in trace for name in visit.blocks}) * setup.block_bytes


def simulate(trace: Sequence[Visit], policy: str, budget_bytes: int, setup: Setup) -> Outcome:
    """Replay a trace through one tier with a policy and a budget.

    A turn's hits are read, then what it lacks is stored and the rest used again, deepest first, as a turn does. Blocks
    that are not whole are neither stored nor hit.

    Args:
        trace: Turns in the order of their times.
        policy: Its name, or `CLAIRVOYANT`.
        budget_bytes: Of the tier.
        setup: What the trace is replayed with.

    Raises:
        ConfigurationError: there is no such policy.
    """
    now = 0.0
    chosen: EvictionPolicy
    if policy == CLAIRVOYANT:
        chosen = Clairvoyant(trace, setup.block_tokens)
    else:
        chosen = make_policy(policy, PolicyOptions(setup.ttl_seconds, setup.moved))
    tier = Tier(PaperStore(), max(budget_bytes, 1), chosen, Leases(), clock=lambda: now)
    size, hit, saved = setup.block_tokens, 0, 0.0
    for visit in trace:
        now = visit.at
        tier.sweep()
        use = Owner(visit.tenant, visit.session).use(now)
        asked = visit.blocks[: visit.prompt_tokens // size]
        read, tokens, seconds = _hits(asked, tier.__contains__, setup)
        hit, saved = hit + tokens, saved + seconds
        tier.touch([asked[i] for i in reversed(read)], use)
        used = {asked[i] for i in read}
        for index in range(len(visit.blocks) - 1, -1, -1):
            key, depth = visit.blocks[index], index * size
            if key in used:
                tier.touch([key], use)
            else:
                worth = setup.cost.block_seconds(depth, size, setup.block_bytes)
                tier.reserve(Entry(key, setup.block_bytes, depth, size, visit.tenant, worth), use)
                tier.commit(key)
                assert tier.used_bytes <= tier.budget_bytes
        tier.let_go.clear()
    return Outcome(
        policy,
        hit,
        sum(visit.prompt_tokens for visit in trace),
        saved,
        sum(setup.cost.cold_seconds(visit.prompt_tokens) for visit in trace),
        sum(tier.evicted_bytes.values()),
    )


def _hits(asked: Sequence[str], there: Callable[[str], bool], setup: Setup) -> tuple[list[int], int, float]:
    """Which blocks of a prompt are of use, their tokens that need not be computed, and what that saves."""
    size, read, tokens, seconds, behind = setup.block_tokens, [], 0, 0.0, False
    for index, key in enumerate(asked):
        if not there(key):
            behind = True
            if not setup.moved:
                break
            continue
        head = min(HEAD_TOKENS, size) if behind else 0
        behind = False
        read.append(index)
        tokens += size - head
        seconds += setup.cost.block_seconds(index * size + head, size - head, setup.block_bytes)
    return read, tokens, seconds


def draw_outcomes(outcomes: Sequence[Outcome], unlimited: Outcome, title: str, base: Path) -> list[Path]:
    """Draw seconds saved and hit share of each policy as `base`.png and `base`.svg.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    from semshare_agents.bench.plots import COLOURS, GREY, require_matplotlib, save

    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    names = [outcome.policy for outcome in outcomes]
    parts = (
        ([o.saved_seconds for o in outcomes], unlimited.saved_seconds, "seconds saved"),
        ([100 * o.hit_share for o in outcomes], 100 * unlimited.hit_share, "prompt tokens that hit, %"),
    )
    for place, (values, most, label) in enumerate(parts, 1):
        ax = figure.add_subplot(1, 2, place)
        bars = ax.barh(names, values, color=COLOURS[place - 1])
        ax.bar_label(bars, fmt="%.3g", padding=3)
        ax.axvline(most, color=GREY, linestyle="--", linewidth=1.0, label="no limit")
        ax.set_xlim(0, 1.15 * most)
        ax.set_xlabel(label)
        ax.invert_yaxis()
        ax.legend(frameon=False, loc="lower right")
        ax.spines[["top", "right"]].set_visible(False)
    return save(figure, base)
