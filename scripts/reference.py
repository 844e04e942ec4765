"""Writes docs/configuration.md and docs/cli.md from the settings classes and the commands themselves.

usage: python scripts/reference.py [--check]    (--check writes nothing; status 1 where a file is not up to date)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from semshare_agents.cli.main import app
from semshare_agents.settings import ServerSettings, Settings
from semshare_agents.values import Reuse

DOCS = Path(__file__).resolve().parents[1] / "docs"
FIX = "python scripts/reference.py"
WRITTEN = f"Written by `{FIX}`; change `{{source}}` instead of this file.\n"
UNITS = {"GiB": 1024**3, "MiB": 1024**2, "KiB": 1024}

CONFIGURATION = """# Configuration

Every setting is a variable of the environment. In Python it is the name in lower case without the prefix:
`SEMSHARE_MEMORY_BYTES=1073741824` is `SemShareLLM.open(memory_bytes=1024**3)`, which wins over the environment. A value
that is not allowed is an error.

{written}
## The memory
{memory}

## `semshare serve`
{server}
"""

COMMANDS = """# Commands

`semshare --help` and `semshare COMMAND --help` say the same. All commands read the settings of
[configuration.md](configuration.md); an option wins over its setting. Errors are one line and status 2.

{written}
{commands}
"""


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


# --- settings


def settings_table(kind: type[BaseSettings]) -> str:
    """One line a setting."""
    prefix = kind.model_config.get("env_prefix", "")
    rows = [
        (f"`{prefix}{name.upper()}`", default(field), allowed(field), field.description or "")
        for name, field in kind.model_fields.items()
    ]
    return table(("variable", "default", "allowed", "meaning"), rows)


def default(field: FieldInfo) -> str:
    """A default as one would give it in the environment, sizes also in their unit."""
    value = field.default
    if field.default_factory is not None or value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int):
        for unit, size in UNITS.items():
            if value >= size and value % size == 0:
                return f"`{value}` ({value // size} {unit})"
    return f"`{value}`"


def allowed(field: FieldInfo) -> str:
    """Which values a setting takes, where its type or bounds say so."""
    if field.annotation is bool:
        return "`true`, `false`"
    if field.annotation is Reuse:
        return ", ".join(f"`{word}`" for word in Reuse)
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    said = []
    for rule in field.metadata:
        if pattern := getattr(rule, "pattern", None):
            return ", ".join(f"`{word}`" for word in pattern.strip("^$()").split("|"))
        said += [f"{signs[name]} {getattr(rule, name):g}" for name in signs if getattr(rule, name, None) is not None]
    return ", ".join(said)


# --- commands


def commands(command: Any, path: str) -> Iterator[str]:
    """A section for each command, below that of its group."""
    context = typer.Context(command, info_name=path)
    children = getattr(command, "commands", {})
    records = [param.get_help_record(context) for param in command.params if param.name != "help"]
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    parts = [f"## `{path}`", command.help or "", f"```text\n{usage}\n```" if records or not children else ""]
    rows = [(f"`{record[0]}`", record[1]) for record in records if record is not None]
    parts.append(table(("argument or option", "meaning"), rows) if rows else "")
    yield "\n\n".join(part.strip() for part in parts if part)
    for name, child in children.items():
        yield from commands(child, f"{path} {name}")


def pages() -> dict[Path, str]:
    """What the files should say."""
    told = WRITTEN.format(source="semshare_agents/settings.py")
    configuration = CONFIGURATION.format(
        written=told, memory=settings_table(Settings), server=settings_table(ServerSettings)
    )
    told = WRITTEN.format(source="semshare_agents/cli/")
    group: Any = typer.main.get_command(app)
    listed = [section for name, command in group.commands.items() for section in commands(command, f"semshare {name}")]
    return {
        DOCS / "configuration.md": configuration,
        DOCS / "cli.md": COMMANDS.format(written=told, commands="\n\n".join(listed)),
    }


def main() -> int:
    """Write the files, or say which are not up to date."""
    stale = [path for path, text in pages().items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        if "--check" in sys.argv:
            print(f"docs/{path.name} is not up to date: run `{FIX}` and commit it")
        else:
            path.write_text(pages()[path])
            print(f"wrote docs/{path.name}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
