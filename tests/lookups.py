"""Look-ups in tests: what is sent to the database, and the benchmark's way of filling a registry."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event


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


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """What is sent to any database while the block lasts."""
    seen: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        seen.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)
