"""Blocks on an accelerator."""

from __future__ import annotations

from semshare_agents.store.memory import MemoryStore


class DeviceStore(MemoryStore):
    """Keeps blocks in the memory of the device the model runs on, so that loading them is a copy on the device."""

    name = "device"
