"""`benchmarks/gpu.py` runs on a CPU too, with a tiny shape."""

from __future__ import annotations

import subprocess
import sys

from tests.shell import ROOT


def test_it_runs_on_a_cpu() -> None:
    words = ["--shape", "tiny", "--tokens", "400", "--sessions", "1", "2", "--device", "cpu", "--times", "1"]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py", *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert [line.split()[4] for line in lines[:4]] == ["cold", "next", "moved", "semantic"]
    assert [line.rsplit("(", 1)[1][:-1] for line in lines[:4]] == ["cold", "exact", "moved", "semantic"]
    assert [float(line.split("decode")[1].split()[0]) > 0 for line in lines[4:]] == [True, True]
