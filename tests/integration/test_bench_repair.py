"""`semshare bench repair` on a tiny model, and its input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from semshare_agents.bench.repair import RepairOptions, buckets, parse_rates, run_repair, summarise
from semshare_agents.cli.main import app
from semshare_agents.errors import ConfigurationError
from semshare_agents.observe.drift import kl_tokens
from semshare_agents.settings import load_settings
from semshare_agents.values import Reuse
from tests import tiny
from tests.tiny import system, user

BODY = user(tiny.words(120, 3))
PAIR = {
    "id": "one",
    "kind": "moved-system",
    "reference": [system("be brief"), BODY],
    "target": [system("answer at length, with care"), BODY],
}


def test_repair_makes_later_tokens_cold_ones(tmp_path: Path) -> None:
    model, home, out = tmp_path / "model", tmp_path / "home", tmp_path / "out.json"
    tiny.build("llama").save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    other = {**PAIR, "id": "new", "reference": [user("hello")], "target": [user(tiny.words(20, 9))]}
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(pair) for pair in (PAIR, other)))
    words = ["bench", "repair", file, "--rates", "200,auto,40", "--tokens", "12", "--reuse", "moved"]
    places = ["--model", model, "--home", home, "--json", out]
    result = CliRunner(
        env={"COLUMNS": "160", "SEMSHARE_MIN_GAIN": "1", "SEMSHARE_BLOCK_TOKENS": "16", "SEMSHARE_HEAD_TOKENS": "0"}
    ).invoke(app, [str(word) for word in [*words, *places]])
    assert result.exit_code == 0, result.output
    assert "0-7" in result.output
    written = json.loads(out.read_text())
    row, cold = written["rows"]
    assert cold["class"] == "cold"
    assert row["class"] == "moved"
    none, some, most, default = row["rates"]
    assert [figures["rate"] for figures in row["rates"]] == [0, 40, 200, "auto"]
    assert none["exact_tokens"] <= default["exact_tokens"] < most["exact_tokens"]
    assert none["exact_tokens"] < some["exact_tokens"] < some["tokens"]
    assert most["exact_tokens"] == most["tokens"] == row["n_tokens"] + row["answer_tokens"] - 1
    assert none["kl"][0] == pytest.approx(most["kl"][0], abs=1e-9)
    assert max(none["kl"]) > 1e-3
    reached = -(-row["n_tokens"] // 200) + 1
    assert max(most["kl"][reached:]) < 1e-6 < max(none["kl"][reached:])
    summary = written["summary"]
    assert (summary["pairs"], summary["cold"]) == (2, 1)
    assert [figures["rate"] for figures in summary["rates"]] == [0, 40, 200, "auto"]
    assert summary["rates"][0]["kl"]["0-7"] == {"mean": pytest.approx(sum(none["kl"][:8]) / 8), "pairs": 1}
    assert summary["rates"][0]["speed_ratio"] == 1.0


def test_short_answers_are_left_out_of_the_buckets_they_do_not_reach() -> None:
    def row(kl: list[float], speed: float | None) -> dict[str, object]:
        figures = {"rate": 0, "kl": kl, "tokens_per_second": speed, "exact_tokens": 5, "tokens": 10}
        return {"class": "semantic", "rates": [figures]}

    rows = [row([0.5], None), row([0.1] * 8 + [0.3] * 4, 10.0)]
    figures = summarise(rows, RepairOptions((0,), 64))["rates"][0]
    assert figures["kl"] == {
        "0-7": {"mean": pytest.approx(0.3), "pairs": 2},
        "8-15": {"mean": pytest.approx(0.3), "pairs": 1},
    }
    assert (figures["tokens_per_second"], figures["exact_share"]) == (10.0, 0.5)


def test_buckets_cover_every_token_once() -> None:
    assert buckets(64) == [(0, 8), (8, 16), (16, 32), (32, 64)]
    assert buckets(70)[-1] == (64, 70)
    for tokens in range(1, 200):
        assert [t for a, b in buckets(tokens) for t in range(a, b)] == list(range(tokens))


def test_kl_is_torchs_own() -> None:
    torch.manual_seed(0)
    cold, other = torch.randn(5, 40), torch.randn(5, 40)
    p, q = cold.double().log_softmax(-1), other.double().log_softmax(-1)
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    assert torch.allclose(kl_tokens(cold, other), expected)


@pytest.mark.parametrize("rates", ["-1", "0,-4", "four", "", "1,,2", "1.5"])
def test_bad_rates_are_refused(rates: str) -> None:
    with pytest.raises(ConfigurationError, match="rates must"):
        parse_rates(rates)


def test_rates_are_sorted_and_always_have_the_yardstick() -> None:
    assert parse_rates("8, 4") == (0, 4, 8)
    assert parse_rates("auto,4") == (0, 4, None)
    assert parse_rates("auto") == (0, None)


@pytest.mark.parametrize(
    ("words", "match"), [(["--reuse", "loose"], "reuse must be one of"), (["--rates", "-3"], "rates must not be")]
)
def test_bad_words_are_refused_before_anything_is_loaded(words: list[str], match: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(PAIR))
    result = CliRunner().invoke(app, ["bench", "repair", str(file), "--model", "/none", *words])
    assert isinstance(result.exception, ConfigurationError)
    assert match in str(result.exception)


async def test_a_model_without_reuse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing to repair"):
        await run_repair(
            [PAIR], tiny.loaded("mamba"), load_settings(home=tmp_path), RepairOptions((0,), 4, Reuse.MOVED)
        )
