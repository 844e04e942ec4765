"""Tests that measure time have the machine to themselves, also where other tests run in processes beside them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__)


@contextmanager
def turn(alone: bool, here: Path = HERE) -> Iterator[None]:
    """Wait until this test may run: beside others, or once every other one has ended and while none begins.

    Args:
        alone: Whether it measures time.
        here: A file that all of them see.
    """
    # Whoever waits to be alone keeps the gate shut, or others would take turns and never leave it the machine.
    with _opened(here.parent) as gate, _opened(here) as machine:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        # Not by closing alone: a process that a test forked may still have it open.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
