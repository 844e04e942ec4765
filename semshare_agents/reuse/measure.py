"""Measures the speeds of a model on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event

import numpy as np
import torch

from semshare_agents.kv.buffer import BufferPool
from semshare_agents.kv.layout import put, take
from semshare_agents.model.reordered import is_reordered
from semshare_agents.model.rows import RowModel
from semshare_agents.reuse.speeds import FORMAT, Measurement, Passes, Times, fitted, keep, kept, path_of
from semshare_agents.timing.delays import MOST_DELAYED, Timed, timed
from semshare_agents.values import Ints

Step = Callable[[Event | None], None]

ENOUGH_SECONDS = 4.0
"""Rounds go on for so long, within these numbers of them."""
ROUNDS = (3, 5)


class Measuring:
    """One measurement under way: passes over random KV, in rounds, so that load hits all of them alike.

    The fastest repetition of each counts: others can make a pass slower, never faster.

    Args:
        rows: The model.
        longest_tokens: Its context.
        pool: Where the buffer comes from; default: memory of its own.
    """

    def __init__(self, rows: RowModel, longest_tokens: int, pool: BufferPool | None = None):
        self._rows, self._longest_tokens = rows, longest_tokens
        self._passes = passes = Passes.within(longest_tokens, rows.device.type != "cpu")
        self._pool = pool or BufferPool(rows.layout, rows.device, keep=0)
        self._buffer = self._pool.acquire(passes.far)
        take(self._buffer, 0, passes.far).normal_()
        rng = np.random.default_rng(0)
        self._ids = rng.integers(0, rows.model.config.get_text_config().vocab_size, passes.far)
        self._which = {
            "one": np.arange(passes.near - 1, passes.near),
            "few_near": np.arange(passes.near - passes.few, passes.near),
            "few_far": np.arange(passes.far - passes.few, passes.far),
            "short": np.arange(passes.short),
            "long": np.arange(passes.long),
        }
        self._seen: dict[str, list[Timed[None]]] = {}
        self.newest: Timed[None] | None = None
        """The step that was added last."""

    def steps(self) -> Iterator[tuple[str, Step]]:
        """What to run, in order, each with its name; a step that was ended early is not `add`ed."""
        while not self._enough():
            for name, which in self._which.items():
                yield name, partial(self._pass, which)
            yield "copy", self._copied

    def run(self, step: Step, stop: Event | None = None) -> Timed[None]:
        """Time a step on this thread.

        Raises:
            ForwardStopped: `stop` was set.
        """
        return timed(lambda: step(stop), self._rows.device, all_threads=True)

    def add(self, name: str, seen: Timed[None]) -> None:
        """Count a step that was timed."""
        self._seen.setdefault(name, []).append(seen)
        self.newest = seen

    def _enough(self) -> bool:
        rounds = len(self._seen.get("copy", ()))
        spent = sum(each.seconds for steps in self._seen.values() for each in steps)
        # A start beside others does not wait for figures that are not believed anyway.
        least = 1 if rounds and _delayed(self._seen.values()) > MOST_DELAYED else ROUNDS[0]
        return rounds >= ROUNDS[1] or (rounds >= least and spent >= ENOUGH_SECONDS)

    def _pass(self, which: Ints, stop: Event | None) -> None:
        self._rows.forward(self._ids[which], which, self._buffer, stop=stop)

    def _copied(self, stop: Event | None) -> None:
        half = self._passes.far // 2
        put(self._buffer, half, take(self._buffer, 0, half))

    def outcome(self) -> Measurement:
        """What was measured. The first round counts for the fastest only: it also pays for what is set up once."""
        fastest = {name: min(each.seconds for each in seen) for name, seen in self._seen.items()}
        later = {name: seen[1:] or seen for name, seen in self._seen.items() if name != "copy"}
        spread = max(float(np.median([e.seconds for e in seen])) / fastest[name] for name, seen in later.items())
        copied = take(self._buffer, 0, self._passes.far // 2).nbytes / fastest.pop("copy")
        found = Measurement(
            fitted(Times(**fastest, load_bytes_per_second=copied), self._passes, disturbed=False),
            rounds=min(len(seen) for seen in self._seen.values()),
            spread=spread,
            delayed=_delayed(later.values()),
            load=_load(),
            colds=((self._passes.short, fastest["short"]), (self._passes.long, fastest["long"])),
            token_bytes=self._rows.token_bytes,
            context_tokens=self._longest_tokens,
        )
        if not found.disturbed:
            return found
        speeds = fitted(Times(**fastest, load_bytes_per_second=copied), self._passes, disturbed=True)
        return Measurement(**{**vars(found), "speeds": speeds, "colds": ()})

    def close(self) -> None:
        """Give the buffer back."""
        self._pool.release(self._buffer)


def _delayed(steps: Iterable[list[Timed[None]]]) -> float:
    """Seconds that threads waited for a processor, over those of all steps."""
    seen = [each for some in steps for each in some]
    return sum(each.delayed * each.seconds for each in seen) / sum(each.seconds for each in seen)


def _load() -> float | None:
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return None


def measure(rows: RowModel, longest_tokens: int) -> Measurement:
    """Measure now; takes about five seconds for a 135M model on two cores."""
    measuring = Measuring(rows, longest_tokens)
    try:
        for name, step in measuring.steps():
            measuring.add(name, measuring.run(step))
        return measuring.outcome()
    finally:
        measuring.close()


def setting_of(rows: RowModel) -> str:
    """What speeds depend on besides the model."""
    order = "-reordered" if is_reordered(rows.model) else ""
    return f"{rows.device}-{torch.get_num_threads()}-{torch.__version__}-{FORMAT}{order}"


def measured(rows: RowModel, longest_tokens: int, fingerprint: str, home: Path, model: str = "") -> Measurement:
    """The speeds of this model here, as they are kept in `home`, else measured now and kept."""
    path, setting = path_of(home, fingerprint), setting_of(rows)
    found = kept(path, setting)
    if found is None:
        found = replace(measure(rows, longest_tokens), model=model)
        keep(path, setting, found)
    return found
