"""Asks a server as real clients do: `python check.py CLIENT...`, in an environment that has them."""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback

# Nothing but the server is asked.
os.environ |= {"HAYSTACK_TELEMETRY_ENABLED": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def main(names: list[str]) -> int:
    failed = 0
    for name in names:
        began, before = time.perf_counter(), failed
        for check in importlib.import_module(f"{name}_client").CHECKS:
            try:
                check()
            except Exception:
                failed += 1
                traceback.print_exc()
        print(f"{name}: {'fine' if failed == before else 'FAILED'}, {time.perf_counter() - began:.1f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
