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
SHOWS = {"reordered_documents": r"[1-9]\d+ moved", "sessions": r"[1-9]\d\d tokens reused exactly"}
"""What an example's output must have."""


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
    assert len(re.findall(SHOWS[name], result.stdout)) >= 2, result.stdout
