"""`semshare doctor`: checks with advice."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from semshare_agents.cli.common import HomeOption, ModelOption, console, quiet_libraries, settings_of, waiting
from semshare_agents.cli.inspect import JsonOption

if TYPE_CHECKING:
    from semshare_agents.doctor import Check
    from semshare_agents.settings import Settings

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def doctor(
    model: ModelOption = None,
    home: HomeOption = None,
    load_model: Annotated[
        bool, typer.Option("--load-model/--no-model", help="Load the model: its checks, tier speeds, the self-test.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Check settings, versions, permissions, space, registry, model, tiers and reuse; status 1 where one failed."""
    from semshare_agents.doctor import State, worst

    quiet_libraries()
    checks = asyncio.run(_checks(settings_of(model=model, home=home), load_model, as_json))
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=1))
    if worst(checks) is State.FAILED:
        raise typer.Exit(1)


async def _checks(settings: Settings, load_model: bool, quiet: bool) -> list[Check]:
    from semshare_agents.doctor import examine

    checks = []
    if quiet:
        return [check async for check in examine(settings, load_model)]
    with waiting("examining"):
        async for check in examine(settings, load_model):
            checks.append(check)
            colour = COLOURS[check.state]
            console.print(f"[{colour}]{check.state:<8}[/] [bold]{check.name}[/]: ", end="")
            console.print(check.found, markup=False, highlight=False, soft_wrap=True)
            if check.advice:
                console.print(f"         -> {check.advice}", markup=False, highlight=False, soft_wrap=True)
    return checks
