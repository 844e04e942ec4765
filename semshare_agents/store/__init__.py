"""Where KV lies: device, RAM and disk behind one contract, and the tiers that keep their budgets."""

from semshare_agents.store.base import BlockInfo, BlockStore
from semshare_agents.store.device import DeviceStore
from semshare_agents.store.disk import DiskStore
from semshare_agents.store.memory import MemoryStore
from semshare_agents.store.tier import Tier
from semshare_agents.store.tiers import Tiers

__all__ = ["BlockInfo", "BlockStore", "DeviceStore", "DiskStore", "MemoryStore", "Tier", "Tiers"]
