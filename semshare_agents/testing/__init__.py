"""Conformance tests for extensions, and a fake adapter for the tests of applications.

Whoever writes a KV store, a registry backend, an eviction policy, a packing, a strategy, a matcher or a tool format
derives a class and supplies one fixture; the classes need pytest::

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def store(self) -> BlockStore:
            return MyStore()

`FakeLLM` stands in for `SemShareLLM` and needs no model. Names load on first use: neither pytest nor torch is imported
for what does not need it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semshare_agents.testing.eviction import EvictionPolicyConformance
    from semshare_agents.testing.fake import FakeCall, FakeLLM, tool_call
    from semshare_agents.testing.matchers import MatcherConformance
    from semshare_agents.testing.packings import PackingConformance
    from semshare_agents.testing.registries import RegistryConformance
    from semshare_agents.testing.stores import StoreConformance
    from semshare_agents.testing.strategies import StrategyConformance
    from semshare_agents.testing.tool_formats import ToolFormatConformance

_MODULE_OF = {
    "EvictionPolicyConformance": "eviction",
    "FakeCall": "fake",
    "FakeLLM": "fake",
    "MatcherConformance": "matchers",
    "PackingConformance": "packings",
    "StrategyConformance": "strategies",
    "ToolFormatConformance": "tool_formats",
    "RegistryConformance": "registries",
    "StoreConformance": "stores",
    "tool_call": "fake",
}

__all__ = [
    "EvictionPolicyConformance",
    "FakeCall",
    "FakeLLM",
    "MatcherConformance",
    "PackingConformance",
    "RegistryConformance",
    "StoreConformance",
    "StrategyConformance",
    "ToolFormatConformance",
    "tool_call",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
