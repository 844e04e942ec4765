#!/usr/bin/env bash
# safetensors 0.8.0 with torch 2.13.0, Linux: `safe_open(path, framework="pt").get_tensor(name)` reads nothing.
#
# Seen: of a file of 64 MiB that the page cache had let go, get_tensor returned after 5 ms and the process grew by 2 MiB;
# the first sum over the tensor brought in the other 62 MiB, page fault by page fault, and took 69 ms. The tensor is a
# mapping of the file: the time of "loading" it says nothing of the disk, which is paid by whoever computes with it first.
#
# What this product does: speeds of the disk are learned from loads that were proved by their checksum, which touches every
# byte (semshare_agents/store/codec.py), timed around both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 torch==2.13.0 numpy==2.4.6
cat > "$folder/seen.py" <<'PYTHON'
import os
import sys
import time

import torch
from safetensors import safe_open
from safetensors.torch import save_file

MIB = 1 << 20
path = os.path.join(sys.argv[1], "tensor.safetensors")
save_file({"kv": torch.ones(64 * MIB // 4)}, path)
descriptor = os.open(path, os.O_RDONLY)
os.fsync(descriptor)
os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
os.close(descriptor)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


torch.ones(MIB).sum()  # what is set up once is not counted below
before, start = resident(), time.perf_counter()
with safe_open(path, framework="pt") as file:
    tensor = file.get_tensor("kv")
loaded, between = resident(), time.perf_counter()
total = tensor.sum().item()
touched, end = resident(), time.perf_counter()
print(f"get_tensor of 64 MiB: {1000 * (between - start):.1f} ms, {loaded - before:.0f} MiB more in RAM")
print(f"its first sum:        {1000 * (end - between):.1f} ms, {touched - loaded:.0f} MiB more in RAM")
assert total == 64 * MIB / 4
sys.exit(0 if loaded - before < 16 and touched - loaded > 32 else 1)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py" "$folder"
