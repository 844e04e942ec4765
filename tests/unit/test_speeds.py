"""Speeds: what of a measurement can be true, what turns teach, what is kept."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semshare_agents.observe.report import saved
from semshare_agents.reuse.colds import ColdRuns
from semshare_agents.reuse.cost import CostModel, figures
from semshare_agents.reuse.disk import FORGETS_SECONDS
from semshare_agents.reuse.measure import measure, measured
from semshare_agents.reuse.speeds import Measurement, Passes, Speeds, Times, all_kept, fitted, keep, kept, path_of
from semshare_agents.timing import delays
from semshare_agents.timing.delays import Timed, timed
from tests import tiny

PASSES = Passes.within(2048)
TOKEN_BYTES = 46080
QUIET = Speeds(0.055, 0.0018, 1e-6, 0.0015, 1e-6, 1e10)
"""About those of the default model on two quiet cores."""


def times_of(speeds: Speeds, passes: Passes = PASSES) -> Times:
    """What a machine of these speeds would be measured at: the sums written out."""

    def part(count: int, end: int) -> float:
        keys = sum(range(end - count + 1, end + 1))
        return speeds.pass_seconds + count * speeds.row_seconds + keys * speeds.pair_seconds

    def full(count: int) -> float:
        return speeds.pass_seconds + count * speeds.cold_row_seconds + count**2 / 2 * speeds.cold_pair_seconds

    few = part(passes.few, passes.near), part(passes.few, passes.far)
    return Times(part(1, passes.near), *few, full(passes.short), full(passes.long), speeds.load_bytes_per_second)


def next_turn_pays(speeds: Speeds, tokens: int = 1500, new: int = 64) -> bool:
    cost = CostModel(speeds, TOKEN_BYTES)
    reuse = cost.reuse_seconds(np.arange(tokens - new, tokens), 1.0, tokens - new, 0)
    return reuse * 1.1 < cost.cold_seconds(tokens)


def quick(seconds: float) -> Timed[None]:
    return Timed(None, seconds, 0.0)


@pytest.mark.parametrize("disturbed", [False, True])
def test_a_quiet_measurement_gives_the_speeds_there_are(disturbed: bool) -> None:
    found = fitted(times_of(QUIET), PASSES, disturbed)
    for name, value in vars(QUIET).items():
        assert getattr(found, name) == pytest.approx(value, rel=0.08), name


@pytest.mark.parametrize(("row", "cold_row"), [(0.0025, 0.0019), (0.027, 0.014), (0.233, 0.014)])
@pytest.mark.parametrize("disturbed", [False, True])
def test_first_starts_beside_others_do_not_switch_reuse_off(row: float, cold_row: float, disturbed: bool) -> None:
    seen = times_of(replace(QUIET, row_seconds=row, cold_row_seconds=cold_row, pass_seconds=20 * row))
    assert next_turn_pays(fitted(seen, PASSES, disturbed))


SECONDS = st.floats(1e-4, 100.0)


@given(one=SECONDS, near=SECONDS, far=SECONDS, short=SECONDS, long=SECONDS, disturbed=st.booleans())
def test_whatever_was_measured_could_be_true(
    one: float, near: float, far: float, short: float, long: float, disturbed: bool
) -> None:
    found = fitted(Times(one, near, far, short, long, 1e10), PASSES, disturbed)
    mean = long / PASSES.long
    assert found.cold_row_seconds <= found.row_seconds <= 3 * mean * (1 + 1e-9)
    assert 0 <= found.pass_seconds <= long
    assert 0 < found.pair_seconds <= mean / PASSES.long * (1 + 1e-9)
    cost = CostModel(found, TOKEN_BYTES)
    # A part is never dearer than three times the whole, and a tenth of the rows not dearer than it is.
    rows = np.arange(0, 1000, 10)
    assert cost.pass_seconds(rows) <= 3 * long * 1000 / PASSES.long + 1e-9
    few_shared = cost.reuse_seconds(np.arange(16, 1000), 1.0, 16, 0)
    assert few_shared * 1.1 > cost.cold_seconds(1000), "a few shared tokens never pay"
    if disturbed:
        assert next_turn_pays(replace(found, load_bytes_per_second=1e15))


def test_an_accelerator_that_takes_as_long_for_one_row_as_for_many_reuses_long_prompts() -> None:
    """A row of a full prefill costs more than one of a pass over few, which is mostly waiting for weights."""
    passes = Passes.within(8192, accelerator=True)
    assert passes.long == 2048
    found = fitted(Times(0.010, 0.0101, 0.0102, 0.016, 0.050, 1e12), passes, disturbed=False)
    assert found.cold_row_seconds > 1e-5
    assert next_turn_pays(found, tokens=8000)


def test_passes_fit_small_contexts() -> None:
    for context in (64, 100, 512, 2048, 131072):
        passes = Passes.within(context)
        assert 1 < passes.few < passes.short < passes.long <= context or context < 100
        assert passes.few <= passes.near <= passes.far <= max(context, 64)


def test_measuring_a_model_gives_times_and_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tiny.loaded("llama").support.rows
    assert rows is not None
    found = measure(rows, 512)
    assert found.rounds >= 3
    assert found.spread >= 1.0
    assert found.delayed >= 0.0
    assert abs(found.at - time.time()) < 60
    assert found.speeds.row_seconds >= found.speeds.cold_row_seconds > 0
    waited = itertools.count()
    monkeypatch.setattr(delays, "_waited_seconds", lambda _: {"thread": float(next(waited))})
    busy = measure(rows, 512)
    assert busy.disturbed
    assert busy.quality == "disturbed"
    assert not busy.colds, "a full prefill beside others is no measure of one"


def test_a_computation_that_shares_its_processor_is_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the kernel's figures: a thread that slept half its time did not run."""
    monkeypatch.setattr(delays, "_waited_seconds", lambda _: {})
    cpu = torch.device("cpu")
    assert timed(lambda: time.sleep(0.05), cpu).disturbed
    spent = timed(lambda: sum(i * i for i in range(200_000)), cpu)
    assert spent.seconds > 0
    assert spent.result == sum(i * i for i in range(200_000))


def test_speeds_are_kept_with_their_date_and_quality(tmp_path: Path) -> None:
    rows = tiny.loaded("llama").support.rows
    assert rows is not None
    first = measured(rows, 512, "f" * 64, tmp_path, "tiny")
    assert measured(rows, 512, "f" * 64, tmp_path) == first
    ((name, setting, again),) = all_kept(tmp_path)
    assert (name, again) == ("f" * 32, first)
    assert setting.startswith("cpu-")
    assert first.model == "tiny"


def test_what_earlier_versions_kept_is_measured_anew(tmp_path: Path) -> None:
    path = path_of(tmp_path, "a" * 64)
    path.parent.mkdir(parents=True)
    for text in (json.dumps({"cpu": vars(QUIET)}), "[]", "{", json.dumps({"cpu": {"speeds": {"row": 1}}})):
        path.write_text(text)
        assert kept(path, "cpu") is None
        assert all_kept(tmp_path) == []


def test_a_later_measurement_of_another_process_stays(tmp_path: Path) -> None:
    path = path_of(tmp_path, "a" * 64)
    newer = Measurement(replace(QUIET, row_seconds=0.5), at=200.0)
    keep(path, "cpu", newer)
    keep(path, "cpu", Measurement(QUIET, at=100.0, colds=((300, 1.0),), disk_bytes_per_second=5e6))
    found = kept(path, "cpu")
    assert found is not None
    assert (found.speeds, found.at) == (newer.speeds, 200.0)
    assert found.colds == ((300, 1.0),), "what turns taught is kept"
    assert found.disk_bytes_per_second == 5e6


# --- learning


def test_a_disturbed_pass_teaches_nothing() -> None:
    cost = CostModel(QUIET, TOKEN_BYTES)
    before = cost.cold_seconds(1000)
    for _ in range(20):
        cost.saw_cold(1000, Timed(None, 60.0, 0.5))
        cost.saw_rows(np.arange(900, 1000), Timed(None, 60.0, 0.5))
    assert cost.cold_seconds(1000) == before
    assert not cost.doubted
    assert cost.like_cold(1000) is None


def test_passes_over_parts_teach_too_and_keep_what_they_are_to_full_ones() -> None:
    cost, rows = CostModel(QUIET, TOKEN_BYTES), np.arange(900, 1000)
    ratio = cost.cold_seconds(1000) / cost.pass_seconds(rows)
    slow = 2 * cost.pass_seconds(rows)
    for _ in range(30):
        cost.saw_rows(rows, quick(slow))
    assert cost.pass_seconds(rows) == pytest.approx(slow, rel=0.01)
    assert cost.cold_seconds(1000) / cost.pass_seconds(rows) == pytest.approx(ratio)


def test_speeds_that_miss_again_and_again_are_doubted_and_renewed() -> None:
    cost, rows = CostModel(replace(QUIET, row_seconds=0.05), TOKEN_BYTES), np.arange(800, 1000)
    for _ in range(2):
        cost.saw_rows(rows, quick(0.5))
    assert not cost.doubted
    cost.saw_rows(rows, quick(0.5))
    assert cost.doubted
    cost.renew(Measurement(QUIET))
    assert not cost.doubted
    for _ in range(10):
        cost.saw_rows(rows, quick(cost.pass_seconds(rows) * 1.2))
    assert not cost.doubted, "what is about right is right"


def test_refusing_again_and_again_puts_speeds_in_question() -> None:
    cost = CostModel(QUIET, TOKEN_BYTES)
    for _ in range(3):
        cost.saw_refusal()
    assert cost.doubted
    cost.saw_rows(np.arange(900, 1000), quick(cost.pass_seconds(np.arange(900, 1000))))
    assert not cost.doubted


def test_a_disk_that_was_slow_once_is_tried_again() -> None:
    now = [0.0]
    cost = CostModel(QUIET, TOKEN_BYTES, clock=lambda: now[0])
    cost.saw_disk(1000, 50.0)
    assert cost.disk_bytes_per_second() == pytest.approx(1e9), "a small load says nothing"
    for _ in range(12):
        cost.saw_disk(8 << 20, 8.0)
    slow = cost.disk_bytes_per_second()
    assert slow == pytest.approx((8 << 20) / 8.0, rel=0.1)
    now[0] += 20 * FORGETS_SECONDS
    assert cost.disk_bytes_per_second() > 0.9e9
    assert cost.known().disk_bytes_per_second is not None


def test_one_slow_load_is_not_believed_at_once() -> None:
    cost = CostModel(QUIET, TOKEN_BYTES)
    cost.saw_disk(8 << 20, 100.0)
    assert cost.disk_bytes_per_second() > 1e9 / 5


# --- savings


def test_colds_of_like_length_say_what_a_prefill_takes() -> None:
    runs = ColdRuns([(1000, 2.0), (1000, 2.2), (1100, 2.2), (4000, 20.0)])
    like = runs.like(1000, float)
    assert like is not None
    assert (like.low, like.seconds, like.high, like.runs) == (pytest.approx(2.0), pytest.approx(2.0), 2.2, 3)
    assert runs.like(300, float) is None
    assert runs.like(2000, float) is None
    brought = runs.like(3000, lambda n: float(n**2))
    assert brought is not None
    assert brought.seconds == pytest.approx(20.0 * 9 / 16)


def test_newer_colds_take_the_place_of_older_ones() -> None:
    runs = ColdRuns()
    for _ in range(100):
        runs.add(1000, 9.0)
    for _ in range(9):
        runs.add(1000, 1.0)
    like = runs.like(1000, float)
    assert like is not None
    assert (like.low, like.high) == (1.0, 1.0)


STAGES = {"wait": 50.0, "tokenise": 0.1, "find": 0.2, "align": 0.1, "plan": 0.1, "load": 0.6, "compute": 1.0}


def test_savings_are_net_signed_and_without_waiting() -> None:
    like = ColdRuns([(1000, 5.0), (1000, 4.0), (1000, 6.0)]).like(1000, float)
    found = saved(STAGES, False, like)
    assert found is not None
    assert (found.low, found.seconds, found.high) == (pytest.approx(2.0), pytest.approx(3.0), pytest.approx(4.0))
    assert found.runs == 3
    lost = saved(STAGES, False, ColdRuns([(1000, 0.5)]).like(1000, float))
    assert lost is not None
    assert lost.seconds == pytest.approx(-1.5)
    assert saved(STAGES, False, None) is None
    cold = saved(STAGES, True, None)
    assert cold is not None
    assert cold.seconds == pytest.approx(-1.0), "it looked, planned and loaded in vain"


def test_figures_say_from_which_length_on_reuse_pays() -> None:
    found = figures(Measurement(QUIET, token_bytes=TOKEN_BYTES, context_tokens=8192), 1.1)
    tokens = found["break_even_tokens"]
    assert 64 < tokens < 300
    cold, again = found["predicted_seconds"]["2000"]
    assert cold > 5 * again
    assert found["quality"] == "quiet"
    costly = replace(QUIET, load_bytes_per_second=1.0)
    assert figures(Measurement(costly, token_bytes=TOKEN_BYTES, context_tokens=8192), 1.1)["break_even_tokens"] is None
    json.dumps(found)
