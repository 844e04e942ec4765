"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel, load
from semshare_agents.operate import startup
from semshare_agents.reuse.measure import measured
from semshare_agents.reuse.speeds import Speeds
from semshare_agents.settings import load_settings
from tests import alone, pipelines, tiny
from tests.postgres import postgres, postgres_url  # noqa: F401  (fixtures)

# How wide output is, is each test's to say, and not that of where the tests run.
os.environ.pop("COLUMNS", None)

MIB = 1024**2
OpenLLM = Callable[..., Awaitable[SemShareLLM]]
HERE = Path(__file__).parent
FOLDERS = frozenset({"unit", "oracle", "property", "conformance", "integration", "stress"})
OUTSIDE = frozenset({"default_model", "default_home", "postgres", "postgres_url", "chromium"})
"""Fixtures of what is not part of the package: a downloaded model, a server, a browser."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=40, help="fuzzed requests of each operation of the server")
    parser.addoption("--corruptions", type=int, default=150, help="damaged files and rows that are tried")
    parser.addoption("--kills", type=int, default=24, help="random moments at which a writing process is killed")
    parser.addoption("--soak", type=float, default=3.0, help="seconds that each concurrent soak runs")
    parser.addoption("--screenshots", help="keep the page's screenshots in this folder")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(HERE).parts[0]
        if folder in FOLDERS:
            item.add_marker(folder)
        if OUTSIDE & set(getattr(item, "fixturenames", ())):
            item.add_marker("outside")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with alone.turn(item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Tiny matrices gain nothing from a second thread.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("SEMSHARE_") and n != "SEMSHARE_HOME"]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def default_home() -> Path:
    """Where the default model lives: SEMSHARE_HOME, else the package's own default."""
    return Path(load_settings().home)


@pytest.fixture(scope="session")
def default_model(default_home: Path) -> LoadedModel:
    """The default model, pulled as `semshare models pull` does; tests fail where it cannot be had."""
    return load("default", default_home)


@pytest.fixture
def two_threads() -> Any:
    """More compute threads, for tests on a real model, where other tests leave some."""
    before = torch.get_num_threads()
    share = (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(before, min(2, share)))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reuse_wins() -> Iterator[None]:
    """Adapters find a machine on which reuse always pays: one that is busy with other tests would make it look dear."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(startup, "measured", lambda *_: tiny.REUSE_WINS)
        patch.setenv("SEMSHARE_MEASURE_IDLE", "false")
        yield


@pytest.fixture(scope="session")
def measured_speeds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[LoadedModel], Path]:
    """Measures a model's speeds once; gives the folder that a home needs to know them."""
    home = tmp_path_factory.mktemp("speeds")
    known: set[str] = set()

    def speeds_of(model: LoadedModel) -> Path:
        if model.support.rows is not None and model.fingerprint not in known:
            measured(model.support.rows, model.context_tokens, model.fingerprint, home)
            known.add(model.fingerprint)
        return home / "speeds"

    return speeds_of


@pytest.fixture
async def open_llm(tmp_path: Path, measured_speeds: Callable[[LoadedModel], Path]) -> AsyncIterator[OpenLLM]:
    """Opens adapters on tiny models; all are closed at the end of the test.

    `speeds` replaces what was measured, so that the cost model always prefers reuse (or always a cold run).
    """
    async with AsyncExitStack() as stack:

        async def opened(
            family: str | LoadedModel = "llama", *, speeds: Speeds | None = tiny.REUSE_WINS, **settings: Any
        ) -> SemShareLLM:
            model = tiny.loaded(family) if isinstance(family, str) else family
            small = {"memory_bytes": 64 * MIB, "disk_bytes": 64 * MIB, "block_tokens": 16, "max_new_tokens": 6}
            chosen = {"home": tmp_path / "home", "min_gain": 1.0, "head_tokens": 4, "tail_tokens": 4}
            # Repair would make turns exact behind the back of tests that are about approximate ones.
            unrepaired = {"repair_idle": False, "repair_rows": 0, "measure_idle": False}
            # So would the default's ceiling.
            unrepaired["fidelity"] = "fast"
            settings = {**small, **chosen, **unrepaired, **settings}
            folder = measured_speeds(model)
            if folder.is_dir():
                shutil.copytree(folder, Path(settings["home"]) / "speeds", dirs_exist_ok=True)
            llm = await SemShareLLM.open(loaded=model, **settings)
            stack.push_async_callback(llm.aclose)
            if speeds is not None and llm.pipeline.planner.cost is not None and model.support.rows is not None:
                pipelines.replan(llm, cost=tiny.cost(speeds, model.support.rows.token_bytes))
            return llm

        yield opened


@pytest.fixture
async def llm(open_llm: OpenLLM) -> SemShareLLM:
    """An adapter on a tiny model."""
    return await open_llm()


@pytest.fixture
async def url(llm: SemShareLLM) -> AsyncIterator[str]:
    """The address of a server of it."""
    from tests.serving import serving

    async with serving(llm) as address:
        yield address
