#!/usr/bin/env bash
# torch 2.13.0 (CPU wheel, which brings GNU's OpenMP), Linux, two cores or more: between two parallel operations the other
# threads do not sleep, they spin, for milliseconds.
#
# Seen: a loop of one addition to 131,072 numbers (a fiftieth of a millisecond on two threads) and one millisecond of plain
# Python. The process takes 1.9 to 2.1 times the processor time of its only busy thread; with OMP_WAIT_POLICY=passive 1.01
# times. So processor time over wall time says "both cores compute" of code that is serial, and a thread that was kept
# waiting for another one looks busy: it is no measure of whether a machine was quiet while something was timed.
#
# What this product does: whether a timed pass was disturbed is read from how long threads were ready to run and had no
# processor (`schedstat`, semshare_agents/observe/delays.py), not from processor time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/seen.py" <<'PYTHON'
import time

import torch

torch.set_num_threads(2)
numbers = torch.randn(1 << 17)
process, own = time.process_time(), time.thread_time()
for _ in range(200):
    numbers.add_(0.0)
    end = time.thread_time() + 0.001
    while time.thread_time() < end:
        pass
print(f"{(time.process_time() - process) / (time.thread_time() - own):.2f}")
PYTHON
unset OMP_NUM_THREADS OMP_WAIT_POLICY GOMP_SPINCOUNT
spinning=$("$folder/venv/bin/python" "$folder/seen.py")
sleeping=$(OMP_WAIT_POLICY=passive "$folder/venv/bin/python" "$folder/seen.py")
echo "processor time of the process over that of its busy thread: $spinning; with OMP_WAIT_POLICY=passive: $sleeping"
python3 -c "import sys; sys.exit(0 if $spinning > 1.4 and $sleeping < 1.2 else 1)"
