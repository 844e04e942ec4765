"""`semshare pin`, `unpin` and `pins`: what may not be evicted."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from semshare_agents.cli.common import HomeOption, console, settings_of
from semshare_agents.cli.inspect import MIB, open_registry
from semshare_agents.errors import NotStoredError

if TYPE_CHECKING:
    from semshare_agents.registry import Pin
    from semshare_agents.settings import Settings

TenantOption = Annotated[str | None, typer.Option("--tenant", help="Whose; default: the setting.")]
SessionOption = Annotated[str | None, typer.Option("--session", help="This session, with all its turns.")]
TurnOption = Annotated[int | None, typer.Option("--turn", min=1, help="This turn; `semshare turns` has its number.")]


def pin(
    session: SessionOption = None,
    turn: TurnOption = None,
    tenant: TenantOption = None,
    seconds: Annotated[float | None, typer.Option(help="For how long; default: until unpinned.")] = None,
    home: HomeOption = None,
) -> None:
    """Keep the KV of a session or a turn from being evicted."""
    made = asyncio.run(_pin(settings_of(home=home), tenant, session, turn, seconds))
    console.print(f"pinned {made.blocks} blocks ({made.size_bytes / MIB:.1f} MiB) {_until(made)}", highlight=False)


def unpin(
    session: SessionOption = None, turn: TurnOption = None, tenant: TenantOption = None, home: HomeOption = None
) -> None:
    """Let the KV of a session or a turn be evicted again."""
    ended = asyncio.run(_unpin(settings_of(home=home), tenant, session, turn))
    console.print("unpinned" if ended else "it was not pinned")


def pins(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only those of this tenant.")] = None,
    home: HomeOption = None,
) -> None:
    """Show what is pinned, and until when."""
    found = asyncio.run(_pins(settings_of(home=home), tenant))
    if not found:
        console.print("nothing is pinned")
        return
    table = Table("tenant", "pinned", "blocks", "MiB", "ends")
    for each in found:
        what = f"turn {each.turn_id}" if each.session is None else f"session {each.session}"
        table.add_row(each.tenant, what, f"{each.blocks:,}", f"{each.size_bytes / MIB:,.1f}", _until(each))
    console.print(table)


def _until(pin: Pin) -> str:
    return "until unpinned" if pin.ends_at is None else f"until {datetime.fromtimestamp(pin.ends_at):%d %b %H:%M:%S}"


async def _pin(
    settings: Settings, tenant: str | None, session: str | None, turn: int | None, seconds: float | None
) -> Pin:
    from semshare_agents.memory import pins as pinning
    from semshare_agents.store.disk import DiskStore

    async with open_registry(settings) as registry:
        sizes = await asyncio.to_thread(lambda: dict(DiskStore(settings.kv_dir).entries()))
        return await pinning.pin(
            registry, settings, sizes.get, tenant=tenant, session=session, turn=turn, seconds=seconds
        )


async def _unpin(settings: Settings, tenant: str | None, session: str | None, turn: int | None) -> bool:
    from semshare_agents.memory import pins as pinning

    pinning.one_of(session, turn)
    async with open_registry(settings) as registry:
        return await registry.unpin(tenant or settings.tenant, session=session, turn_id=turn)


async def _pins(settings: Settings, tenant: str | None) -> list[Pin]:
    async with open_registry(settings) as registry:
        if tenant is not None and (problem := await registry.missing(tenant)):
            raise NotStoredError(problem)
        return await registry.pins(tenant)
