"""Eight sessions of 6,000-token prompts leave the event loop to others (`benchmarks/event_loop.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "event_loop.py"
BUSIEST_MS = 50.0
"""Processor time of one callback: what other programs take of the machine does not count."""


@pytest.mark.alone
def test_no_callback_keeps_the_loop(tmp_path: Path) -> None:
    model = tiny.build("llama")
    model.config.max_position_embeddings = 8192
    model.save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    places = {"SEMSHARE_MODEL": str(tmp_path / "model"), "SEMSHARE_HOME": str(tmp_path / "home")}
    load = ["--sessions=8", "--turns=2", "--tokens=6000", "--answer=6", "--memory=3"]
    result = subprocess.run(
        [sys.executable, str(BENCHMARK), *load],
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["turns"] == 16
    assert min(told["evicted_blocks"].values()) > 0
    assert told["busiest_callback_ms"] <= BUSIEST_MS, result.stderr
    assert told["late_ms"]["p50"] <= BUSIEST_MS
