#!/usr/bin/env bash
# huggingface_hub 2.4.0: a hub that cannot be reached is asked six times, with 23 seconds of pauses, for every request.
#
# Seen: a refused connection or a name that does not resolve is retried after 1, 2, 4, 8 and 8 seconds, also where the file is
# optional and where the caller goes on without it. Loading a tokenizer makes some ten such requests one after the other,
# so that a machine without a network waits about four minutes before the first error, or the first wrong answer.
#
# What this product does: what counts tokens or reads a model's context asks for local files alone and says at once what is missing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet huggingface_hub==2.4.0
# A port on which nobody listens refuses at once: all the time is the library's own.
HF_ENDPOINT=http://127.0.0.1:9 HF_HOME="$folder/hub" "$folder/venv/bin/python" - <<'PYTHON'
import logging
import time

from huggingface_hub import hf_hub_download
from huggingface_hub.utils import logging as hub_logging

lines = []
handler = logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
hub_logging.get_logger().addHandler(handler)
took = {}
for local in (False, True):
    began = time.perf_counter()
    try:
        hf_hub_download("some/model", "config.json", local_files_only=local)
    except Exception as e:
        took[local] = time.perf_counter() - began
        print(f"local_files_only={local}: {type(e).__name__} after {took[local]:.1f} s")
retries = [line for line in lines if line.startswith("Retrying in")]
print(*retries, sep="\n")
raise SystemExit(not (len(retries) == 5 and took[False] > 20 and took[True] < 1))
PYTHON
