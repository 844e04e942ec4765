"""The drift predictor, the dial and the second pass's choice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semshare_agents.errors import CalibrationError, ConfigurationError
from semshare_agents.request.options import request_of
from semshare_agents.reuse.dial import plan_within
from semshare_agents.reuse.drift import (
    COVERAGE,
    DEFAULTS,
    FEATURES,
    FORMAT,
    Calibration,
    calibration_for,
    calibration_path,
    features,
    fit,
    read,
    save,
)
from semshare_agents.reuse.look import (
    gathered,
    gathering_layers,
    gone_tokens,
    look_among_moved,
    look_at_moved,
    observation_window,
    seen_rows,
    unseen_tokens,
)
from semshare_agents.reuse.plan import PlanSettings, cold_plan
from semshare_agents.settings import load_settings
from semshare_agents.values import Alignment, BlockRef, Donor, Fidelity, Floats, Kind, Look, Plan, Reason, ReasonCode

TOO_DEAR = Reason(ReasonCode.COLD_IS_FASTER, "too dear")
SETTINGS = PlanSettings(
    head_tokens=8, tail_tokens=4, semantic_share=0.03, look_share=0.0, look_late=False, min_gain=1.0
)


def donor(turn_id: int, tokens: int, depth: int = 0, first: int = 0) -> Donor:
    ids = np.arange(first, first + tokens)
    return Donor(turn_id, ids, (BlockRef(f"k{turn_id}", 0, tokens, tokens),), tokens, depth)


def swapped() -> Alignment:
    """10 exact tokens, then the donor's second half before its first, then 20 new tokens."""
    base = Alignment.empty(230)
    kind, who, source = base.kind, base.donor, base.source
    kind[:10], who[:10], source[:10] = Kind.EXACT, 0, np.arange(10)
    kind[10:210], who[10:210] = Kind.MOVED, 0
    source[10:110], source[110:210] = np.arange(110, 210), np.arange(10, 110)
    return replace(base, donors=(donor(1, 210),))


def found(semantic: bool, tokens: int = 2000) -> Alignment:
    """All but the first and last of some tokens are moved, or, beside some moved ones, semantic matches."""
    base = Alignment.empty(tokens)
    base.kind[1:-1] = Kind.MOVED
    if semantic:
        base.kind[tokens // 2 : -1] = Kind.SEMANTIC
    return base


def test_only_text_that_follows_unknown_text_lacks_something() -> None:
    alignment = swapped()
    assert unseen_tokens(alignment, 10) == 0
    assert unseen_tokens(alignment, 110) == 100
    assert gone_tokens(alignment, 10) == 100
    assert gone_tokens(alignment, 110) == 0
    look = look_at_moved(alignment, 0.5, np.arange(110, 120))
    assert look is not None
    assert look.rows == 50
    assert look.candidates.tolist() == list(range(120, 210))
    assert look_at_moved(alignment, 0.01, np.arange(0)) is None
    among = look_among_moved(alignment, 0.25, np.arange(110, 150))
    assert among is not None
    assert among.candidates.tolist() == [*range(10, 110), *range(150, 210)]
    assert among.rows == 40
    assert look_among_moved(alignment, 0.5, np.arange(230)) is None


def test_text_that_was_dropped_is_gone_and_all_that_is_here_was_seen() -> None:
    base = Alignment.empty(60)
    base.kind[:10], base.donor[:10], base.source[:10] = Kind.EXACT, 0, np.arange(10)
    base.kind[10:50], base.donor[10:50], base.source[10:50] = Kind.MOVED, 0, np.arange(40, 80)
    dropped = replace(base, donors=(donor(1, 80),))
    assert (unseen_tokens(dropped, 10), gone_tokens(dropped, 10)) == (0, 30)
    found = dict(zip(FEATURES, features(dropped, Plan(np.arange(50, 60), cold=False)).tolist(), strict=True))
    assert (found["unseen"], found["gone"]) == (0, pytest.approx(30 / 60))


def test_the_second_pass_takes_what_was_looked_at() -> None:
    attention = np.zeros(20, np.float32)
    attention[[3, 7, 11]] = 1.0, 3.0, 2.0
    even = Look(np.arange(2, 12), np.ones(10, np.float32), 2)
    assert seen_rows([even], attention).tolist() == [7, 11]
    heavy = replace(even, weight=np.where(np.arange(2, 12) == 3, 9.0, 1.0).astype(np.float32))
    assert seen_rows([heavy], attention).tolist() == [3, 7]
    assert seen_rows([even, heavy], attention).tolist() == [3, 7, 11]
    assert not len(seen_rows([], attention))


def test_viewers_are_the_unbroken_end() -> None:
    assert observation_window(np.array([0, 1, 5, 8, 9]), 10) == 2
    assert observation_window(np.arange(100), 100) == 32
    layers = torch.zeros(6, 1, 3)
    layers[3, 0, 1] = 1.0
    layers[5, 0, 2] = 1.0
    assert gathered(layers[list(gathering_layers(6))]).tolist() == [0.0, 1.0, 0.0]


def test_features_count_what_is_not_computed() -> None:
    alignment = swapped()
    plan = Plan(np.arange(210, 230), cold=False)
    found = dict(zip(FEATURES, features(alignment, plan).tolist(), strict=True))
    assert found["moved"] == pytest.approx(200 / 230)
    assert found["unseen"] == pytest.approx(100 / 230)
    assert found["semantic"] == found["distance"] == found["inherited"] == 0
    all_rows = features(alignment, Plan(np.arange(230), cold=True))
    assert not all_rows.any()
    drifted = replace(alignment, donors=(donor(1, 210, depth=2),))
    assert features(drifted, plan)[FEATURES.index("inherited")] == pytest.approx(200 / 230)
    looked = replace(plan, looks=(Look(np.arange(110, 210), np.ones(100, np.float32), 50),))
    assert features(alignment, looked)[FEATURES.index("unseen")] == pytest.approx(50 / 230)
    later = replace(looked, looks=(replace(looked.looks[0], late=True),))
    assert features(alignment, later).tolist() == features(alignment, plan).tolist()


def synthetic(turns: int, noise: float) -> tuple[list[Floats], list[float], Floats]:
    rng = np.random.default_rng(3)
    true = np.array([0.01, 0.05, 0.04, 0.3, 0.6, 0.02])
    x = [rng.random(6).astype(np.float32) * (rng.random(6) < 0.6) for _ in range(turns)]
    x = [v if v.any() else v + np.float32(0.1) for v in x]
    return x, [float(v @ true * np.exp(noise * rng.normal())) for v in x], true


@pytest.mark.slow
def test_a_fit_finds_the_weights_and_keeps_its_margin() -> None:
    x, kl, true = synthetic(300, 0.3)
    found = fit("m", x, kl)
    assert np.abs(np.log(np.asarray(found.weights) / true)).max() < 0.35
    within = np.mean([k <= found.bound_kl(v) for v, k in zip(x, kl, strict=True)])
    assert within == pytest.approx(COVERAGE, abs=0.01)
    exact = fit("m", *synthetic(300, 0.0)[:2])
    assert exact.margin < 1.1 < found.margin


def test_calibrations_are_kept_and_checked(tmp_path: Path) -> None:
    path = calibration_path(tmp_path, "a" * 64)
    assert calibration_for(tmp_path, "a" * 64) is DEFAULTS
    mine = Calibration("a" * 64, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), 2.5, 40)
    save(mine, path)
    assert calibration_for(tmp_path, "a" * 64) == mine
    with pytest.raises(CalibrationError, match="another model"):
        read(path, "b" * 64)
    broken: list[Callable[[dict[str, Any]], Any]] = [
        lambda raw: {**raw, "weights": [1.0]},
        lambda raw: {k: v for k, v in raw.items() if k != "margin"},
        lambda raw: [],
    ]
    for damage in broken:
        path.write_text(json.dumps(damage(json.loads(json.dumps({"format": FORMAT, **vars(mine)})))))
        with pytest.raises(CalibrationError):
            read(path, "a" * 64)
    path.write_text(json.dumps({"format": 1, **vars(mine)}))
    assert read(path, "a" * 64) is DEFAULTS, "what an older version measured says nothing of today's features"
    with pytest.raises(CalibrationError, match="too few"):
        fit("m", *synthetic(5, 0.0)[:2])


@pytest.mark.parametrize("value", ["", "sharp", 0, -1.0, "nan", "inf", None, [], "0"])
def test_wrong_fidelities_are_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="fidelity must be"):
        Fidelity.parse(value)


def test_fidelities_are_words_or_numbers() -> None:
    assert Fidelity.parse("fast").target_kl is None
    assert Fidelity.parse("strict").target_kl < Fidelity.parse("balanced").target_kl  # type: ignore[operator]
    assert Fidelity.parse("0.05") == Fidelity.parse(0.05) == Fidelity("", 0.05)
    likes = [Fidelity.parse(v).like for v in ("strict", 0.001, 0.3, "fast", "auto")]
    assert likes == ["strict", "strict", "balanced", "fast", "fast"]


def test_nobody_who_did_not_ask_for_it_drifts_without_a_ceiling() -> None:
    assert load_settings().fidelity == request_of(load_settings(), [], {}).fidelity == Fidelity.parse("auto")
    assert Fidelity.parse("auto").target_of(semantic=False) == Fidelity.MOVED_KL
    assert Fidelity.parse("auto").target_of(semantic=True) is None
    assert Fidelity.parse("fast").target_of(semantic=False) is None
    assert Fidelity.parse(0.2).target_of(semantic=False) == 0.2


def test_the_dial_spends_no_more_than_it_must() -> None:
    tried: list[PlanSettings] = []

    def plan_of(settings: PlanSettings) -> Plan:
        tried.append(settings)
        drift = 0.4 * (1 - settings.semantic_share) + 0.04 * (1 - settings.moved_share)
        return Plan(np.arange(10), cold=False, drift_kl=drift, predicted_cold_seconds=3.0)

    for word, semantic in (("fast", True), ("fast", False), ("auto", True)):
        tried.clear()
        assert plan_within(Fidelity.parse(word), found(semantic), SETTINGS, plan_of).drift_kl > 0.4
        assert len(tried) == 1
    spent = []
    for target in (0.5, 0.3, 0.1, 0.039):
        tried.clear()
        assert plan_within(Fidelity.parse(target), found(semantic=True), SETTINGS, plan_of).drift_kl <= target
        *refused, taken = list(tried)
        assert all(plan_of(settings).drift_kl > target for settings in refused)
        spent.append((taken.semantic_share, taken.moved_share))
    assert spent == sorted(set(spent))
    tried.clear()
    exact = plan_within(Fidelity.parse(0.001), found(semantic=True), SETTINGS, plan_of)
    assert tried[-1].moved_share == 1.0
    assert exact.cold, "its plan computes every row"
    assert exact.reason is not None
    assert exact.reason.code == ReasonCode.FIDELITY
    assert str(exact.reason) == "the drift is predicted at up to 0.43 nats, more than a mean KL of 0.001 allows: " + (
        "computing more would be a cold prefill, or no quicker"
    )
    tried.clear()
    plan_within(Fidelity.parse("auto"), found(semantic=False), replace(SETTINGS, semantic_share=0.5), plan_of)
    assert len({s.semantic_share for s in tried[1:]}) == 1, "there are no semantic matches to spend rows on"


@pytest.mark.parametrize(("tokens", "hurried"), [(1000, True), (1024, True), (1026, False)])
def test_short_prompts_are_hurried_whatever_is_predicted(tokens: int, hurried: bool) -> None:
    def plan_of(settings: PlanSettings) -> Plan:
        return Plan(np.arange(5, 10), cold=False, drift_kl=1e-6, hurried=settings.hurried)

    def planned(word: str, semantic: bool = False, **more: bool) -> bool:
        settings = replace(SETTINGS, **more)
        return plan_within(Fidelity.parse(word), found(semantic, tokens), settings, plan_of).hurried

    assert planned("auto") == hurried
    assert not planned("fast")
    assert not planned("strict")
    assert not planned("auto", semantic=True)
    assert not planned("auto", may_hurry=False)
    exact = Alignment.empty(50)
    exact.kind[:40] = Kind.EXACT
    assert not plan_within(Fidelity.parse("auto"), exact, SETTINGS, plan_of).hurried


def test_at_last_exact_text_alone_is_reused() -> None:
    def plan_of(settings: PlanSettings) -> Plan:
        drift = 0.4 * (1 - settings.moved_share)
        return Plan(np.arange(5, 10), cold=False, drift_kl=drift, predicted_cold_seconds=3.0)

    plan = plan_within(Fidelity.parse(0.01), found(semantic=False), SETTINGS, plan_of)
    assert not plan.cold
    assert plan.drift_kl == 0
    assert str(plan.reason).endswith(": only exact text is reused")


def test_a_plan_that_computes_more_than_a_cold_one_is_cold() -> None:
    def plan_of(settings: PlanSettings) -> Plan:
        if settings.moved_share > 0.1:
            return cold_plan(7, TOO_DEAR, 1.0)
        return Plan(np.arange(7), cold=False, drift_kl=0.4)

    plan = plan_within(Fidelity.parse("auto"), found(semantic=False), SETTINGS, plan_of)
    assert plan.cold
    assert str(plan.reason).startswith("the drift is predicted at up to 0.4 nats, more than auto allows")


def test_a_cold_plan_ends_the_search() -> None:
    plan = plan_within(Fidelity.parse("strict"), found(semantic=False), SETTINGS, lambda _: cold_plan(7, TOO_DEAR, 1.0))
    assert plan.reason == TOO_DEAR
