"""The cost model: what a prefill and a reuse take on this machine, from measured speeds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from semshare_agents.reuse.colds import ColdRuns, LikeCold
from semshare_agents.reuse.disk import DiskSpeed
from semshare_agents.reuse.speeds import Measurement, Speeds
from semshare_agents.timing.delays import Timed
from semshare_agents.values import Ints

LEARNING = 0.3
LEAST_COLD_TOKENS = 256
NEW_TOKENS = 64
"""What a next turn typically adds to a conversation: an answer and a question."""
MISSED = 1.5
"""A pass that took so many times as long as predicted, or as short, was mispredicted."""
MOST_MISSES = 3
"""So many mispredictions, or turns for which reuse seemed too dear, and the speeds are in question."""


class CostModel:
    """Predicts times from speeds, and learns from each turn how far they are off.

    A machine that got slower is slower for a few rows as for all of them, so what passes of either kind teach holds for
    both: whether reuse pays is decided by speeds that were measured side by side. Passes that were disturbed teach
    nothing. Where passes miss their predictions again and again, or reuse seems too dear again and again, `doubted`
    says that the speeds ought to be measured anew.

    Args:
        speeds: Measured speeds, alone or with what is known of them.
        token_bytes: Bytes of one token's KV.
        clock: Seconds that never go back.
    """

    def __init__(self, speeds: Speeds | Measurement, token_bytes: int, clock: Callable[[], float] = time.monotonic):
        self.measurement = Measurement(speeds) if isinstance(speeds, Speeds) else speeds
        self.colds = ColdRuns(self.measurement.colds)
        self._token_bytes = token_bytes
        self._clock = clock
        self._slower = 1.0
        """How many times as long a forward takes as when the speeds were measured."""
        self._missed = 0
        self._refused = 0
        self._disk = DiskSpeed(self.measurement.disk_bytes_per_second, clock)

    @property
    def _speeds(self) -> Speeds:
        return self.measurement.speeds

    def renew(self, measurement: Measurement) -> None:
        """Go on with speeds that were measured anew; what disks and full prefills taught stays."""
        for tokens, seconds in measurement.colds:
            self.colds.add(tokens, seconds)
        before = self.measurement
        self.measurement = replace(measurement, disk_bytes_per_second=before.disk_bytes_per_second, model=before.model)
        self._slower, self._missed, self._refused = 1.0, 0, 0

    def known(self) -> Measurement:
        """The measurement with what was learned since, to be kept."""
        disk = self.disk_bytes_per_second() if self.disk_loads else self.measurement.disk_bytes_per_second
        return replace(self.measurement, disk_bytes_per_second=disk, colds=self.colds.runs)

    @property
    def doubted(self) -> bool:
        """Whether what turns took, or that they cannot reuse, puts the speeds in question."""
        return self._missed >= MOST_MISSES or self._refused >= MOST_MISSES

    # --- predicting

    def cold_seconds(self, tokens: int) -> float:
        """A full prefill."""
        s = self._speeds
        raw = s.pass_seconds + tokens * s.cold_row_seconds + tokens**2 / 2 * s.cold_pair_seconds
        return raw * self._slower

    def like_cold(self, tokens: int) -> LikeCold | None:
        """What a full prefill takes by measured ones of like length; None where there are none."""
        return self.colds.like(tokens, self.cold_seconds)

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
        disk = disk_tokens * self._token_bytes / self.disk_bytes_per_second()
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

    def disk_bytes_per_second(self) -> float:
        """What loads from disk give by now."""
        return self._disk.bytes_per_second

    @property
    def disk_loads(self) -> int:
        """How many loads from disk taught their speed."""
        return self._disk.loads

    def break_even(self, new_tokens: int, min_gain: float, longest_tokens: int) -> int | None:
        """The shortest prompt, in tokens, whose next turn pays; None where none does.

        Args:
            new_tokens: Rows that are computed at its end; all before is loaded from RAM.
            min_gain: Cold time over reuse time from which reuse is used.
            longest_tokens: The model's context.
        """
        for tokens in range(new_tokens + 1, longest_tokens + 1, 8):
            rows = np.arange(tokens - new_tokens, tokens)
            if self.reuse_seconds(rows, 1.0, tokens - new_tokens, 0) * min_gain <= self.cold_seconds(tokens):
                return tokens
        return None

    # --- learning

    def saw_cold(self, tokens: int, seen: Timed[object]) -> None:
        """Learn from a full prefill, timed where it ran."""
        if not seen.disturbed:
            self.colds.add(tokens, seen.seconds)
        if tokens >= LEAST_COLD_TOKENS:
            self._saw(self.cold_seconds(tokens), seen)

    def saw_rows(self, rows: Ints, seen: Timed[object]) -> None:
        """Learn from a pass over some rows of a prompt, shape `(rows,)`, timed where it ran."""
        self._refused = 0
        self._saw(self.pass_seconds(rows), seen)

    def saw_refusal(self) -> None:
        """A turn ran cold although something matched."""
        self._refused += 1

    def _saw(self, predicted: float, seen: Timed[object]) -> None:
        if seen.disturbed:
            return
        ratio = seen.seconds / predicted
        self._missed = 0 if 1 / MISSED < ratio < MISSED else self._missed + 1
        self._slower += LEARNING * (float(np.clip(ratio * self._slower, 0.2, 5.0)) - self._slower)

    def saw_disk(self, size_bytes: int, seconds: float) -> None:
        """Learn from a load from disk; see `DiskSpeed`."""
        self._disk.saw(size_bytes, seconds)


def figures(measurement: Measurement, min_gain: float) -> dict[str, Any]:
    """A measurement and what follows from it, as plain JSON values.

    Args:
        measurement: The measurement.
        min_gain: Cold time over reuse time from which reuse is used.
    """
    cost = CostModel(measurement, measurement.token_bytes)
    longest = measurement.context_tokens
    lengths = [tokens for tokens in (500, 1000, 2000, 4000, 8000) if tokens <= longest]
    new = min(NEW_TOKENS, longest // 2)
    predicted = {
        str(n): (cost.cold_seconds(n), cost.reuse_seconds(np.arange(n - new, n), 1.0, n - new, 0)) for n in lengths
    }
    colds = sorted(tokens for tokens, _ in measurement.colds)
    return {
        **asdict(measurement),
        "quality": measurement.quality,
        "colds": len(colds),
        "cold_tokens": (colds[0], colds[-1]) if colds else (0, 0),
        "new_tokens": new,
        "predicted_seconds": predicted,
        "break_even_tokens": cost.break_even(new, min_gain, longest),
    }
