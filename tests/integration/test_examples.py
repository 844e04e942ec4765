"""Every example runs, on the default model and in a memory of its own, and reuses what it is there to show."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from semshare_agents.model.loading import LoadedModel

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SHOWS = {
    "async_loop": (r"[1-9]\d tokens reused exactly", 2),
    "langgraph_agent": (r"[1-9]\d+ tokens reused exactly", 5),
    # The dossier is computed by the node that comes first, and by no other.
    "langgraph_supervisor": (r"(?:supervisor|historian|treasurer): 3\d\d of 3\d\d tokens reused, [1-5]?\d computed", 3),
    "lcel_chain": (r"1\d\d tokens reused exactly", 2),
    "reordered_documents": (r"[1-9]\d+ moved", 2),
    "sessions": (r"[1-9]\d\d tokens reused exactly", 2),
}
"""What an example's output must have, and how often."""


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SHOWS)


@pytest.fixture(scope="module")
def programs(default_model: LoadedModel) -> Iterator[subprocess.Popen[str]]:
    """The process that forks them."""
    # What was forked has none of the threads of whom it was forked from: it may not count on them.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "tests.programs"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
    assert process.returncode == 0


@pytest.mark.parametrize("name", sorted(SHOWS))
def test_example_runs(name: str, programs: subprocess.Popen[str], tmp_path: Path) -> None:
    places = {
        "SEMSHARE_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/registry.db",
        "SEMSHARE_STORE_DIR": str(tmp_path / "kv"),
        "SEMSHARE_MIN_GAIN": "1.0",
    }
    printed = tmp_path / "printed"
    assert programs.stdin is not None
    assert programs.stdout is not None
    job = {"file": str(EXAMPLES / f"{name}.py"), "environment": places, "printed": str(printed)}
    programs.stdin.write(json.dumps(job) + "\n")
    programs.stdin.flush()
    status = programs.stdout.readline()
    assert status, "the process that forks them has ended"
    shown = printed.read_text()
    assert int(status) == 0, shown[-2000:]
    pattern, times = SHOWS[name]
    assert len(re.findall(pattern, shown)) >= times, shown
