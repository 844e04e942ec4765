"""Conformance tests for whoever writes a KV store, a registry backend or an eviction policy; they need pytest.

A backend's test derives a class and supplies one fixture::

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def store(self) -> BlockStore:
            return MyStore()
"""

from semshare_agents.testing.eviction import EvictionPolicyConformance
from semshare_agents.testing.registries import RegistryConformance
from semshare_agents.testing.stores import StoreConformance

__all__ = ["EvictionPolicyConformance", "RegistryConformance", "StoreConformance"]
