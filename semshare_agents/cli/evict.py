"""`semshare evict`: choosing an eviction policy."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from semshare_agents.cli.common import HomeOption, console, settings_of
from semshare_agents.errors import ConfigurationError

if TYPE_CHECKING:
    from semshare_agents.bench.traces import Visit
    from semshare_agents.reuse.speeds import Speeds
    from semshare_agents.settings import Settings

app = typer.Typer(help="Choose an eviction policy.", no_args_is_help=True)

TOKEN_BYTES = 46080
DEFAULT_SPEEDS = {
    "pass_seconds": 0.02,
    "row_seconds": 0.003,
    "pair_seconds": 1e-6,
    "cold_row_seconds": 0.003,
    "cold_pair_seconds": 1e-6,
    "load_bytes_per_second": 3e9,
}


@app.command()
def trace(
    file: Annotated[Path, typer.Argument(help="Where it goes, one JSON object a line.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same trace.")] = 0,
    bursts: Annotated[int, typer.Option(min=1, help="Bursts of turns in all.")] = 1000,
    users: Annotated[int, typer.Option(min=1, help="Users, drawn by Zipf's law.")] = 400,
    zipf: Annotated[float, typer.Option(min=0.0, help="Exponent of Zipf's law.")] = 1.0,
    burst_turns: Annotated[float, typer.Option(min=1.0, help="Mean turns of a burst.")] = 4.0,
    arrival_seconds: Annotated[float, typer.Option(min=0.001, help="Mean time between bursts.")] = 5.0,
    stateless: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of bursts that are one call.")] = 0.3,
    prompts: Annotated[int, typer.Option(min=1, help="System prompts that conversations share.")] = 8,
) -> None:
    """Draw a random trace of many conversations, for `semshare evict simulate`."""
    from semshare_agents.bench.traces import Mix, draw_trace, write_trace

    mix = Mix(bursts, users, zipf, burst_turns, arrival_seconds, stateless=stateless, prompts=prompts)
    visits = draw_trace(mix, seed)
    write_trace(visits, file)
    console.print(f"{len(visits)} turns over {visits[-1].at / 3600:.1f} hours in {file}")


@app.command()
def simulate(
    file: Annotated[Path | None, typer.Argument(help="A trace; default: this registry's own history.")] = None,
    budget: Annotated[str, typer.Option(help="Bytes, or a share of all bytes such as 20%.")] = "20%",
    policy: Annotated[list[str] | None, typer.Option(help="Only this policy; repeatable.")] = None,
    reuse: Annotated[
        str, typer.Option(help="exact: hits end at the first gap; moved: they go on behind it.")
    ] = "exact",
    token_bytes: Annotated[
        int | None, typer.Option(min=1, help="KV bytes of a token; default: as stored, or the default model's.")
    ] = None,
    row_seconds: Annotated[float | None, typer.Option(min=0.0, help="Prefill of a token without attention.")] = None,
    pair_seconds: Annotated[float | None, typer.Option(min=0.0, help="One token seeing one token.")] = None,
    load_bytes_per_second: Annotated[float | None, typer.Option(min=1.0, help="Speed of loading KV.")] = None,
    ttl_seconds: Annotated[float, typer.Option(min=0.001, help="Of policy ttl.")] = 3600.0,
    plot: Annotated[Path | None, typer.Option(help="Draw to this path, as .png and .svg.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    home: HomeOption = None,
) -> None:
    """Replay a trace under every policy: hit share, seconds saved, bytes evicted.

    Speeds come from the options, else from what was measured in the home folder, else they are typical of a 135M model
    on two cores. `clairvoyant` knows the rest of the trace: what the best possible policy would save.
    """
    from semshare_agents.bench.eviction import CLAIRVOYANT, Setup, all_bytes, draw_outcomes
    from semshare_agents.bench.eviction import simulate as replay
    from semshare_agents.bench.traces import read_trace
    from semshare_agents.evict import POLICIES
    from semshare_agents.reuse.cost import CostModel

    if reuse not in ("exact", "moved"):
        raise ConfigurationError(f"reuse {reuse!r} cannot be replayed: exact or moved")
    settings = settings_of(home=home)
    speeds, source = _speeds(settings.home)
    speeds = replace(
        speeds,
        cold_row_seconds=speeds.cold_row_seconds if row_seconds is None else row_seconds,
        cold_pair_seconds=speeds.cold_pair_seconds if pair_seconds is None else pair_seconds,
        load_bytes_per_second=load_bytes_per_second or speeds.load_bytes_per_second,
    )
    if file is None:
        visits, stored = asyncio.run(_history(settings))
    else:
        visits, stored = read_trace(file, settings.block_tokens), None
    each = token_bytes or round(stored or TOKEN_BYTES)
    setup = Setup(CostModel(speeds, each), each, settings.block_tokens, reuse == "moved", ttl_seconds)
    total = all_bytes(visits, setup)
    allowed = _bytes(budget, total)
    names = policy or [*sorted(POLICIES), CLAIRVOYANT]
    outcomes = [replay(visits, name, allowed, setup) for name in names]
    unlimited = replace(replay(visits, "lru", total, setup), policy="no limit")
    table = Table("policy", "hit %", "seconds saved", "of cold %", "evicted MiB")
    for o in [*outcomes, unlimited]:
        share = 100 * o.saved_seconds / max(o.cold_seconds, 1e-9)
        table.add_row(
            o.policy, f"{100 * o.hit_share:.1f}", f"{o.saved_seconds:.1f}", f"{share:.1f}", f"{o.evicted_bytes >> 20}"
        )
    console.print(table)
    console.print(
        f"{len(visits)} turns, budget {allowed / 2**20:.0f} of {total / 2**20:.0f} MiB, reuse {reuse}; {source}: "
        f"{speeds.cold_row_seconds:.3g} s a token, {speeds.cold_pair_seconds:.3g} s a pair, "
        f"{speeds.load_bytes_per_second:.3g} bytes/s"
    )
    if plot is not None:
        title = f"{len(visits)} turns, budget {100 * allowed / max(total, 1):.0f} % of all KV, reuse {reuse}"
        draw_outcomes(outcomes, unlimited, title, plot)
    if json_out is not None:
        json_out.write_text(json.dumps([vars(o) for o in [*outcomes, unlimited]], indent=1))


def _bytes(budget: str, total: int) -> int:
    try:
        wanted = float(budget[:-1]) / 100 * total if budget.endswith("%") else float(budget)
    except ValueError:
        wanted = 0.0
    if not 0 < wanted < float("inf"):
        raise ConfigurationError(f"budget {budget!r} is neither a number of bytes nor a share such as 20%")
    return int(wanted)


def _speeds(home: Path) -> tuple[Speeds, str]:
    """The speeds measured last in a home folder, or typical ones; and which they are."""
    from semshare_agents.reuse.speeds import Speeds, all_kept

    measured = all_kept(home)
    return (
        (measured[-1][2].speeds, "speeds measured here") if measured else (Speeds(**DEFAULT_SPEEDS), "typical speeds")
    )


async def _history(settings: Settings) -> tuple[list[Visit], float | None]:
    """A registry's past, and KV bytes of a stored token."""
    from semshare_agents.bench.traces import past
    from semshare_agents.cli.inspect import open_registry

    async with open_registry(settings) as registry:
        return await past(registry, settings.block_tokens), await registry.token_bytes()
