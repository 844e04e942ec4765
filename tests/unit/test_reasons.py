"""Reasons are codes to count and sentences to read; nothing reads the sentences."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from semshare_agents.observe.metrics import Metrics
from semshare_agents.observe.observers import TurnSeen
from semshare_agents.observe.report import computed_again, make_report
from semshare_agents.request.options import request_of
from semshare_agents.reuse.plan import cold_plan, without
from semshare_agents.settings import load_settings
from semshare_agents.values import (
    Alignment,
    BlockRef,
    Donor,
    Generation,
    Kind,
    Plan,
    Reason,
    ReasonCode,
    Report,
    Reuse,
    Usage,
)
from semshare_agents.values.reason import NOTHING_STORED, REUSE_OFF, joined

ROOT = Path(__file__).parents[2]
GUARD = Reason(ReasonCode.GUARD, "narrowed to exact by the guard: mean KL 0.3 over 8 moved samples, budget 0.03")


def report_of(reason: Reason | None) -> Report:
    return make_report(Alignment.empty(10), cold_plan(10, reason), {}, 0.1, misses=0, layers=2, candidates=0)


def counted(report: Report) -> dict[str, float]:
    """What the metrics count of a turn with this report."""
    metrics = Metrics()
    generation = Generation("", (), "stop", Usage(10, 1, 0), report)
    metrics.turn(
        TurnSeen("tiny", request_of(load_settings(), [{"role": "user", "content": "a"}], {}), generation, 0, 1)
    )
    samples = (s for family in metrics.registry.collect() for s in family.samples)
    return {s.labels["reason"]: s.value for s in samples if s.name == "semshare_fallbacks_total"}


@pytest.mark.parametrize("code", ReasonCode)
def test_metrics_count_codes_whatever_the_sentence_says(code: ReasonCode) -> None:
    assert counted(report_of(Reason(code, "reuse is off, say the guard and the facts"))) == {code.value: 1.0}


def test_a_turn_without_a_reason_is_not_counted() -> None:
    report = report_of(None)
    assert (report.reason, report.reason_code, report.reason_codes) == ("", "", ())
    assert counted(report) == {}


def test_labels_stay_and_are_documented() -> None:
    labels = "memory guard off nothing-stored not-similar nothing-left misses computed-again cold-is-faster fidelity"
    assert set(ReasonCode) == {*labels.split(), "window", "facts", "model", "near-tie"}
    told = re.search(r"^\*\*Reasons\*\* are (.+?)\.\s", (ROOT / "docs" / "server.md").read_text(), re.M | re.S)
    assert told is not None
    assert set(re.findall(r"`([a-z-]+)`", told[1])) == set(ReasonCode)


def test_of_several_reasons_the_first_counts_and_all_are_told() -> None:
    both = joined(None, GUARD, NOTHING_STORED)
    assert both is not None
    assert both.text == f"{GUARD.text}; nothing stored matches this prompt"
    assert both.codes == (ReasonCode.GUARD, ReasonCode.NOTHING_STORED)
    assert joined(both, REUSE_OFF) == joined(GUARD, NOTHING_STORED, REUSE_OFF)
    assert joined(GUARD) == GUARD
    assert joined(None, None) is None


def test_what_comes_before_a_report_counts_first() -> None:
    report = report_of(NOTHING_STORED)
    narrowed = report.preceded_by(GUARD)
    assert narrowed.reason == f"{GUARD}; nothing stored matches this prompt"
    assert narrowed.reason_codes == ("guard", "nothing-stored")
    assert counted(narrowed) == {"guard": 1.0}
    assert report_of(None).preceded_by(GUARD).reason == GUARD.text
    assert report.preceded_by(None) is report


def test_lost_blocks_count_before_what_follows_from_them() -> None:
    donor = Donor(1, np.arange(20), (BlockRef("a", 0, 20, 20),), 20)
    whole = Alignment.empty(20)
    whole.kind[:], whole.donor[:], whole.source[:] = Kind.MOVED, 0, np.arange(20)
    lost = without(Alignment(whole.kind, whole.donor, whole.source, whole.distance, (donor,)), {"a"})
    assert lost.refused == Reason(ReasonCode.MISSES, "1 stored blocks could not be served")
    again = computed_again(Reuse.MOVED, whole, Plan(np.arange(20), cold=False), misses=2)
    assert again is not None
    assert again.codes == (ReasonCode.MISSES, ReasonCode.COMPUTED_AGAIN)
    assert str(again).endswith("; every token with a moved match is computed again")


def test_a_report_is_plain_json_of_its_own() -> None:
    report = report_of(NOTHING_STORED).preceded_by(GUARD)
    told = json.loads(json.dumps(report.as_dict()))
    assert told["reason"] == report.reason
    assert told["reason_codes"] == ["guard", "nothing-stored"]
    assert told["turn_id"] is None
    stored = json.loads(json.dumps(report.as_stored()))
    assert set(stored) == set(told) - {"turn_id"} | {"spans"}
    assert stored["spans"] == [[10, 0]]
