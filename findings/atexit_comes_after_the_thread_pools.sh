#!/usr/bin/env bash
# Python 3.11: a function registered with `atexit` cannot use any ThreadPoolExecutor, its own included, nor
# `asyncio.to_thread`.
#
# Seen: `pool.submit` in an atexit function raises "RuntimeError: cannot schedule new futures after shutdown",
# though nobody shut the pool down and its thread is idle. `concurrent.futures` closes all pools from a hook of `threading`,
# which runs before every atexit function, whatever the order of registration. A hook of the same kind that was registered
# later runs earlier and can still use the pool.
#
# What this product does: LangChain models that opened an adapter by themselves close it, which writes files on threads,
# from such a hook of `threading` (integrations/langchain_semshare/host.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export TMPDIR="$folder"
python3 - <<'PYTHON'
import subprocess
import sys

PROGRAM = """
import atexit, threading
from concurrent.futures import ThreadPoolExecutor

pool = ThreadPoolExecutor(1)
pool.submit(print, "while it runs: fine", flush=True).result()


def tried(where):
    try:
        pool.submit(print, f"{where}: fine", flush=True).result()
    except RuntimeError as error:
        print(f"{where}: {error}", flush=True)


atexit.register(tried, "atexit")
threading._register_atexit(tried, "hook of threading")
"""
done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
print(done.stdout, end="")
sys.exit(
    0
    if done.stdout.splitlines()
    == [
        "while it runs: fine",
        "hook of threading: fine",
        "atexit: cannot schedule new futures after shutdown",
    ]
    else 1
)
PYTHON
