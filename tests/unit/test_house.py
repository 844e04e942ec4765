"""What holds the house together beyond the arrows that import-linter holds."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import semshare_agents
from semshare_agents.background.drift import DriftMonitor
from semshare_agents.background.repair import Repairer
from semshare_agents.engine import Engine
from semshare_agents.llm import SemShareLLM
from semshare_agents.memory import Memory
from semshare_agents.registry import Registry
from semshare_agents.registry.database import Database, Part
from semshare_agents.settings import load_settings
from semshare_agents.turn import Pipeline
from semshare_agents.turn.load import Loader
from semshare_agents.turn.planner import Planner

PACKAGE = Path(semshare_agents.__file__).parent
FACE = {"__init__.py", "llm.py", "session.py", "settings.py", "errors.py"}
MOST_LINES = 350
MOST_FIELDS = 9


def sources() -> Iterator[tuple[str, str]]:
    for path in PACKAGE.rglob("*.py"):
        yield path.relative_to(PACKAGE).as_posix(), path.read_text()


def calls(text: str) -> set[str]:
    """Names of the methods and functions that a module calls or hands on."""
    nodes = list(ast.walk(ast.parse(text)))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def test_the_root_is_the_public_face() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == FACE


def test_rows_of_blocks_are_dropped_in_one_file() -> None:
    droppers = {name for name, text in sources() if "drop_blocks" in calls(text) and not name.startswith("testing/")}
    assert droppers == {"memory/blocks.py"}


def test_one_file_knows_threads_for_the_model() -> None:
    makers = {name for name, text in sources() if "ThreadPoolExecutor(1," in text.replace("\n", "")}
    assert {name for name in makers if not name.startswith(("testing/", "registry/"))} == {"engine/engine.py"}


def test_files_are_of_a_size_to_be_read() -> None:
    long = {name: count for name, text in sources() if (count := len(text.splitlines())) > MOST_LINES}
    assert long == {}


def test_owners_own_little() -> None:
    llm = SemShareLLM(load_settings())
    assert len(vars(llm)) <= MOST_FIELDS
    for owner in (Pipeline, Planner, Loader):
        assert is_dataclass(owner)
        assert owner.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert len(fields(owner)) <= MOST_FIELDS
    assert len(vars(Engine())) <= MOST_FIELDS
    for owner in (Memory, Repairer, DriftMonitor, Database):
        assert len(assigned(owner)) <= MOST_FIELDS, owner


def test_parts_of_the_registry_stand_alone() -> None:
    parts = Registry.__bases__
    assert all(part.__bases__ == (Part,) for part in parts)
    names = [name for part in (*parts, Registry) for name in vars(part) if not name.startswith("__")]
    assert len(names) == len(set(names)), "a name means one thing"
    assert assigned(Registry) == {"database"}


def assigned(owner: type) -> set[str]:
    """What a class's own initialiser assigns."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(owner.__init__)))  # type: ignore[misc]
    stored = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    return {node.attr for node in stored}
