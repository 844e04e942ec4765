"""`semshare forget`: remove a turn, a session or a tenant."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from semshare_agents.cli.common import HomeOption, console, settings_of
from semshare_agents.cli.inspect import MIB, open_registry
from semshare_agents.errors import ConfigurationError, NotStoredError

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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    home: HomeOption = None,
) -> None:
    """Remove a turn, a session or a tenant: text, names and KV; turns that go on from what is removed go too."""
    if (tenant is None and session is None and turn is None) or (session is not None and turn is not None):
        raise ConfigurationError("say what to forget: --turn N, --session NAME or, for all of a tenant, --tenant alone")
    settings = settings_of(home=home)
    whose = settings.tenant if tenant is None else tenant
    what = f"turn {turn}" if turn is not None else f"session {session}" if session is not None else "everything"
    if dry_run or not yes:
        for line in told(asyncio.run(_forget(settings, whose, session, turn, dry_run=True))):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if dry_run:
        return
    if not yes:
        typer.confirm(f"Forget {what} of tenant {whose}? It cannot be brought back.", abort=True)
    found = asyncio.run(_forget(settings, whose, session, turn))
    size = f"{found.size_bytes / MIB:.1f} MiB"
    console.print(f"forgot {_many(len(found.turn_ids), 'turn')} and {_many(len(found.keys), 'block')} ({size})")


def told(found: Forgotten) -> list[str]:
    """What goes and what stays, a line each."""
    size = f"{found.size_bytes:,} bytes"
    lines = [f"goes: {_many(len(found.turn_ids), 'turn')} with {_many(len(found.keys), 'block')} of KV, {size}"]
    for session, count in sorted(found.along.items()):
        where = f"session {session}" if session else "no session"
        lines.append(f"goes along: {_many(count, 'turn')} of {where}, which go on from what is named and hold its text")
    if found.shared_blocks:
        shared = f"{_many(found.shared_blocks, 'block')}, {found.shared_bytes:,} bytes"
        lines.append(f"stays: {shared}, of text that turns that stay have too")
    if found.lessened:
        lines.append(
            f"stays with less: {_many(len(found.lessened), 'turn')} that took KV approximately lose it, not their text"
        )
    return lines


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


async def _forget(
    settings: Settings, tenant: str, session: str | None, turn: int | None, dry_run: bool = False
) -> Forgotten:
    from semshare_agents.security.name_key import names_key
    from semshare_agents.store.disk import DiskStore

    key = await asyncio.to_thread(names_key, settings.home, settings.names_key)
    async with open_registry(settings, names_key=key, pools=settings.pools) as registry:
        try:
            found = await registry.forget(tenant, session=session, turn_id=turn, dry_run=dry_run)
        except NotStoredError as e:
            rest = "; an earlier forgetting was interrupted: `semshare verify --fix` completes it"
            raise NotStoredError(f"nothing was forgotten: {e}{rest if await registry.unerased() else ''}") from e
        if dry_run:
            return found
        store = await asyncio.to_thread(DiskStore, settings.kv_dir)
        for block in found.keys:
            await asyncio.to_thread(store.delete, block)
        await registry.erase()
    return found
