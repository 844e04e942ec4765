"""`semshare bench`: measure speed and fidelity."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from semshare_agents.cli.bench_tables import facts_line, pair_line, pairs_table, repair_table, retention_table
from semshare_agents.cli.common import (
    HomeOption,
    ModelOption,
    console,
    load_model,
    progress_bar,
    quiet_libraries,
    settings_of,
)
from semshare_agents.errors import ConfigurationError
from semshare_agents.values import Fidelity, Reuse

app = typer.Typer(help="Measure speed and fidelity of reuse.", no_args_is_help=True)

ABLATIONS = ("random-map", "no-rotation", "no-recompute", "zero-kv")

ReuseOption = Annotated[str, typer.Option(help="off, exact, moved or semantic.")]
TierOption = Annotated[str, typer.Option(help="Tier that serves the reference: memory or disk.")]
TokensOption = Annotated[int, typer.Option(min=1, help="Tokens of each answer.")]
RepeatOption = Annotated[int, typer.Option(min=1, help="Time each prefill so often and take the median.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")]


@app.command()
def make(
    file: Annotated[Path, typer.Argument(help="Where the pairs go, one JSON object a line.")],
    tokens: Annotated[str, typer.Option(help="About how long the prompts are.")] = "300,450,600,800,1000",
    each: Annotated[int, typer.Option(min=1, help="Pairs of each kind of change and length.")] = 1,
    seed: Annotated[int, typer.Option(help="Draws the texts.")] = 0,
) -> None:
    """Write made-up chats and what commonly changes in them from one turn to the next, as pairs for `bench pairs`."""
    from semshare_agents.bench.made import made_pairs

    made = list(made_pairs(_lengths(tokens), each, seed))
    try:
        file.write_text("".join(f"{json.dumps(pair, ensure_ascii=False)}\n" for pair in made), encoding="utf-8")
    except OSError as e:
        raise ConfigurationError(f"cannot write to {file} ({e.strerror}): give another path") from e
    console.print(f"wrote {len(made)} pairs to {file}")


@app.command()
def pairs(
    file: Annotated[Path, typer.Argument(help="Pairs, one JSON object a line.")],
    kind: Annotated[list[str] | None, typer.Option(help="Only kinds that begin with this; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most pairs of a kind.")] = None,
    reuse: ReuseOption = "semantic",
    tier: TierOption = "memory",
    ablate: Annotated[list[str] | None, typer.Option(help=f"Break on purpose: {', '.join(ABLATIONS)}.")] = None,
    max_new_tokens: TokensOption = 32,
    repeat: RepeatOption = 1,
    baseline: Annotated[bool, typer.Option("--baseline", help="Also answer from the reference's text.")] = False,
    fidelity: Annotated[str, typer.Option(help="auto, strict, balanced, fast or a mean KL in nats.")] = "auto",
    strategy: Annotated[str | None, typer.Option(help="Selection strategy of semantic rows.")] = None,
    semantic_share: Annotated[float | None, typer.Option(help="Share of semantic rows computed again.")] = None,
    kv_codec: Annotated[str | None, typer.Option(help="How stored KV is packed: raw, int8 or k5v4.")] = None,
    model: ModelOption = None,
    home: HomeOption = None,
    json_out: JsonOption = None,
) -> None:
    """Store each reference, then run its target cold and with reuse, and compare."""
    quiet_libraries()
    from semshare_agents.bench.pairs import PairsOptions, read_pairs, run_pairs

    unknown = set(ablate or ()) - set(ABLATIONS)
    if unknown:
        raise ConfigurationError(f"unknown ablation {', '.join(sorted(unknown))}; known: {', '.join(ABLATIONS)}")
    options = PairsOptions(
        tuple(kind or ()),
        limit,
        Reuse.parse(reuse),
        _tier(tier),
        frozenset(ablate or ()),
        max_new_tokens,
        repeat,
        baseline,
        Fidelity.parse(fidelity),
    )
    chosen = read_pairs(file, options.kinds, options.limit)
    settings = settings_of(model, home, strategy=strategy, semantic_share=semantic_share, kv_codec=kv_codec)
    loaded = load_model(settings)
    with progress_bar() as bar:
        task = bar.add_task("pairs", total=len(chosen))

        def done(row: dict[str, Any]) -> None:
            bar.advance(task)
            bar.console.print(pair_line(row))

        result = asyncio.run(run_pairs(chosen, loaded, settings, options, done))
    console.print(pairs_table(result["summary"]))
    for name, figures in result["summary"].items():
        if "facts" in figures:
            console.print(facts_line(name, figures["facts"]))
    _write(
        result,
        json_out,
        {
            "command": "pairs",
            "reuse": reuse,
            "tier": tier,
            "fidelity": fidelity,
            "ablate": sorted(options.ablations),
            "kv_codec": settings.kv_codec,
        },
    )


@app.command()
def window(
    file: Annotated[Path, typer.Argument(help='A JSON list of {"role", "content"} messages.')],
    turns: Annotated[int, typer.Option(min=1, help="Turns.")] = 20,
    lines: Annotated[int, typer.Option(min=1, help="Lines in the window.")] = 60,
    step: Annotated[int, typer.Option(min=1, help="Lines dropped from one turn to the next.")] = 4,
    reuse: ReuseOption = "moved",
    tier: TierOption = "memory",
    max_new_tokens: TokensOption = 32,
    repeat: RepeatOption = 1,
    repair: Annotated[bool, typer.Option(help="Repair each turn in the idle time before the next.")] = True,
    model: ModelOption = None,
    home: HomeOption = None,
    json_out: JsonOption = None,
) -> None:
    """Replay a conversation through a sliding window; every turn is stored and reused by the next."""
    quiet_libraries()
    from semshare_agents.bench.pairs import PairsOptions
    from semshare_agents.bench.window import read_lines, run_window, windows

    prompts = windows(*read_lines(file), turns, lines, step)
    options = PairsOptions(reuse=Reuse.parse(reuse), tier=_tier(tier), max_new_tokens=max_new_tokens, repeat=repeat)
    settings = settings_of(model, home, repair_idle=repair)
    loaded = load_model(settings)
    with progress_bar() as bar:
        task = bar.add_task("turns", total=len(prompts))

        def done(row: dict[str, Any]) -> None:
            bar.advance(task)
            bar.console.print(pair_line({"id": f"turn {row['turn']}", "kind": "window", **row}))

        result = asyncio.run(run_window(prompts, loaded, settings, options, done))
    console.print_json(data=result["summary"])
    what = {"command": "window", "turns": turns, "lines": lines, "step": step, "reuse": reuse, "repair": repair}
    _write(result, json_out, what)


@app.command()
def frontier(
    file: Annotated[Path, typer.Argument(help="Pairs, one JSON object a line.")],
    kind: Annotated[list[str] | None, typer.Option(help="Only kinds that begin with this; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most pairs of a kind.")] = None,
    strategies: Annotated[str, typer.Option(help="Lines to draw, separated by commas; default: all.")] = "",
    shares: Annotated[str, typer.Option(help="Shares of semantic rows computed again.")] = "0.01,0.03,0.1,0.25,0.5",
    ablations: Annotated[bool, typer.Option("--ablations", help="Also break one part at a time.")] = False,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Also run cold in bfloat16; slow on most CPUs.")] = False,
    max_new_tokens: TokensOption = 32,
    repeat: RepeatOption = 1,
    model: ModelOption = None,
    home: HomeOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the table, the figures as JSON and the plots.")] = Path(
        "frontier"
    ),
) -> None:
    """Sweep strategies and shares; draw speed-up against KL and agreement, with baselines and noise floor."""
    quiet_libraries()
    from semshare_agents.bench.configurations import ablated, chosen, default_configuration
    from semshare_agents.bench.frontier import FrontierOptions, frontier_table, run_frontier
    from semshare_agents.bench.frontier_plot import draw_frontier
    from semshare_agents.bench.output import console_table, described, prepare_folder, write
    from semshare_agents.bench.pairs import PairsOptions, read_pairs
    from semshare_agents.bench.plots import require_matplotlib

    settings = settings_of(model, home)
    options = FrontierOptions(
        lines=tuple(chosen(_words(strategies))),
        shares=_numbers(shares),
        ablations=tuple(ablated(default_configuration(settings))) if ablations else (),
        ablation_share=settings.semantic_share,
        bfloat16=bfloat16,
        pairs=PairsOptions(max_new_tokens=max_new_tokens, repeat=repeat),
    )
    chosen_pairs = read_pairs(file, kind or (), limit)
    require_matplotlib()
    prepare_folder(out)
    loaded = load_model(settings)
    with progress_bar() as bar:
        task = bar.add_task("points", total=len(chosen_pairs) * len(options.points()))

        def done(row: dict[str, Any]) -> None:
            bar.advance(task)
            bar.console.print(pair_line({**row, "kind": f"{row['configuration']} {row['share']:g}"}))

        result = asyncio.run(run_frontier(chosen_pairs, loaded, settings, options, done))
    table = frontier_table(result["summary"])
    console.print(console_table("the frontier", table))
    if left_out := result["summary"]["left_out"]:
        console.print(f"left out, not reused alike by all: {', '.join(left_out)}")
    kinds = ", ".join(dict.fromkeys(pair["kind"] for pair in chosen_pairs))
    drawn = draw_frontier(result["summary"], f"{loaded.name} model: {kinds} ({described()})", out / "frontier")
    written = write(out / "frontier", {"command": "frontier", "kinds": kinds, **result}, table)
    console.print(f"written to {', '.join(str(path) for path in (*written, *drawn))}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in _words(text))
    except ValueError as e:
        raise ConfigurationError(f"tokens must be whole numbers separated by commas; got {text!r}") from e


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in _words(text))
    except ValueError as e:
        raise ConfigurationError(f"shares must be numbers separated by commas; got {text!r}") from e


@app.command()
def retention(
    file: Annotated[Path, typer.Argument(help="Pairs, one JSON object a line; their targets are the prompts.")],
    kind: Annotated[list[str] | None, typer.Option(help="Only kinds that begin with this; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most pairs of a kind.")] = None,
    policy: Annotated[list[str] | None, typer.Option(help="Retention policy; repeatable; default: all.")] = None,
    share: Annotated[list[float] | None, typer.Option(help="Share of KV kept; repeatable.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Keep it in 8 bits.")] = False,
    max_new_tokens: TokensOption = 32,
    model: ModelOption = None,
    home: HomeOption = None,
    json_out: JsonOption = None,
) -> None:
    """Decode on a part of each prompt's KV and compare with decoding on all of it."""
    quiet_libraries()
    from semshare_agents.bench.pairs import read_pairs
    from semshare_agents.bench.retention import Variant, run_retention
    from semshare_agents.retain import POLICIES, Retention

    variants = [Variant(Retention(p, s), int8) for p in policy or POLICIES for s in share or (0.58, 0.4)]
    chosen = read_pairs(file, tuple(kind or ()), limit)
    loaded = load_model(settings_of(model, home))
    with progress_bar() as bar:
        task = bar.add_task("answers", total=len(chosen) * len(variants))
        result = run_retention(chosen, loaded, variants, max_new_tokens, lambda _: bar.advance(task))
    console.print(retention_table(result["summary"]))
    _write(result, json_out, {"command": "retention"})


@app.command()
def repair(
    file: Annotated[Path, typer.Argument(help="Pairs, one JSON object a line.")],
    kind: Annotated[list[str] | None, typer.Option(help="Only kinds that begin with this; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most pairs of a kind.")] = None,
    rates: Annotated[
        str, typer.Option(help="Rows repaired with each step; auto: by the settings; 0: always.")
    ] = "0,16,32,64,auto",
    tokens: TokensOption = 64,
    reuse: ReuseOption = "semantic",
    model: ModelOption = None,
    home: HomeOption = None,
    json_out: JsonOption = None,
) -> None:
    """Decode along each target's cold answer while steps repair the prompt, and see the drift die out."""
    quiet_libraries()
    from semshare_agents.bench.pairs import read_pairs
    from semshare_agents.bench.repair import RepairOptions, parse_rates, run_repair

    options = RepairOptions(parse_rates(rates), tokens, Reuse.parse(reuse))
    chosen = read_pairs(file, kind or (), limit)
    settings = settings_of(model, home, repair_idle=False)
    loaded = load_model(settings)
    with progress_bar() as bar:
        task = bar.add_task("pairs", total=len(chosen))

        def done(row: dict[str, Any]) -> None:
            bar.advance(task)
            bar.console.print(f"{row['id']:<28} {row['kind']:<20} {row['n_tokens']:>5} tokens  {row['class']}")

        result = asyncio.run(run_repair(chosen, loaded, settings, options, done))
    console.print(repair_table(result["summary"]))
    _write(result, json_out, {"command": "repair", "reuse": reuse, "rates": options.rates, "tokens": tokens})


def _tier(word: str) -> str:
    if word not in ("memory", "disk"):
        raise ConfigurationError(f"tier must be memory or disk; got {word!r}")
    return word


def _write(result: dict[str, Any], out: Path | None, what: dict[str, Any]) -> None:
    from semshare_agents.bench.output import write_json

    if out is not None:
        write_json(out, {**what, **result})
        console.print(f"written to {out}")
