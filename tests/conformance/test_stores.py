from __future__ import annotations

from pathlib import Path

import pytest

from semshare_agents.store import BlockStore, DeviceStore, DiskStore, MemoryStore
from semshare_agents.testing import StoreConformance


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self) -> BlockStore:
        return MemoryStore()


class TestDeviceStore(StoreConformance):
    @pytest.fixture
    def store(self) -> BlockStore:
        return DeviceStore("cpu")


class TestDiskStore(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> BlockStore:
        return DiskStore(tmp_path / "kv")
