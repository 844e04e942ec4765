"""The fidelity dial and the second pass in whole turns, and `semshare calibrate` on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from semshare_agents.bench.calibrate import SHARES
from semshare_agents.cli.main import app
from semshare_agents.errors import CalibrationError, ConfigurationError
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.run import DEFERRED_STEP_ROWS, RowRun
from semshare_agents.request.options import request_of
from semshare_agents.reuse import drift
from semshare_agents.reuse.drift import Calibration, calibration_for, calibration_path, save
from semshare_agents.values import Ints, Kind
from tests import tiny
from tests.conftest import OpenLLM
from tests.pipelines import replan
from tests.tiny import system, user

STORY = [tiny.words(30, seed) for seed in range(8)]
BODY = user(" ".join(STORY[:4]))
runner = CliRunner(env={"COLUMNS": "200"})


async def test_a_target_is_kept_or_only_exact_text_is_reused(open_llm: OpenLLM) -> None:
    llm = await open_llm(fidelity="fast")
    await llm.generate([system("be brief"), BODY])
    changed = [system("answer at length, with care"), BODY]
    fast = await llm.generate(changed, store=False)
    assert fast.report.reuse_class == "moved"
    assert fast.report.drift_kl > 0
    within = await llm.generate(changed, store=False, fidelity=2 * fast.report.drift_kl)
    assert within.report.rows_share == fast.report.rows_share
    cold = await llm.generate(changed, store=False, reuse="off")
    for fidelity in (1e-9, "1e-9"):
        exact = await llm.generate(changed, store=False, fidelity=fidelity)
        assert exact.report.reuse_class in ("cold", "exact")
        assert "more than a mean KL of 1e-09 allows" in exact.report.reason
        assert exact.report.drift_kl == 0
        assert exact.tokens == cold.tokens


@pytest.mark.parametrize("fidelity", ["auto", "fast"])
async def test_by_default_short_prompts_are_exact_within_a_few_tokens(open_llm: OpenLLM, fidelity: str) -> None:
    """Whatever the predictor thinks of it: a ceiling that nothing keeps makes the first tokens carry what is left."""
    llm = await open_llm(repair_idle=False, repair_rows=None, repair_slowdown=0.0, fidelity=fidelity)
    await llm.generate([system("be brief"), BODY])
    changed = [system("answer at length, with care"), BODY]
    cold = await llm.generate(changed, store=False, reuse="off", max_new_tokens=12)
    replan(llm, calibration=Calibration("", (0.12, 0.0, 0.0, 1.0, 1.0, 0.0), 1.0, 0))
    # Whoever samples has no near ties, which would be computed to the end before the first token.
    request = request_of(llm.settings, changed, {"max_new_tokens": 32, "temperature": 1.0})
    prefilled = await llm.pipeline.prefill(request)
    run = prefilled.run
    try:
        assert prefilled.report.reuse_class == "moved"
        assert isinstance(run, RowRun)
        assert prefilled.plan.hurried == (fidelity == "auto")
        before = run.exact
        steps = -(-(run.length - before) // DEFERRED_STEP_ROWS)
        logits = prefilled.logits
        for token in cold.tokens[: steps + 1]:
            logits = run.compute(llm.pipeline.next_step(run, int(token)))[-1]
        assert (run.exact == run.length) == (fidelity == "auto")
        if fidelity == "auto":
            stock = await stock_logits(llm, prefilled.prompt, cold.tokens[: steps + 1])
            assert float((logits - stock).abs().max()) < 1e-4
    finally:
        run.close()


async def stock_logits(llm: SemShareLLM, prompt: Ints, tokens: Sequence[int]) -> torch.Tensor:
    """The last row of the stock model over prompt and tokens, shape `(vocabulary,)`."""
    ids = torch.as_tensor([*prompt.tolist(), *tokens])[None]
    rows = llm.pipeline.model.support.rows
    assert rows is not None
    with rows.stock(), torch.inference_mode():
        out: torch.Tensor = llm.pipeline.model.model(input_ids=ids).logits[0, -1]
    return out


@pytest.mark.parametrize("settings", [{"retention": "constant"}, {"repair_rows": 0}])
async def test_who_says_how_much_is_repaired_is_not_hurried(open_llm: OpenLLM, settings: dict[str, Any]) -> None:
    llm = await open_llm(**{"repair_rows": None, "fidelity": "auto", **settings})
    replan(llm, calibration=Calibration("", (0.12, 0.0, 0.0, 1.0, 1.0, 0.0), 1.0, 0))
    await llm.generate([system("be brief"), BODY])
    prefilled = await llm.pipeline.prefill(request_of(llm.settings, [system("answer with care"), BODY], {}))
    prefilled.run.close()
    assert not prefilled.plan.hurried
    assert prefilled.plan.drift_kl <= 0.05


async def test_a_tighter_target_computes_more_semantic_rows(open_llm: OpenLLM) -> None:
    llm = await open_llm(similarity_threshold=0.3, fact_guard="fast")
    text = tiny.words(120, 50)
    reworded = "".join("q" if at % 11 == 5 else letter for at, letter in enumerate(text))
    await llm.generate([user(text)])
    shares = []
    fast = (await llm.generate([user(reworded)], reuse="semantic", store=False)).report
    assert fast.reuse_class == "semantic"
    for part in (1.0, 0.7, 0.4):
        report = (
            await llm.generate([user(reworded)], reuse="semantic", store=False, fidelity=part * fast.drift_kl)
        ).report
        assert report.drift_kl <= part * fast.drift_kl * 1.0001
        shares.append(report.rows_share)
    assert shares == sorted(set(shares))


async def test_strict_and_balanced_refuse_changed_facts(open_llm: OpenLLM) -> None:
    llm = await open_llm(similarity_threshold=0.3)
    text = tiny.words(120, 50)
    changed = "".join("7" if at % 11 == 5 else letter for at, letter in enumerate(text))
    await llm.generate([user(text)])
    loose = await llm.generate([user(changed)], reuse="semantic", store=False)
    assert loose.report.reuse_class == "semantic"
    for word in ("strict", "balanced"):
        safe = await llm.generate([user(changed)], reuse="semantic", store=False, fidelity=word)
        assert safe.report.tokens["semantic"] == 0
        assert safe.report.reason


@pytest.mark.parametrize("fidelity", ["loose", 0, -1, "nan"])
async def test_wrong_fidelities_are_refused_per_call(open_llm: OpenLLM, fidelity: object) -> None:
    llm = await open_llm()
    with pytest.raises(ConfigurationError, match="fidelity must be"):
        await llm.generate([BODY], fidelity=fidelity)
    with pytest.raises(ConfigurationError, match="fidelity must be"):
        await open_llm(fidelity=fidelity)


async def test_swapped_halves_are_looked_at(open_llm: OpenLLM) -> None:
    plain = await open_llm(look_share=0.0, fidelity="fast")
    looking = await open_llm(look_share=0.3, look_late=False, fidelity="fast")
    swapped = [system("be brief"), user(" ".join([*STORY[2:4], *STORY[:2]]))]
    shares, tokens = [], []
    for llm in (plain, looking):
        await llm.generate([system("be brief"), BODY])
        cold = await llm.generate(swapped, reuse="off", store=False)
        report = (await llm.generate(swapped, store=False)).report
        assert report.reuse_class == "moved"
        shares.append(report.rows_share)
        tokens.append(cold.tokens)
    assert shares[1] > shares[0]
    assert tokens[0] == tokens[1]


async def test_late_looks_are_computed_while_answering(open_llm: OpenLLM) -> None:
    llm = await open_llm(look_share=0.3, repair_rows=0, fidelity="fast")
    await llm.generate([system("be brief"), BODY])
    request = request_of(llm.settings, [system("be brief"), user(" ".join([*STORY[2:4], *STORY[:2]]))], {})
    prefilled = await llm.pipeline.prefill(request)
    try:
        run = prefilled.run
        assert isinstance(run, RowRun)
        late = run.deferred.copy()
        assert len(late)
        looked = np.setdiff1d(late, prefilled.plan.rows)
        assert len(looked)
        assert set(prefilled.alignment.kind[looked]) == {Kind.MOVED}
        assert late[-1] == len(prefilled.prompt) - 1
        before = run.buffer.clone()
        for token in range(5, 5 - (-len(late) // DEFERRED_STEP_ROWS)):
            run.compute(llm.pipeline.next_step(run, token))
        changed = (run.buffer != before).any(-1).any(2).any(1).any(0).numpy()[: len(prefilled.prompt)]
        assert set(np.flatnonzero(changed)) <= set(late.tolist())
        assert changed.sum() > len(late) // 2
        assert not len(run.deferred)
    finally:
        run.close()


async def test_a_calibration_of_another_model_is_refused(open_llm: OpenLLM, tmp_path: Path) -> None:
    model = tiny.loaded("llama")
    save(
        Calibration("f" * 64, (1.0,) * len(drift.FEATURES), 2.0, 30),
        calibration_path(tmp_path / "home", model.fingerprint),
    )
    with pytest.raises(CalibrationError, match="another model"):
        await open_llm(model)


def test_calibrate_measures_fits_and_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "FIT_STEPS", 200)  # how well it fits is for the unit tests
    folder, home, out = tmp_path / "model", tmp_path / "home", tmp_path / "out"
    tiny.build("llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    lines = []
    for seed in range(6):
        text = ". ".join(tiny.words(10, seed=10 * seed + i) for i in range(12)) + "."
        other = " ".join("zzzz" if i % (5 + seed) == 3 else word for i, word in enumerate(text.split(" ")))
        pair = {"reference": [user(f"{other}\n\nwho is it?")], "target": [user(f"{text}\n\nwhat is it?")]}
        lines.append(json.dumps({"id": f"p{seed}", "kind": "paraphrase", **pair}))
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(lines))
    words = ["calibrate", str(file), "--model", str(folder), "--home", str(home), "--max-new-tokens", "6"]
    dry = runner.invoke(app, [*words, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert not (home / "calibration").exists()
    result = runner.invoke(app, [*words, "--out", str(out)])
    assert result.exit_code == 0, result.output
    figures = json.loads((out / "calibration.json").read_text())
    assert 6 * 3 < len(figures["turns"]) <= 6 * len(SHARES)
    assert 0 <= figures["within_bound"] <= 1
    assert [t["pairs"] for t in figures["targets"]] == [6] * len(figures["targets"])
    assert (out / "calibration.png").stat().st_size > 100
    fingerprint = figures["calibration"]["fingerprint"]
    assert calibration_for(home, fingerprint).turns == len(figures["turns"])
    few = runner.invoke(app, [*words, "--limit", "1"])
    assert isinstance(few.exception, CalibrationError)
