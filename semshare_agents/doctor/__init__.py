"""Doctor: is this machine, with these settings, fit to keep a memory? Each check says what it found and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from semshare_agents.doctor.check import Check, State, worst
from semshare_agents.doctor.model import model_check, self_test, speeds_check, tier_checks
from semshare_agents.doctor.surroundings import (
    encryption_check,
    permissions_check,
    registry_check,
    settings_check,
    space_check,
    versions_check,
)
from semshare_agents.errors import SemShareError
from semshare_agents.model.loading import load
from semshare_agents.settings import Settings

_model = model_check
"""Its name up to version 0.1."""

__all__ = ["Check", "State", "examine", "worst"]


async def examine(settings: Settings, model: bool = True) -> AsyncIterator[Check]:
    """Run all checks, the quick ones first; none changes the memory.

    Args:
        settings: What to examine.
        model: Whether to load the model: without it its checks, the tiers' speeds and the self-test are left out.
    """
    yield settings_check(settings)
    yield versions_check()
    yield await asyncio.to_thread(permissions_check, settings)
    yield await asyncio.to_thread(space_check, settings)
    yield await asyncio.to_thread(encryption_check, settings)
    yield await registry_check(settings)
    if not model:
        return
    try:
        loaded = await asyncio.to_thread(load, settings.model, settings.home, settings.device, settings.dtype)
    except SemShareError as e:
        advice = "see the message; `semshare models pull` fetches the default model"
        yield Check("model", State.FAILED, str(e), advice)
        return
    yield model_check(loaded)
    if loaded.support.rows is None:
        return
    for check in await asyncio.to_thread(tier_checks, settings, loaded):
        yield check
    yield await asyncio.to_thread(speeds_check, settings, loaded)
    yield await self_test(settings, loaded)
