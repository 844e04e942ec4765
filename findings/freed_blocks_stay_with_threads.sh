#!/usr/bin/env bash
# glibc 2.28 or newer on Linux, numpy 2.3.5: arrays of 2 MiB that threads make and free stay with the process, though glibc's
# manual says that allocations from 128 KiB on are maps of their own, which go back to the system when they are freed.
#
# Seen: four threads let forty such arrays come and go three times, and keep a few hundred bytes each. With
# MALLOC_MMAP_THRESHOLD_ set, which pins the threshold, next to nothing is left afterwards. With glibc's defaults over 100 MiB
# of freed memory are: the first array that is freed raises the threshold to its size and the trim threshold to twice that
# (mallopt(3), M_MMAP_THRESHOLD), later arrays lie in the arena of their thread, and one small allocation above them holds
# what is freed below. `malloc_trim(0)` gives some or nearly all of it back: it leaves the ends of threads' arenas alone.
#
# What this product does: blocks of KV come and go on several threads, so turns that wait for a slow disk took up to six
# times their RAM budget; `malloc_trim` is called once their files are written, and halves that (semshare_agents/store/heap.py).
# A pinned threshold would cost every forward pass fresh pages.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export TMPDIR="$folder"
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.3.5 psutil==7.1.3
"$folder/venv/bin/python" - <<'PYTHON'
import os
import subprocess
import sys

PROGRAM = """
import ctypes, threading
import numpy as np, psutil

MIB, kept = 2**20, []
rss = lambda: psutil.Process().memory_info().rss / MIB


def comes_and_goes():
    for _ in range(3):
        blocks = [np.ones(MIB // 4) for _ in range(40)]
        kept.append(bytearray(300))
        del blocks


start = rss()
threads = [threading.Thread(target=comes_and_goes) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
freed = rss() - start
ctypes.CDLL(None).malloc_trim(0)
print(f"{freed:.0f} {rss() - start:.0f}")
"""


def left(**settings: str) -> tuple[int, int]:
    """MiB of freed memory that the process has, before and after malloc_trim."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **settings}, capture_output=True, text=True, check=True
    )
    before, after = map(int, run.stdout.split())
    return before, after


defaults, pinned = left(), left(MALLOC_MMAP_THRESHOLD_="131072")
print(f"glibc's defaults: {defaults[0]} MiB left of what was freed, {defaults[1]} after malloc_trim")
print(f"with a pinned threshold: {pinned[0]} MiB")
sys.exit(0 if defaults[0] > 60 and pinned[0] < 30 else 1)
PYTHON
