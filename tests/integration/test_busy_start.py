"""An adapter that measures its speeds beside a full load reuses next turns once the load is over."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel
from tests import tiny

BURN = "import time\nend = time.monotonic() + 300\nwhile time.monotonic() < end: pass"
MOST_TURNS = 10
MOST_SECONDS = 120


@contextmanager
def full_load() -> Iterator[None]:
    """A process on every core; each ends by itself if nobody ends it."""
    burners = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


@pytest.mark.alone
async def test_next_turns_are_reused_after_a_start_beside_a_full_load(
    default_model: LoadedModel, two_threads: None, tmp_path: Path
) -> None:
    with full_load():
        llm = await SemShareLLM.open(loaded=default_model, home=tmp_path, max_new_tokens=2)
    began, classes = time.monotonic(), []
    async with llm:
        talk = llm.session("s")
        for turn in range(MOST_TURNS):
            report = (await talk.send(tiny.words(150 if turn == 0 else 12, seed=turn))).report
            classes.append(report.reuse_class)
            if turn and report.reuse_class != "cold":
                break
        assert classes[-1] != "cold", classes
        assert time.monotonic() - began < MOST_SECONDS
