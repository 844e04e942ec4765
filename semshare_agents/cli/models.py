"""`semshare models`: the models on this machine."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from semshare_agents.cli.common import HomeOption, console, quiet_libraries, settings_of

app = typer.Typer(help="Fetch and list models.", no_args_is_help=True)


@app.command()
def pull(home: HomeOption = None) -> None:
    """Fetch the default model and convert it, once; afterwards nothing needs the network."""
    from semshare_agents.model.hub import pull_default

    quiet_libraries()
    settings = settings_of(home=home)
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("looking for the default model", total=None)
        folder = pull_default(settings.home, lambda line: progress.update(task, description=line))
        progress.update(task, description="the default model is ready", total=1, completed=1)
    console.print(str(folder), soft_wrap=True, highlight=False, markup=False)


@app.command("list")
def list_models(home: HomeOption = None) -> None:
    """List the models that were fetched or converted."""
    from semshare_agents.model.hub import models_dir

    folder = models_dir(settings_of(home=home).home)
    models = sorted(p.parent for p in folder.glob("*/config.json"))
    if not models:
        console.print(f"no models in {folder} yet: run `semshare models pull`", soft_wrap=True, highlight=False)
        return
    table = Table()
    table.add_column("model", overflow="fold")
    table.add_column("MB", justify="right")
    for model in models:
        table.add_row(model.name, f"{_bytes(model) / 1e6:.0f}")
    console.print(table)


def _bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
