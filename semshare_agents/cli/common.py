"""What commands share: settings, the model behind a spinner, tables."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from semshare_agents.settings import Settings, load_settings

if TYPE_CHECKING:
    from semshare_agents.model.loading import LoadedModel

console = Console()

ModelOption = Annotated[str | None, typer.Option("--model", help="'default', a folder, a .gguf file or a hub id.")]
HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of models, database and KV files.")]


def settings_of(model: str | None = None, home: Path | None = None, **more: Any) -> Settings:
    """Settings from the environment with a command's options on top."""
    return load_settings(model=model, home=home, **more)


def quiet_libraries() -> None:
    """Keep the libraries' own bars and notices out of ours."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("semshare_agents").setLevel(logging.ERROR)


@contextmanager
def waiting(what: str) -> Iterator[Any]:
    """A spinner whose text can be changed: yields a function that takes the new text."""
    with console.status(what) as status:
        yield lambda text: status.update(text)


def load_model(settings: Settings) -> LoadedModel:
    """Load the model of the settings behind a spinner."""
    from semshare_agents.model.loading import load

    with waiting("loading the model") as tell:
        return load(settings.model, settings.home, settings.device, settings.dtype, tell, settings.reorder_weights)


def progress_bar() -> Progress:
    """The bar of everything that takes more than two seconds."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
