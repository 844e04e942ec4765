"""`semshare forget`: remove a turn, a session or a tenant."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from semshare_agents.cli.common import HomeOption, console, settings_of
from semshare_agents.cli.inspect import open_registry
from semshare_agents.errors import ConfigurationError

if TYPE_CHECKING:
    from semshare_agents.registry import Forgotten
    from semshare_agents.settings import Settings


def forget(
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Whose; alone: all of it. Default: the setting.")
    ] = None,
    session: Annotated[str | None, typer.Option("--session", help="This session.")] = None,
    turn: Annotated[
        int | None, typer.Option("--turn", min=1, help="This turn; `semshare turns` has its number.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: HomeOption = None,
) -> None:
    """Remove a turn, a session or a tenant: text, names and KV; turns that go on from what is removed go too."""
    if (tenant is None and session is None and turn is None) or (session is not None and turn is not None):
        raise ConfigurationError("say what to forget: --turn N, --session NAME or, for all of a tenant, --tenant alone")
    settings = settings_of(home=home)
    whose = settings.tenant if tenant is None else tenant
    what = f"turn {turn}" if turn is not None else f"session {session}" if session is not None else "everything"
    if not yes:
        typer.confirm(f"Forget {what} of tenant {whose}? It cannot be brought back.", abort=True)
    found = asyncio.run(_forget(settings, whose, session, turn))
    console.print(f"forgot {len(found.turn_ids)} turns and {len(found.keys)} blocks")


async def _forget(settings: Settings, tenant: str, session: str | None, turn: int | None) -> Forgotten:
    from semshare_agents.keys import names_key
    from semshare_agents.store.disk import DiskStore

    key = await asyncio.to_thread(names_key, settings.home, settings.names_key)
    async with open_registry(settings, names_key=key, pools=settings.pools) as registry:
        found = await registry.forget(tenant, session=session, turn_id=turn)
        store = await asyncio.to_thread(DiskStore, settings.kv_dir)
        for block in found.keys:
            await asyncio.to_thread(store.delete, block)
        await registry.erase()
    return found
