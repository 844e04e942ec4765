"""The frontier command, the experiments and the documented strategy on a tiny model."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from semshare_agents.cli.main import app
from semshare_agents.errors import ConfigurationError
from semshare_agents.reuse.strategies import STRATEGIES, Candidates
from tests import tiny

ROOT = Path(__file__).parents[2]
runner = CliRunner(env={"COLUMNS": "200"})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    tiny.build("llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def reworded(text: str) -> str:
    """Every seventh word is another one."""
    return " ".join("zzzz" if i % 7 == 3 else word for i, word in enumerate(text.split(" ")))


def prompt(text: str, question: str) -> list[dict[str, str]]:
    return [tiny.user(f"{text}\n\n{question}")]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    lines = []
    for seed in (1, 2):
        text = ". ".join(tiny.words(10, seed=10 * seed + i) for i in range(12)) + "."
        pair = {"reference": prompt(reworded(text), "who is it?"), "target": prompt(text, "what is it?")}
        lines.append(json.dumps({"id": f"p{seed}", "kind": "paraphrase", **pair}))
    file.write_text("\n".join(lines))
    return file


def frontier(pairs: Path, model: Path, tmp_path: Path, *more: str) -> Any:
    words = ["bench", "frontier", str(pairs), "--model", str(model), "--home", str(tmp_path / "home")]
    return runner.invoke(app, [*words, "--max-new-tokens", "4", "--out", str(tmp_path / "out"), *more])


def test_frontier_writes_figures_table_and_plots(pairs: Path, model: Path, tmp_path: Path) -> None:
    result = frontier(pairs, model, tmp_path, "--shares", "0.1,0.5", "--ablations", "--bfloat16")
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "out" / "frontier.json").read_text())
    summary = figures["summary"]
    lines = {p["configuration"] for p in summary["points"] if not p["ablation"]}
    assert lines == {*STRATEGIES, "paper"}
    points = {(p["configuration"], p["share"]): p for p in summary["points"]}
    assert points["static", 0.5]["rows_share"] > points["static", 0.1]["rows_share"]
    assert points["zero-kv", 0.03]["kl"] > summary["baselines"]["floor"]["kl"]
    assert summary["baselines"]["floor"]["kl"] < 1e-6
    assert summary["baselines"]["bfloat16"]["kl"] > summary["baselines"]["floor"]["kl"]
    assert {"machine", "versions", "commit", "rows", "baselines"} <= set(figures)
    assert len(figures["rows"]) == 2 * len(summary["points"])
    for name in ("frontier.png", "frontier.svg", "frontier.md"):
        assert (tmp_path / "out" / name).stat().st_size > 100
        assert name in result.output.replace("\n", "")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--strategies", "static,best"), "unknown strategy best; known: question, static, deviation"),
        (("--shares", "0.1,2"), "shares must lie between 0 and 1"),
        (("--shares", "much"), "shares must be numbers"),
        (("--kind", "none-such"), "no pairs of the kinds asked for"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(
    more: tuple[str, ...], said: str, pairs: Path, tmp_path: Path
) -> None:
    result = frontier(pairs, tmp_path / "no-model", tmp_path, *more)
    assert isinstance(result.exception, ConfigurationError)
    assert said in str(result.exception)


def test_a_model_that_cannot_reuse_is_refused(pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bloom"
    tiny.build("bloom-alibi").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    result = frontier(pairs, folder, tmp_path, "--shares", "0.1")
    assert isinstance(result.exception, ConfigurationError)
    assert "cannot be reused" in str(result.exception)


def meetings(tmp_path: Path) -> Path:
    turns = [{"speaker": "Chair", "content": tiny.words(8, seed=i)} for i in range(12)]
    asks = [
        {"query": f"what of {i}?", "answer": tiny.words(4, seed=i), "relevant_text_span": [["0", str(i)]]}
        for i in (2, 3, 900)
    ]
    file = tmp_path / "meetings.jsonl"
    raw = {"meeting_transcripts": turns, "specific_query_list": asks, "general_query_list": []}
    file.write_text(json.dumps(raw))
    return file


@pytest.mark.parametrize(
    ("script", "more"),
    [
        ("ttft_by_length", ("--lengths", "300,500,90000")),
        ("sentences_changed", ("--shares", "0.2,0.8", "--limit", "2")),
        ("ablations", ("--limit", "1")),
        ("qmsum", ("--tokens", "800")),
    ],
)
def test_experiment_writes_figures_table_and_plots(
    script: str,
    more: tuple[str, ...],
    pairs: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = meetings(tmp_path) if script == "qmsum" else pairs
    out, places = tmp_path / "out", ["--model", str(model), "--home", str(tmp_path / "home")]
    words = [f"{script}.py", str(file), "--out", str(out), *places, *more, "--max-new-tokens", "4"]
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(ROOT / "benchmarks" / f"{script}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for suffix in ("json", "md", "png", "svg"):
        assert (out / f"{script}.{suffix}").stat().st_size > 100
    rows = json.loads((out / f"{script}.json").read_text())["rows"]
    if script == "ttft_by_length":
        assert [row["length"] for row in rows] == [300, 500]
        assert "left out: 90000 tokens" in printed
        assert all(row["exact"]["kl_mean"] < 1e-6 for row in rows)
    if script == "sentences_changed":
        assert {row["way"] for row in rows} == {"removed", "replaced", "reworded"}
    if script == "qmsum":
        assert {row["case"] for row in rows} == {"other words", "other question"}
        assert not any("900" in row["question"] for row in rows)


def test_the_documented_strategy_runs(pairs: Path, model: Path, tmp_path: Path) -> None:
    known = dict(STRATEGIES)
    block = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adding-a-strategy.md").read_text(), re.DOTALL)[0]
    try:
        exec(compile(block, "adding-a-strategy.md", "exec"), {})
        strategy, rng = STRATEGIES["passages"](), np.random.default_rng(0)
        candidates = np.sort(rng.permutation(500)[:203])
        distance = rng.random(203).astype(np.float32)
        distance[32:64] += 2.0
        rows = strategy.choose(Candidates(candidates, distance, distance), 0.1, 4).rows
        assert len(rows) == 20
        assert (np.diff(rows) > 0).all()
        assert np.isin(rows, candidates[30:66]).all()
        nothing = Candidates(candidates[:0], distance[:0], distance[:0])
        assert not len(strategy.choose(nothing, 0.5, 4).rows)
        result = frontier(pairs, model, tmp_path, "--strategies", "passages,static", "--shares", "0.2")
        assert result.exit_code == 0, result.output
        points = json.loads((tmp_path / "out" / "frontier.json").read_text())["summary"]["points"]
        assert [p["configuration"] for p in points] == ["passages", "static"]
    finally:
        STRATEGIES.clear()
        STRATEGIES.update(known)
