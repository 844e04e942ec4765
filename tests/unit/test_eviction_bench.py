"""Traces and their replay."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from semshare_agents.bench.eviction import CLAIRVOYANT, Setup, all_bytes, simulate
from semshare_agents.bench.traces import Mix, Visit, block_names, draw_trace, read_trace, write_trace
from semshare_agents.cli.main import app
from semshare_agents.errors import ConfigurationError
from semshare_agents.evict import POLICIES
from semshare_agents.reuse.cost import CostModel
from semshare_agents.reuse.speeds import Speeds

SPEEDS = Speeds(0.0, 0.0, 0.0, 1e-3, 1e-6, 1e12)
SETUP = Setup(CostModel(SPEEDS, 1), token_bytes=1)
SMALL = Mix(bursts=60, users=15)


def lru_by_hand(trace: list[Visit], budget_blocks: int) -> tuple[int, float]:
    """Hit tokens and seconds saved, counted token by token on an ordered dict."""
    kept: OrderedDict[str, None] = OrderedDict()
    hits, seconds = 0, 0.0
    for visit in trace:
        asked = visit.blocks[: visit.prompt_tokens // 64]
        length = next((i for i, key in enumerate(asked) if key not in kept), len(asked))
        hits += 64 * length
        seconds += sum(1e-3 + 1e-6 * position for position in range(64 * length))
        for key in reversed(asked[:length]):
            kept.move_to_end(key)
        for index, key in reversed(list(enumerate(visit.blocks))):
            if index < length and key not in kept:
                continue  # read, then gone for the rest of the turn
            kept[key] = None
            kept.move_to_end(key)
            while len(kept) > budget_blocks:
                kept.popitem(last=False)
    return hits, seconds


@pytest.mark.parametrize("share", [5, 20, 100])
def test_a_replay_of_lru_is_what_counting_by_hand_gives(share: int) -> None:
    trace = draw_trace(SMALL, 3)
    budget = all_bytes(trace, SETUP) * share // 100
    found = simulate(trace, "lru", budget, SETUP)
    hits, seconds = lru_by_hand(trace, budget // SETUP.block_bytes)
    assert found.hit_tokens == hits
    assert found.saved_seconds == pytest.approx(seconds, rel=2e-3)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_no_policy_beats_a_memory_without_limits(policy: str) -> None:
    trace = draw_trace(SMALL, 1)
    total = all_bytes(trace, SETUP)
    most = simulate(trace, "lru", total, SETUP)
    found = simulate(trace, policy, total // 5, SETUP)
    assert 0 < found.saved_seconds <= most.saved_seconds <= most.cold_seconds
    assert found.evicted_bytes > most.evicted_bytes == 0


def best_by_search(trace: list[Visit], budget_blocks: int) -> int:
    """Most hits that any choice of what to keep can have, by trying all choices; prompts of one block each."""
    reached: dict[frozenset[str], int] = {frozenset(): 0}
    for visit in trace:
        (key,) = visit.blocks
        following: dict[frozenset[str], int] = {}
        for kept, hits in reached.items():
            hits += key in kept
            room = kept | {key}
            for state in [room] if len(room) <= budget_blocks else [room - {one} for one in kept]:
                following[state] = max(hits, following.get(state, -1))
        reached = following
    return max(reached.values())


@pytest.mark.parametrize("seed", range(5))
def test_knowing_what_comes_is_the_best_that_can_be_had(seed: int) -> None:
    keys = np.random.default_rng(seed).integers(0, 7, 40)
    trace = [Visit(float(at), "", "s", 64, 64, (f"b{key}",)) for at, key in enumerate(keys)]
    found = simulate(trace, CLAIRVOYANT, 3 * SETUP.block_bytes, SETUP)
    assert found.hit_tokens == 64 * best_by_search(trace, 3)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_no_policy_beats_one_that_knows_what_comes(policy: str) -> None:
    trace = draw_trace(SMALL, 2)
    budget = all_bytes(trace, SETUP) // 10
    assert simulate(trace, policy, budget, SETUP).hit_tokens <= simulate(trace, CLAIRVOYANT, budget, SETUP).hit_tokens


def test_gaps_end_exact_reuse_and_moved_reuse_goes_on_behind_them() -> None:
    head = Visit(0.0, "", "s", 64, 64, ("a",))
    whole = Visit(1.0, "", "s", 192, 192, ("a", "b", "c"))
    swept = [Visit(2.0, "", "t", 64, 64, ("x",)), Visit(3.0, "", "s", 128, 128, ("a", "c"))]
    again = Visit(4.0, "", "s", 192, 192, ("a", "b", "c"))
    trace, budget = [head, whole, *swept, again], 3 * 64
    # Room for three: x takes the place of c, c that of b; then a and c are there, b is not.
    assert simulate(trace, "lru", budget, SETUP).hit_tokens == 64 + 64 + 64
    assert simulate(trace, "lru", budget, Setup(CostModel(SPEEDS, 1), 1, moved=True)).hit_tokens == 64 + 64 + 64 + 32


def test_traces_are_seeded_shared_and_survive_a_file(tmp_path: Path) -> None:
    trace = draw_trace(SMALL, 7)
    assert trace == draw_trace(SMALL, 7) != draw_trace(SMALL, 8)
    assert [v.at for v in trace] == sorted(v.at for v in trace)
    assert len({v.blocks[0] for v in trace}) <= SMALL.prompts
    assert {v.session for v in trace} > {""}
    write_trace(trace, tmp_path / "t.jsonl")
    assert read_trace(tmp_path / "t.jsonl", 64) == trace


def test_names_are_of_all_text_before() -> None:
    tokens = np.arange(200)
    other = tokens.copy()
    other[70] = 0
    a, b = block_names("x", tokens, 64), block_names("x", other, 64)
    assert [m == n for m, n in zip(a, b, strict=True)] == [True, False, False]
    assert not set(a) & set(block_names("y", tokens, 64))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        '{"at": 0}',
        '{"at": 0, "prompt_tokens": 64, "tokens": 64, "blocks": []}',
        '{"at": 0, "prompt_tokens": 65, "tokens": 64, "blocks": ["a"]}',
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "t").write_text(line)
    with pytest.raises(ConfigurationError, match=r"line 1|is empty"):
        read_trace(tmp_path / "t", 64)


def test_the_commands_draw_replay_and_plot(tmp_path: Path) -> None:
    run, home = CliRunner(), ["--home", str(tmp_path)]
    file, plot, figures = (tmp_path / name for name in ("t.jsonl", "plot", "f.json"))
    assert run.invoke(app, ["evict", "trace", str(file), "--bursts", "30", "--users", "8"]).exit_code == 0
    out = run.invoke(app, ["evict", "simulate", str(file), "--plot", str(plot), "--json", str(figures), *home])
    assert out.exit_code == 0, out.output
    found = json.loads(figures.read_text())
    assert [row["policy"] for row in found] == [*sorted(POLICIES), "clairvoyant", "no limit"]
    assert plot.with_suffix(".png").stat().st_size > 10_000
    assert "<svg" in plot.with_suffix(".svg").read_text()


@pytest.mark.parametrize(
    "wrong",
    [["--policy", "luck"], ["--budget", "much"], ["--budget", "-1%"], ["--reuse", "semantic"], ["--budget", "nan"]],
)
def test_wrong_options_of_a_replay_are_refused(tmp_path: Path, wrong: list[str]) -> None:
    write_trace(draw_trace(Mix(bursts=3), 0), tmp_path / "t")
    out = CliRunner().invoke(app, ["evict", "simulate", str(tmp_path / "t"), "--home", str(tmp_path), *wrong])
    assert isinstance(out.exception, ConfigurationError)
