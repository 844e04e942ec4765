"""The look-up benchmark's way of filling a registry, for tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


class LookupBench:
    """`benchmarks/lookup.py`, which is a script and no module."""

    def __init__(self) -> None:
        path = Path(__file__).parents[1] / "benchmarks" / "lookup.py"
        spec = importlib.util.spec_from_file_location("lookup_benchmark", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.fill: Any = module.fill
        self.block_tokens: int = module.BLOCK_TOKENS
