from __future__ import annotations

from pathlib import Path

import pytest

from semshare_agents.kv.packing import PACKINGS, Packing, make_packing
from semshare_agents.store import BlockStore, DeviceStore, DiskStore, MemoryStore
from semshare_agents.testing import StoreConformance


@pytest.fixture(params=list(PACKINGS))
def packing(request: pytest.FixtureRequest) -> Packing:
    return make_packing(request.param)


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self, packing: Packing) -> BlockStore:
        return MemoryStore(packing=packing)


class TestDeviceStore(StoreConformance):
    @pytest.fixture
    def store(self, packing: Packing) -> BlockStore:
        return DeviceStore("cpu", packing)


class TestDiskStore(StoreConformance):
    @pytest.fixture
    def store(self, packing: Packing, tmp_path: Path) -> BlockStore:
        return DiskStore(tmp_path / "kv", packing)
