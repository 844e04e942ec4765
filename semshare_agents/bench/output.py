"""Where figures go: one JSON file with everything, one Markdown table, the same table on the console."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from semshare_agents.bench.machine import machine, provenance
from semshare_agents.errors import ConfigurationError

Rows = Sequence[dict[str, str]]
"""A table: each row by column title, all rows with the same titles."""


def prepare_folder(folder: Path) -> None:
    """Make the folder before anything is measured.

    Raises:
        ConfigurationError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigurationError(f"cannot write to {folder}: {e}") from e


def described() -> str:
    """Processor and threads in a few words, for titles."""
    where = machine()
    name = where["device"] if torch.cuda.is_available() else where["processor"]
    threads = where["torch_threads"]
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def markdown(rows: Rows) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    titles = list(rows[0])
    rule = ["---", *["---:"] * (len(titles) - 1)]
    lines = [titles, rule, *[list(row.values()) for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def console_table(title: str, rows: Rows) -> Table:
    """The same for the console."""
    table = Table(title=title)
    for number, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row.values())
    return table


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write figures with machine, versions and commit.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    text = json.dumps({**result, **provenance()}, indent=1, ensure_ascii=False)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise ConfigurationError(f"cannot write to {path} ({e.strerror}): give another path") from e


def write(base: Path, result: dict[str, Any], rows: Rows) -> list[Path]:
    """Write `base`.json (result, machine, versions, commit) and `base`.md (the table); returns both paths."""
    figures, table = base.with_suffix(".json"), base.with_suffix(".md")
    write_json(figures, result)
    table.write_text(markdown(rows), encoding="utf-8")
    return [figures, table]
