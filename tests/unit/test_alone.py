"""Who measures time runs alone, and gets to it though others keep coming."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from tests import alone


def test_nobody_runs_beside_who_is_alone(tmp_path: Path) -> None:
    here, running, seen = tmp_path / "file", [0, 0], list[tuple[int, int]]()
    here.touch()
    counting, over = threading.Lock(), threading.Event()

    def work(by_itself: bool) -> None:
        while not over.is_set():
            with alone.turn(by_itself, here):
                with counting:
                    running[by_itself] += 1
                    seen.append((running[False], running[True]))
                time.sleep(0.005)
                with counting:
                    running[by_itself] -= 1

    threads = [threading.Thread(target=work, args=[by_itself]) for by_itself in (False, False, False, True, True)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    over.set()
    for thread in threads:
        thread.join()
    assert {pair for pair in seen if pair[1]} == {(0, 1)}
    assert max(together for together, _ in seen) > 1
