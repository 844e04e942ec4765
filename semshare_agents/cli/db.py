"""`semshare db`: the registry's schema version."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from semshare_agents.cli.common import HomeOption, console, settings_of
from semshare_agents.cli.presence import alone_at
from semshare_agents.errors import ConfigurationError

app = typer.Typer(help="Look after the registry database.", no_args_is_help=True)

UrlOption = Annotated[str | None, typer.Option("--database-url", help="The database; default: the setting.")]


@app.command("upgrade")
def upgrade(home: HomeOption = None, database_url: UrlOption = None) -> None:
    """Bring the registry database to this version's schema, all or nothing; makes it where there is none."""
    from semshare_agents.registry import schema
    from semshare_agents.registry.tables import SCHEMA_VERSION

    settings = settings_of(home=home, database_url=database_url)
    with alone_at(settings.home) as alone:
        if not alone:
            raise ConfigurationError(f"another process uses {settings.home}: end it, then run `semshare db upgrade`")
        before = asyncio.run(schema.migrate(settings.registry_url, settings.database_timeout_seconds))
    if before == SCHEMA_VERSION:
        console.print(f"schema version {SCHEMA_VERSION}: nothing to do")
    elif before:
        console.print(f"schema version {before} -> {SCHEMA_VERSION}")
    else:
        console.print(f"made a registry of schema version {SCHEMA_VERSION}")
