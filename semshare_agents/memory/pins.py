"""Pins against budgets and quotas, and what a process knows of the pins in the registry."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence

from semshare_agents.errors import ConfigurationError, PinError, RegistryError
from semshare_agents.registry import Pin, PinnedBlock, Registry
from semshare_agents.settings import Settings
from semshare_agents.store.tiers import Tiers

log = logging.getLogger(__name__)

SizeOf = Callable[[str], int | None]
"""Bytes of a block in the slowest tier; None where it is not there."""
ADVICE = "unpin something (`semshare pins`, `semshare unpin`) or raise"


async def pin(
    registry: Registry,
    settings: Settings,
    size_of: SizeOf,
    *,
    tenant: str | None = None,
    session: str | None = None,
    turn: int | None = None,
    seconds: float | None = None,
) -> Pin:
    """Pin a session or a turn, if all that is pinned then fits.

    Args:
        registry: Keeps the pin.
        settings: Budgets, quota and the default tenant.
        size_of: What blocks take in the slowest tier.
        tenant: Whose; default: the setting.
        session: This session, or
        turn: this turn.
        seconds: For how long; None: until it is unpinned.

    Raises:
        ConfigurationError: not one of session and turn is given, or the time is no positive number.
        PinError: it is not there, or it does not fit a quota or a budget.
        RegistryError: the database fails.
    """
    one_of(session, turn)
    if seconds is not None and not (0 < seconds < math.inf):
        raise ConfigurationError(f"a pin lasts a positive number of seconds, not {seconds:g}; none: until unpinned")
    return await registry.pin(
        settings.tenant if tenant is None else tenant,
        session=session,
        turn_id=turn,
        seconds=seconds,
        check=lambda pinned: check(pinned, settings, size_of),
    )


def one_of(session: str | None, turn: int | None) -> None:
    """Raise unless either a session or a turn is given.

    Raises:
        ConfigurationError: neither is, or both are.
    """
    if (session is None) == (turn is None):
        raise ConfigurationError("say what is pinned: a turn or a session")


def check(pinned: Sequence[PinnedBlock], settings: Settings, size_of: SizeOf) -> None:
    """Raise where pinned blocks exceed the slowest tier's budget, or those of one tenant its quota.

    Raises:
        PinError: they do.
    """
    used: Counter[str] = Counter()
    for block in pinned:
        used[block.tenant] += size_of(block.key) or block.size_bytes
    for tenant, size_bytes in used.items():
        if settings.tenant_bytes is not None and size_bytes > settings.tenant_bytes:
            raise PinError(
                f"the pins of tenant {tenant!r} hold {size_bytes} bytes, more than its quota of "
                f"{settings.tenant_bytes}: {ADVICE} tenant_bytes"
            )
    budgets = ("disk_bytes", "memory_bytes", "device_bytes")
    name = next(name for name in budgets if getattr(settings, name))
    if used.total() > getattr(settings, name):
        raise PinError(
            f"pins hold {used.total()} bytes, more than the budget of {getattr(settings, name)}: {ADVICE} {name}"
        )


async def refresh(registry: Registry, tiers: Tiers) -> None:
    """Let tiers know what is pinned, by whichever process; while the database fails, what was known stays true."""
    try:
        pinned = await registry.pinned_blocks()
    except RegistryError as e:
        log.warning("pins are those known before: %s", e)
        return
    tiers.pins.replace({block.key: block.ends_at for block in pinned})
