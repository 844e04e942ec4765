"""Runs programs, each in a process forked from this one, which has their libraries and the default model loaded.

Standard input names one program a line, as JSON: its `file`, its `environment` and the file for what it `printed`. The
answer is a line with its exit status.
"""

from __future__ import annotations

import json
import os
import runpy
import sys

import langchain_semshare  # noqa: F401 - loaded for the programs
import langgraph.graph
import langgraph.prebuilt  # noqa: F401

from tests.preloaded import preload


def main() -> None:
    preload()
    for line in sys.stdin:
        job = json.loads(line)
        if not (child := os.fork()):
            os.environ.update(job["environment"])
            with open(job["printed"], "wb") as printed:
                for stream in (sys.stdout, sys.stderr):
                    os.dup2(printed.fileno(), stream.fileno())
            runpy.run_path(job["file"], run_name="__main__")
            return  # and end as a program does, with what is to be done at exit
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
