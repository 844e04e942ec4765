"""`semshare speeds`: what this machine measured, how far that can be trusted and what follows from it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from semshare_agents.cli.common import HomeOption, ModelOption, console, quiet_libraries, settings_of, waiting
from semshare_agents.cli.inspect import JsonOption
from semshare_agents.errors import ConfigurationError

if TYPE_CHECKING:
    from semshare_agents.reuse.speeds import Measurement
    from semshare_agents.settings import Settings


def speeds(
    measure: Annotated[
        bool, typer.Option("--measure", help="Load the model and measure now; best while nothing else runs.")
    ] = False,
    model: ModelOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the speeds measured here, their date, their quality and from which length on reuse pays."""
    from semshare_agents.reuse.cost import figures
    from semshare_agents.reuse.speeds import all_kept

    settings = settings_of(model=model, home=home)
    if measure:
        quiet_libraries()
        _measure(settings)
    known = all_kept(settings.home)
    rows = [{"fingerprint": f, "setting": s, **figures(m, settings.min_gain)} for f, s, m in known[::-1]]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        console.print("nothing is measured yet: the first start does it, or `semshare speeds --measure`")
    for row in rows:
        console.print(_table(row))


def _measure(settings: Settings) -> None:
    from semshare_agents.model.loading import load
    from semshare_agents.reuse import speeds as kept
    from semshare_agents.reuse.measure import measure, setting_of

    with waiting("loading the model") as tell:
        if settings.threads is not None:
            import torch

            torch.set_num_threads(settings.threads)
        loaded = load(
            settings.model, settings.home, settings.device, settings.dtype, reorder_weights=settings.reorder_weights
        )
        rows = loaded.support.rows
        if rows is None:
            raise ConfigurationError(f"this model's KV cannot be reused, no speed matters: {loaded.support.reason}")
        tell("measuring")
        found = replace(measure(rows, loaded.context_tokens), model=loaded.name)
    path, setting = kept.path_of(settings.home, loaded.fingerprint), setting_of(rows)
    before: Measurement | None = kept.kept(path, setting)
    if before is not None:
        learned = before.disk_bytes_per_second
        found = replace(found, disk_bytes_per_second=learned, colds=(*before.colds, *found.colds))
    kept.keep(path, setting, found)


def _table(row: dict[str, Any]) -> Table:
    table = Table(title=f"{row['model'] or row['fingerprint'][:12]}, {row['setting']}", title_justify="left")
    table.add_column("what")
    table.add_column("figure", overflow="fold")
    when = datetime.fromtimestamp(row["at"], UTC).astimezone().strftime("%d %b %Y %H:%M")
    load = "" if row["load"] is None else f", load {row['load']:.2f} a processor"
    waited = f"threads waited {100 * row['delayed']:.0f} % of the time"
    spread = f"passes took {row['spread']:.2f} times their fastest"
    colour = "green" if row["quality"] == "quiet" else "yellow"
    table.add_row("measured", f"{when}, {row['rounds']} rounds")
    table.add_row("quality", f"[{colour}]{row['quality']}[/]: {spread}, {waited}{load}")
    s = row["speeds"]
    table.add_row("a pass over one row", f"{1000 * (s['pass_seconds'] + s['row_seconds']):.1f} ms")
    table.add_row("a row, of few and of a full prefill", f"{_ms(s['row_seconds'])}, {_ms(s['cold_row_seconds'])}")
    table.add_row("a row seeing 1,000 tokens", _ms(1000 * s["pair_seconds"]))
    table.add_row("KV from RAM", f"{s['load_bytes_per_second'] / 1e9:.1f} GB/s")
    disk = row["disk_bytes_per_second"]
    table.add_row("KV from disk", "nothing was loaded yet" if disk is None else f"{disk / 1e9:.2f} GB/s, learned")
    shortest, longest = row["cold_tokens"]
    table.add_row("full prefills measured", f"{row['colds']}, {shortest:,} to {longest:,} tokens")
    for tokens, (cold, again) in row["predicted_seconds"].items():
        table.add_row(f"{int(tokens):,} tokens", f"cold {cold:.2f} s, with {row['new_tokens']} new ones {again:.2f} s")
    enough = row["break_even_tokens"]
    pays = "at no length" if enough is None else f"from {enough:,} tokens on"
    table.add_row("next turns are reused", pays)
    return table


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
