"""What was freed goes back to the system: without it, threads of blocks that come and go keep many times their size."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import gc, json, threading, psutil, torch
from semshare_agents.store.heap import give_back

MIB = 2**20
kept = []

def comes_and_goes(number):
    for _ in range(3):
        blocks = [torch.ones(MIB // 4) for _ in range(40)]
        kept.append(torch.ones(64))
        del blocks

threads = [threading.Thread(target=comes_and_goes, args=(n,)) for n in range(4)]
rss = lambda: psutil.Process().memory_info().rss / MIB
start = rss()
[t.start() for t in threads]
[t.join() for t in threads]
gc.collect()
before = rss()
give_back()
print(json.dumps({"grown": before - start, "left": rss() - start}))
"""


def test_blocks_that_threads_let_go_are_given_back() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    told = json.loads(run.stdout)
    # It leaves the ends of threads' arenas alone, a fifth at most in six trials.
    assert told["left"] <= max(16.0, 0.6 * told["grown"])
