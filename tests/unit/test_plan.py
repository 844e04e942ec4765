"""Which rows are computed, and when a turn is cold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from semshare_agents.errors import ConfigurationError
from semshare_agents.observe.report import make_report
from semshare_agents.reuse.cost import CostModel
from semshare_agents.reuse.kinds import exact_frontier
from semshare_agents.reuse.look import look_at_moved
from semshare_agents.reuse.plan import PlanSettings, cold_plan, make_plan, required_rows, used_rows, without
from semshare_agents.reuse.strategies import STRATEGIES, Candidates, Deviation, Question, Static, make_strategy
from semshare_agents.timing.delays import Timed
from semshare_agents.values import Alignment, BlockRef, Donor, Kind, Plan, Reason, ReasonCode
from semshare_agents.values.reason import REUSE_OFF
from tests import tiny

TOKENS = 200


def donor(turn_id: int = 1, tokens: int = 400) -> Donor:
    blocks = tuple(BlockRef(f"{turn_id}-{at}", at, 16, 16) for at in range(0, tokens, 16))
    return Donor(turn_id, np.arange(tokens), blocks, tokens)


def aligned(*parts: tuple[int, int, Kind, int, int], donors: tuple[Donor, ...] | None = None) -> Alignment:
    """An alignment of `(start, end, kind, donor, source)` parts."""
    out = Alignment.empty(TOKENS)
    for start, end, kind, who, source in parts:
        out.kind[start:end], out.donor[start:end] = kind, who
        out.source[start:end] = np.arange(source, source + end - start)
        if kind is Kind.SEMANTIC:
            out.distance[start:end] = np.linspace(0.1, 0.4, end - start)
    return replace(out, donors=donors or (donor(1), donor(2)))


SETTINGS = PlanSettings(
    head_tokens=8, tail_tokens=10, semantic_share=0.1, look_share=0.0, look_late=False, min_gain=1.0
)


def plan(alignment: Alignment, cost: CostModel | None = None, strategy: str = "static", **more: object) -> Plan:
    settings = replace(SETTINGS, **more)  # type: ignore[arg-type]
    return make_plan(alignment, settings, make_strategy(strategy), cost or tiny.cost(), 6, lambda _: False)


def test_unmatched_rows_and_the_tail_are_computed() -> None:
    found = plan(aligned((0, 150, Kind.EXACT, 0, 0)))
    assert not found.cold
    assert found.rows.tolist() == list(range(150, 200))
    whole = plan(aligned((0, 200, Kind.EXACT, 0, 0)))
    assert whole.rows.tolist() == list(range(190, 200))


def test_the_head_of_a_moved_span_and_the_sinks_are_computed() -> None:
    moved = required_rows(aligned((0, 20, Kind.EXACT, 0, 0), (30, 180, Kind.MOVED, 0, 50)), 8, 10)
    assert np.flatnonzero(moved).tolist() == [*range(20, 38), *range(180, 200)]
    first = required_rows(aligned((0, 200, Kind.MOVED, 0, 50)), 0, 1)
    assert np.flatnonzero(first).tolist() == [0, 1, 2, 3, 199]


def test_no_head_where_the_donor_had_the_same_text_before() -> None:
    first, second = donor(1), replace(donor(2), tokens=np.concatenate((np.arange(300, 350), np.arange(350))))
    parts = ((0, 150, Kind.MOVED, 0, 10), (150, 200, Kind.MOVED, 1, 210))
    joined = required_rows(aligned(*parts, donors=(first, second)), 8, 1)
    assert np.flatnonzero(joined).tolist() == [*range(8), 199]
    other = replace(second, tokens=np.where(np.arange(400) == 209, 0, second.tokens))
    assert required_rows(aligned(*parts, donors=(first, other)), 8, 1)[150:158].all()
    gap = ((0, 150, Kind.MOVED, 0, 10), (151, 200, Kind.MOVED, 1, 211))
    assert required_rows(aligned(*gap, donors=(first, second)), 8, 1)[151:159].all()


def test_text_that_goes_on_in_its_donor_needs_no_new_head() -> None:
    stays = required_rows(aligned((0, 50, Kind.MOVED, 0, 7), (50, 190, Kind.MOVED, 0, 57)), 8, 10)
    assert not stays[50:58].any()
    jumps = required_rows(aligned((0, 50, Kind.MOVED, 0, 7), (50, 190, Kind.MOVED, 0, 90)), 8, 10)
    assert jumps[50:58].all()
    other = required_rows(aligned((0, 50, Kind.MOVED, 0, 7), (50, 190, Kind.MOVED, 1, 57)), 8, 10)
    assert other[50:58].all()


def test_semantic_rows_are_spent_on_the_furthest() -> None:
    found = plan(aligned((0, 10, Kind.EXACT, 0, 0), (10, 190, Kind.SEMANTIC, 0, 10)), head_tokens=0)
    chosen = np.setdiff1d(found.rows, found.required)
    assert len(chosen) == 18
    assert chosen.tolist() == list(range(172, 190))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_static_strategy_keeps_its_budget(share: float) -> None:
    candidates, far = np.arange(50, 150), np.random.default_rng(0).random(100).astype(np.float32)
    choice = Static().choose(Candidates(candidates, far, far), share, 12)
    assert len(choice.rows) == round(share * 100)
    assert (np.diff(choice.rows) > 0).all()
    assert choice.layer_shares == ()
    left = np.setdiff1d(candidates, choice.rows)
    if len(choice.rows) and len(left):
        assert far[choice.rows - 50].min() >= far[left - 50].max()


@pytest.mark.parametrize("share", [0.0, 0.03, 0.25, 1.0])
def test_half_of_the_questions_strategy_goes_to_what_is_asked_for(share: float) -> None:
    rng = np.random.default_rng(1)
    candidates, far = np.arange(50, 250), rng.random(200).astype(np.float32)
    asked = np.zeros(200, np.float32)
    asked[20:50], asked[90:100] = 1.5, 4.0
    choice = Question().choose(Candidates(candidates, far, asked), share, 12)
    budget = round(share * 200)
    assert len(choice.rows) == budget
    assert (np.diff(choice.rows) > 0).all()
    likeliest = [*range(140, 150), *range(70, 100)]
    assert np.isin(likeliest[: round(budget / 2)], choice.rows).all()


def test_rows_that_nobody_asks_for_are_late_or_far() -> None:
    rows, none = np.arange(100), np.zeros(100, np.float32)
    late = Question().choose(Candidates(rows, np.full(100, 0.2, np.float32), none), 0.1, 12)
    assert late.rows.tolist() == list(range(90, 100))
    far = np.where(rows == 40, 0.45, 0.01).astype(np.float32)
    assert 40 in Question().choose(Candidates(rows, far, none), 0.1, 12).rows


def test_a_plan_tells_its_strategy_what_is_asked_for() -> None:
    found = aligned((0, 10, Kind.EXACT, 0, 0), (10, 190, Kind.SEMANTIC, 0, 10))
    asked = np.zeros(TOKENS, np.float32)
    asked[30:36] = 1.0
    rows = plan(replace(found, asked=asked), strategy="question", head_tokens=0).rows
    assert np.isin(range(30, 36), rows).all()
    assert not np.isin(range(30, 36), plan(found, strategy="question", head_tokens=0).rows).any()


@pytest.mark.parametrize("layers", [3, 12, 30])
def test_the_papers_strategy_computes_more_rows_in_shallow_layers(layers: int) -> None:
    none = np.zeros(100, np.float32)
    choice = Deviation().choose(Candidates(np.arange(100), none, none), 0.1, layers)
    shares = choice.layer_shares
    assert len(shares) == layers
    assert choice.rows.tolist() == list(range(100))
    assert shares[: choice.check_layer + 1] == (1.0,) * (choice.check_layer + 1)
    assert list(shares) == sorted(shares, reverse=True)
    above = shares[choice.check_layer + 1 :]
    assert not above or np.mean(above) == pytest.approx(0.1)


def test_strategies_are_known_by_name() -> None:
    for name in STRATEGIES:
        assert make_strategy(name).name == name
    with pytest.raises(ConfigurationError, match="static"):
        make_strategy("luck")


def test_nothing_found_is_cold_with_a_reason() -> None:
    nothing = plan(Alignment.empty(TOKENS))
    assert nothing.cold
    assert nothing.rows.tolist() == list(range(TOKENS))
    assert nothing.reason
    unlike = plan(replace(Alignment.empty(TOKENS), refused=Reason(ReasonCode.NOT_SIMILAR, "similarity 0.31 is low")))
    assert unlike.reason == Reason(ReasonCode.NOT_SIMILAR, "similarity 0.31 is low")


def test_cold_where_reuse_would_take_longer() -> None:
    alignment = aligned((0, 150, Kind.EXACT, 0, 0))
    assert plan(alignment, tiny.cost(tiny.COLD_WINS)).cold
    assert not plan(alignment, tiny.cost(tiny.REUSE_WINS)).cold
    assert plan(alignment, tiny.cost(tiny.REUSE_WINS), min_gain=1e12).cold
    refused = plan(replace(alignment, refused=Reason(ReasonCode.FACTS, "facts differ")), tiny.cost(tiny.COLD_WINS))
    assert refused.reason is not None
    assert refused.reason.codes == (ReasonCode.FACTS, ReasonCode.COLD_IS_FASTER)
    assert refused.reason.text.startswith("facts differ; reuse would take")


def test_disk_is_dearer_than_ram() -> None:
    cost = CostModel(tiny.REUSE_WINS, token_bytes=50_000_000)
    rows = np.arange(10)
    assert cost.reuse_seconds(rows, 1.0, 100, 100) > cost.reuse_seconds(rows, 1.0, 100, 0) + 1.0
    cost.saw_disk(1 << 30, 100.0)
    slower = cost.reuse_seconds(rows, 1.0, 100, 100)
    for _ in range(50):
        cost.saw_disk(1 << 30, 0.01)
    assert cost.reuse_seconds(rows, 1.0, 100, 100) < slower / 2


def test_the_cost_model_learns_from_cold_runs() -> None:
    cost = tiny.cost()
    first = cost.cold_seconds(1000)
    for _ in range(60):
        cost.saw_cold(1000, Timed(None, first * 2, 0.0))
    assert cost.cold_seconds(1000) == pytest.approx(2 * first, rel=0.01)
    cost.saw_cold(1000, Timed(None, first * 1e9, 0.0))
    assert cost.cold_seconds(1000) < 6 * first


def test_a_machine_that_got_slower_is_slower_for_parts_too() -> None:
    cost, rows = tiny.cost(), np.arange(16, 1000)
    gain = cost.cold_seconds(1000) / cost.reuse_seconds(rows, 1.0, 0, 0)
    for _ in range(20):
        cost.saw_cold(1000, Timed(None, cost.cold_seconds(1000) * 3, 0.0))
    assert cost.cold_seconds(1000) / cost.reuse_seconds(rows, 1.0, 0, 0) == pytest.approx(gain)


def test_predictions_grow_with_rows_and_tokens() -> None:
    cost = tiny.cost()
    assert cost.cold_seconds(2000) > 2 * cost.cold_seconds(1000)
    assert cost.reuse_seconds(np.arange(900, 1000), 1.0, 0, 0) > cost.reuse_seconds(np.arange(990, 1000), 1.0, 0, 0)


def test_missing_blocks_are_computed_instead() -> None:
    alignment = aligned((0, 160, Kind.EXACT, 0, 0))
    left = without(alignment, {"1-32"})
    assert (left.kind[32:48] == Kind.COMPUTED).all()
    assert (left.donor[32:48] == -1).all()
    assert (left.kind[:32] == Kind.EXACT).all()
    assert (left.kind[48:160] != Kind.COMPUTED).all()
    assert (alignment.kind[:160] == Kind.EXACT).all(), "the original stays as it was"


def test_loaded_rows_are_the_matched_ones_not_computed() -> None:
    alignment = aligned((0, 150, Kind.EXACT, 0, 0))
    assert used_rows(plan(alignment), alignment).tolist() == list(range(150))
    semantic = aligned((0, 10, Kind.EXACT, 0, 0), (10, 190, Kind.SEMANTIC, 0, 10))
    layered = plan(semantic, strategy="deviation", head_tokens=0)
    assert used_rows(layered, semantic).tolist() == list(range(190))


def test_the_exact_frontier_ends_at_the_first_approximate_row() -> None:
    alignment = aligned((0, 60, Kind.EXACT, 0, 0), (60, 190, Kind.MOVED, 1, 70))
    assert exact_frontier(alignment, plan(alignment)) == 68
    assert exact_frontier(alignment, cold_plan(TOKENS, REUSE_OFF)) == TOKENS
    exact = aligned((0, 150, Kind.EXACT, 0, 0))
    assert exact_frontier(exact, plan(exact)) == TOKENS


def test_reports_add_up_also_where_one_turn_is_two_donors() -> None:
    same = (donor(1), donor(1))
    alignment = aligned((0, 60, Kind.EXACT, 0, 0), (60, 150, Kind.SEMANTIC, 1, 70), donors=same)
    chosen = plan(alignment, semantic_share=0.0, head_tokens=0)
    report = make_report(alignment, chosen, {}, 0.1, 0, 6, 0)
    assert report.tokens == {"computed": 50, "exact": 60, "moved": 0, "semantic": 90}
    assert report.donors == {1: 150}
    assert report.reuse_class == "semantic"
    assert report.rows_share == 50 / TOKENS


def test_runs_are_cut_at_every_change() -> None:
    alignment = aligned((0, 60, Kind.EXACT, 0, 0), (60, 90, Kind.MOVED, 0, 60), (90, 120, Kind.MOVED, 0, 95))
    assert alignment.runs() == [(0, 60), (60, 90), (90, 120)]
    assert Alignment.empty(0).runs() == []


def test_moved_text_that_is_computed_anyway_is_not_looked_at() -> None:
    alignment = aligned((50, 150, Kind.MOVED, 0, 20))
    assert look_at_moved(alignment, 1.0, np.zeros(0, np.int64)) is not None
    assert look_at_moved(alignment, 1.0, np.arange(50, 150)) is None
