"""The cost model: what a prefill and a reuse take on this machine, from speeds measured when the model was loaded."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from semshare_agents import private
from semshare_agents.model.rows import BufferPool, RowModel
from semshare_agents.values import Ints

FORMAT = 1
DISK_BYTES_PER_SECOND = 1.0e9
"""Assumed until the first read from disk was timed."""
LEARNING = 0.3


@dataclass(frozen=True)
class Speeds:
    """Measured speeds of one model on one machine.

    Attributes:
        pass_seconds: Fixed time of a forward pass over few rows.
        row_seconds: Time of a row without its attention, in a pass over few rows.
        pair_seconds: Time of one row seeing one key, all layers.
        cold_row_seconds: Time of a row without its attention in a full prefill.
        cold_pair_seconds: The pair time in a full prefill.
        load_bytes_per_second: Copying KV from RAM into a buffer.
    """

    pass_seconds: float
    row_seconds: float
    pair_seconds: float
    cold_row_seconds: float
    cold_pair_seconds: float
    load_bytes_per_second: float


def measure(rows: RowModel, longest_tokens: int) -> Speeds:
    """Time a few passes over random KV; takes about two seconds for a 135M model on two cores."""
    far = min(2048, longest_tokens)
    near, few, small, large = far // 4, min(48, far // 8), far // 16, far // 4
    pool = BufferPool(rows, keep=0)
    buffer = pool.acquire(far)
    buffer.normal_()
    rng = np.random.default_rng(0)
    ids = rng.integers(0, rows.model.config.get_text_config().vocab_size, far)

    def timed(which: Ints) -> float:
        return _median_seconds(lambda: rows.forward(ids[which], which, buffer), rows.device)

    one = timed(np.arange(near - 1, near))
    some_near = timed(np.arange(near - few, near))
    some_far = timed(np.arange(far - few, far))
    pair = max((some_far - some_near) / (few * (far - near)), 1e-12)
    row = max((some_near - one) / (few - 1) - pair * near, 1e-9)
    short, long = timed(np.arange(small)), timed(np.arange(large))
    cold_pair = pair
    cold_row = max((long - short - cold_pair * (large**2 - small**2) / 2) / (large - small), 1e-9)
    target = pool.acquire(far)
    copy = _median_seconds(lambda: target.copy_(buffer), rows.device)
    return Speeds(max(one - row, 0.0), row, pair, cold_row, cold_pair, buffer.nbytes / copy)


def _median_seconds(run: Callable[[], object], device: torch.device, times: int = 3) -> float:
    seconds = []
    for _ in range(times + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))


def measured(rows: RowModel, longest_tokens: int, fingerprint: str, home: Path) -> Speeds:
    """The speeds of this model here, measured once and kept in `home`.

    A row of a full prefill is never dearer than one of a part: a measurement that says so saw the machine busy, and a
    few shared tokens would seem to pay.
    """
    setting = f"{rows.device}-{torch.get_num_threads()}-{torch.__version__}-{FORMAT}"
    path = home / "speeds" / f"{fingerprint[:32]}.json"
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        kept = {}
    if setting not in kept:
        kept[setting] = asdict(measure(rows, longest_tokens))
        private.write(path, json.dumps(kept, indent=1))
    speeds = Speeds(**kept[setting])
    return replace(speeds, cold_row_seconds=min(speeds.cold_row_seconds, speeds.row_seconds))


class CostModel:
    """Predicts times from speeds, and learns from each turn how far they are off.

    A machine that got slower is slower for a few rows as for all of them, so what full prefills taught holds for both:
    whether reuse pays is decided by speeds that were measured side by side.

    Args:
        speeds: Measured speeds.
        token_bytes: Bytes of one token's KV.
    """

    def __init__(self, speeds: Speeds, token_bytes: int):
        self._speeds = speeds
        self._token_bytes = token_bytes
        self._slower = 1.0
        """How many times as long a forward takes as when the speeds were measured."""
        self._disk_bytes_per_second = DISK_BYTES_PER_SECOND

    def cold_seconds(self, tokens: int) -> float:
        """A full prefill."""
        s = self._speeds
        raw = s.pass_seconds + tokens * s.cold_row_seconds + tokens**2 / 2 * s.cold_pair_seconds
        return raw * self._slower

    def reuse_seconds(self, rows: Ints, layer_share: float, loaded_tokens: int, disk_tokens: int) -> float:
        """Loading, moving and computing.

        Args:
            rows: Rows computed from the first layer on, shape `(rows,)`.
            layer_share: Computed row-layers over `rows` in all layers.
            loaded_tokens: Tokens whose KV is loaded.
            disk_tokens: How many of them come from disk.
        """
        s = self._speeds
        first = self._slower * s.pass_seconds
        compute = self.pass_seconds(rows) - first
        load = loaded_tokens * self._token_bytes / s.load_bytes_per_second
        disk = disk_tokens * self._token_bytes / self._disk_bytes_per_second
        return first + compute * layer_share + load + disk

    def block_seconds(self, depth: int, tokens: int, size_bytes: int) -> float:
        """What computing a block in a full prefill takes longer than loading it; never less than 0."""
        s = self._speeds
        compute = tokens * s.cold_row_seconds + tokens * (depth + tokens / 2) * s.cold_pair_seconds
        return max(0.0, compute - size_bytes / s.load_bytes_per_second)

    def pass_seconds(self, rows: Ints) -> float:
        """One pass over rows at the given positions, shape `(rows,)`."""
        s = self._speeds
        raw = s.pass_seconds + len(rows) * s.row_seconds + float(rows.sum() + len(rows)) * s.pair_seconds
        return raw * self._slower

    def rows_beside_a_step(self, tokens: int, position: int, slowdown: float) -> int:
        """How many rows at `position` a decoding step at `tokens` can carry for `slowdown` of its own time."""
        s = self._speeds
        step = s.pass_seconds + s.row_seconds + tokens * s.pair_seconds
        return int(slowdown * step / (s.row_seconds + position * s.pair_seconds))

    def saw_cold(self, tokens: int, seconds: float) -> None:
        """Learn from a full prefill."""
        if tokens >= 256:
            ratio = float(np.clip(seconds / (self.cold_seconds(tokens) / self._slower), 0.2, 5.0))
            self._slower += LEARNING * (ratio - self._slower)

    def saw_disk(self, size_bytes: int, seconds: float) -> None:
        """Learn from a load from disk."""
        if size_bytes >= 1 << 20 and seconds > 0:
            self._disk_bytes_per_second += LEARNING * (size_bytes / seconds - self._disk_bytes_per_second)
