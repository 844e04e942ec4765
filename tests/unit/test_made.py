"""Made-up chats for `semshare bench pairs`: deterministic, as long as asked for, changed as their kind says."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
from typer.testing import CliRunner

from semshare_agents.bench.made import CHANGES, made_pairs
from semshare_agents.bench.pairs import read_pairs
from semshare_agents.cli.main import app
from semshare_agents.errors import ConfigurationError
from semshare_agents.model.tokenise import clean_messages


def texts(messages: list[dict[str, str]]) -> list[str]:
    return [message["content"] for message in messages]


def test_the_same_seed_gives_the_same_texts_and_another_one_others() -> None:
    first, again = list(made_pairs((300,), 2)), list(made_pairs((300,), 2))
    assert first == again
    other = list(made_pairs((300,), 2, seed=9))
    assert {tuple(texts(p["target"])) for p in first}.isdisjoint(tuple(texts(p["target"])) for p in other)
    assert len({tuple(texts(p["target"])) for p in first}) == 2 * len(CHANGES)


@pytest.mark.parametrize("tokens", [300, 1000, 5000])
def test_prompts_are_about_as_long_as_asked_for(tokens: int) -> None:
    for pair in made_pairs((tokens,), 2):
        words = sum(len(text.split()) for text in texts(pair["target"]))
        assert 0.5 * tokens < words < 1.1 * tokens, pair["id"]
        assert clean_messages(pair["reference"])
        assert pair["target"][-1]["role"] == "user"


def test_each_kind_changes_what_it_says() -> None:
    for pair in made_pairs((600,), 4):
        before, after = texts(pair["reference"]), texts(pair["target"])
        match pair["kind"].rpartition("-")[2]:
            case "date":
                assert before[1:-1] == after[1:-1]
                assert before[0] != after[0]
            case "notes":
                assert before[1].splitlines()[2:-2] == after[1].splitlines()[2:-2]
                assert before[1].splitlines()[0] != after[1].splitlines()[0]
            case "trim":
                assert before[0] == after[0]
                assert before[-len(after) + 2 :] == after[1:-1]
                assert len(before) > len(after)
            case "order":
                parts = [text.split("\n\n")[:-1] for text in (before[1], after[1])]
                assert sorted(parts[0]) == sorted(parts[1])
                assert parts[0] != parts[1]
            case "cleared":
                differing = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
                assert differing in ([3], [3, len(after) - 1])
            case kind:
                pytest.fail(f"no rule for {kind}")


@pytest.mark.parametrize(("tokens", "each"), [((), 1), ((100,), 1), ((300,), 0)])
def test_impossible_pairs_are_refused(tokens: tuple[int, ...], each: int) -> None:
    with pytest.raises(ConfigurationError, match="at least 200 tokens"):
        list(made_pairs(tokens, each))


def test_the_command_writes_what_the_bench_reads(tmp_path: Path) -> None:
    file, runner = tmp_path / "made.jsonl", CliRunner()
    result = runner.invoke(app, ["bench", "make", str(file), "--tokens", "300, 500", "--seed", "3"])
    assert result.exit_code == 0, result.output
    pairs = read_pairs(file)
    assert pairs == list(chain(made_pairs((300, 500), 1, 3)))
    assert {p["kind"] for p in read_pairs(file, ["made-500"])} == {f"made-500-{change}" for change in CHANGES}
    for words in (["--tokens", "many"], ["--tokens", "10"]):
        assert isinstance(runner.invoke(app, ["bench", "make", str(file), *words]).exception, ConfigurationError)
    nowhere = runner.invoke(app, ["bench", "make", str(tmp_path / "no" / "made.jsonl")])
    assert isinstance(nowhere.exception, ConfigurationError)
