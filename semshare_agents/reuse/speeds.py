"""Speeds of a model on a machine: what they are, which of them can be true, and where they are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from semshare_agents.security import files as private
from semshare_agents.timing.delays import MOST_DELAYED

FORMAT = 2
MOST_SPREAD = 1.3
"""How much longer than its fastest repetition a pass typically takes at most on a quiet machine."""
DEAREST_ROW = 3.0
"""A row of a pass over few rows costs at most so many of a full prefill's mean row: 1.1 to 1.4 were measured on one and
two cores; more cores share out few rows less well."""
DEAREST_ROW_DISTURBED = 1.5
"""The same where the measurement was disturbed, which slows passes over few rows most: parts wait for each other."""
LARGEST_FIXED_DISTURBED = 0.125
"""Then a pass over one row takes at most this share of the long prefill; 0.04 and 0.07 were measured quietly."""
LEAST_ROW_DISTURBED = 0.5
"""Then a row without its attention is at least this share of a full prefill's mean row; 0.7 to 0.9 were."""


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


@dataclass(frozen=True)
class Passes:
    """Which passes are timed.

    Attributes:
        few: Rows of the passes over few rows.
        near: Where such a pass ends, in tokens.
        far: Where the other one does.
        short: Rows of the shorter full prefill; more than `few`.
        long: Rows of the longer one.
    """

    few: int
    near: int
    far: int
    short: int
    long: int

    @classmethod
    def within(cls, longest_tokens: int, accelerator: bool = False) -> Passes:
        """Passes that fit a model's context; an accelerator takes as long for one row as for hundreds."""
        far = max(64, min(2048, longest_tokens))
        short, long = (far // 4, far) if accelerator else (far // 16, far // 4)
        return cls(min(48, far // 24), far // 4, far, short, long)


@dataclass(frozen=True)
class Times:
    """Seconds of each pass, the fastest of its repetitions.

    Attributes:
        one: One row at the near end.
        few_near: Few rows at the near end.
        few_far: Few rows at the far end.
        short: The shorter full prefill.
        long: The longer one.
        load_bytes_per_second: Copying KV.
    """

    one: float
    few_near: float
    few_far: float
    short: float
    long: float
    load_bytes_per_second: float


def fitted(times: Times, passes: Passes, disturbed: bool) -> Speeds:
    """The speeds that give these times, as far as they can be true.

    What is always true: a pass over some of the rows takes no longer than one over all of them; a row of a full prefill
    is not dearer than one of a part; and the rows of a part are dearer by `DEAREST_ROW` at most. Of a disturbed
    measurement the long prefill is the figure to trust: it suffers least from others, and how the rest relates to it
    hardly depends on the machine.

    Args:
        times: What was measured.
        passes: Of which passes.
        disturbed: Whether others had the processors meanwhile.
    """
    long = max(times.long, 1e-9)
    short = min(times.short, long)
    few = min(times.few_near, short)
    one = min(times.one, few, *([long * LARGEST_FIXED_DISTURBED] if disturbed else []))
    mean = long / passes.long
    # Attention is half of a prefill at most: a row's other work is that of several hundred pairs and more.
    pair = (max(times.few_far, few) - few) / (passes.few * (passes.far - passes.near))
    pair = min(max(pair, 1e-12), mean / passes.long)
    pairs = (passes.long**2 - passes.short**2) / 2
    cold_row = (long - short - pair * pairs) / (passes.long - passes.short)
    cold_row = min(max(cold_row, LEAST_ROW_DISTURBED * mean if disturbed else 1e-9), mean)
    row = (few - one) / max(passes.few - 1, 1) - pair * passes.near
    dearest = (DEAREST_ROW_DISTURBED if disturbed else DEAREST_ROW) * mean
    row = max(min(row, dearest), cold_row)
    return Speeds(max(one - row, 0.0), row, pair, cold_row, pair, times.load_bytes_per_second)


@dataclass(frozen=True)
class Measurement:
    """Speeds with their date and how far they can be trusted.

    Attributes:
        speeds: The speeds.
        at: When they were measured, in seconds since the epoch.
        rounds: Repetitions of each pass.
        spread: How many times as long as its fastest repetition a pass took, the median one, at the worst pass.
        delayed: Seconds that the most delayed thread waited for a processor, over those of all passes.
        load: The machine's load over the last minute, a processor; None where it is not told.
        disk_bytes_per_second: What loads from disk gave; None before the first.
        colds: Full prefills that were not disturbed: tokens and seconds, oldest first.
        model: What the model was loaded from.
        token_bytes: Bytes of one token's KV.
        context_tokens: The model's context.
    """

    speeds: Speeds
    at: float = field(default_factory=time.time)
    rounds: int = 0
    spread: float = 1.0
    delayed: float = 0.0
    load: float | None = None
    disk_bytes_per_second: float | None = None
    colds: tuple[tuple[int, float], ...] = ()
    model: str = ""
    token_bytes: int = 0
    context_tokens: int = 0

    @property
    def disturbed(self) -> bool:
        """Whether it is to be measured again as soon as there is time."""
        return self.delayed > MOST_DELAYED or self.spread > MOST_SPREAD

    @property
    def quality(self) -> str:
        """`quiet` or `disturbed`."""
        return "disturbed" if self.disturbed else "quiet"


def path_of(home: Path, fingerprint: str) -> Path:
    """The file that has a model's speeds."""
    return home / "speeds" / f"{fingerprint[:32]}.json"


def kept(path: Path, setting: str) -> Measurement | None:
    """What was measured in a setting; None where nothing was, or by an earlier version."""
    return _read(_entries(path).get(setting))


def keep(path: Path, setting: str, measurement: Measurement) -> None:
    """Keep a measurement beside those of other settings.

    What another process measured later stays; what was learned from turns is kept all the same.

    Raises:
        OSError: the file cannot be written.
    """
    entries = _entries(path)
    other = _read(entries.get(setting))
    if other is not None and other.at > measurement.at:
        learned = measurement.disk_bytes_per_second or other.disk_bytes_per_second
        measurement = replace(other, colds=measurement.colds, disk_bytes_per_second=learned)
    entries[setting] = asdict(measurement)
    private.write(path, json.dumps(entries, indent=1))


def all_kept(home: Path) -> list[tuple[str, str, Measurement]]:
    """Everything measured in a home folder, oldest first: beginning of the fingerprint, setting, measurement."""
    found = [
        (path.stem, setting, measurement)
        for path in (home / "speeds").glob("*.json")
        for setting, entry in _entries(path).items()
        if (measurement := _read(entry)) is not None
    ]
    return sorted(found, key=lambda each: each[2].at)


def _entries(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _read(entry: Any) -> Measurement | None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("speeds"), Mapping):
        return None
    try:
        colds = tuple((int(tokens), float(seconds)) for tokens, seconds in entry.get("colds", ()))
        return Measurement(**{**entry, "speeds": Speeds(**entry["speeds"]), "colds": colds})
    except (TypeError, ValueError):
        return None
