"""`semshare turns show` and `export`: the reuse map of one turn, in the terminal and as an HTML file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from semshare_agents.cli.common import HomeOption, console, quiet_libraries, settings_of
from semshare_agents.errors import ConfigurationError, ModelError

if TYPE_CHECKING:
    from semshare_agents.observe.reuse_map import TurnMap
    from semshare_agents.settings import Settings

STYLES = {
    "exact": "black on sky_blue2",
    "moved": "black on orange1",
    "semantic": "black on plum2",
    "computed": "default",
}

TurnArgument = Annotated[int, typer.Argument(min=1, metavar="ID", help="The turn, as `semshare turns` lists it.")]


def show(turn: TurnArgument, home: HomeOption = None) -> None:
    """Show where every token of a turn's prompt came from."""
    found = _found(turn, home)
    row, report = found.row, found.report
    console.print(
        f"turn {row.id}, {row.session or 'no session'}, {row.reuse_class}: first piece after {row.ttft_seconds:.3f} s, "
        f"{_saved(report.get('saved'))}",
        highlight=False,
        markup=False,
    )
    if report["reason"]:
        console.print(f"why not more: {report['reason']}", highlight=False, markup=False)
    key = Text()
    for kind, style in STYLES.items():
        key.append(f" {kind} {report['tokens'].get(kind, 0):,} ", style).append("  ")
    console.print(key)
    if not found.runs:
        console.print("this turn was stored without a map")
        return
    text = Text()
    for run in found.runs:
        text.append(_printable("".join(run.texts)), STYLES[run.name])
    console.print(text)
    for run in found.runs:
        if run.span.donor_turn is not None:
            console.print(run.told, style="dim", highlight=False, markup=False)


def export(
    turn: TurnArgument,
    out: Annotated[Path | None, typer.Option(help="The file; default: turn-ID.html.")] = None,
    home: HomeOption = None,
) -> None:
    """Write a turn's reuse map as one HTML file that needs no other."""
    from semshare_agents.observe.export import exported

    path = out or Path(f"turn-{turn}.html")
    try:
        path.write_text(exported(_found(turn, home)), encoding="utf-8")
    except OSError as e:
        raise ConfigurationError(f"{path} cannot be written: {e}") from e
    console.print(str(path), highlight=False, markup=False, soft_wrap=True)


def _saved(saved: dict[str, float] | None) -> str:
    if saved is None:
        return "saved: unknown, no full prefill of like length was measured"
    between = f"{saved['low']:+.3f} to {saved['high']:+.3f}"
    return f"saved {saved['seconds']:+.3f} s, {between} by {saved['runs']} full prefills"


def _printable(text: str) -> str:
    """Without the control characters that a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def _found(turn: int, home: Path | None) -> TurnMap:
    from semshare_agents.observe.reuse_map import turn_map

    settings = settings_of(home=home)
    row, tokens = asyncio.run(_turn(settings, turn))
    quiet_libraries()
    return turn_map(row, tokens, _tokenizer(row.model, settings.home))


async def _turn(settings: Settings, turn: int) -> tuple[Any, Any]:
    from semshare_agents.cli.inspect import open_registry

    async with open_registry(settings) as registry:
        found = await registry.turn(turn)
    if found is None:
        raise ConfigurationError(f"there is no turn {turn}: `semshare turns` lists them")
    return found


def _tokenizer(model: str, home: Path) -> Any | None:
    """The tokenizer of the model that a turn was stored by; None where it is not at hand any more."""
    from transformers import AutoTokenizer

    from semshare_agents.model.hub import resolve

    try:
        return AutoTokenizer.from_pretrained(resolve(model, home), local_files_only=True)
    except (ModelError, OSError, ValueError, KeyError):
        return None
