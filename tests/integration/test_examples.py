"""Every example runs, on the default model and in a memory of its own, and reuses what it is there to show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from semshare_agents.model.loading import LoadedModel

EXAMPLES = Path(__file__).parents[2] / "examples"
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


@pytest.mark.parametrize("name", sorted(SHOWS))
def test_example_runs(name: str, default_model: LoadedModel, tmp_path: Path) -> None:
    places = {
        "SEMSHARE_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/registry.db",
        "SEMSHARE_STORE_DIR": str(tmp_path / "kv"),
        "SEMSHARE_MIN_GAIN": "1.0",
    }
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    pattern, times = SHOWS[name]
    assert len(re.findall(pattern, result.stdout)) >= times, result.stdout
