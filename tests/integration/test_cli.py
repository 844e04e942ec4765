"""The `semshare` command on a memory made by a tiny random model."""

from __future__ import annotations

import asyncio
import fcntl
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from semshare_agents.cli import chat, demo, story
from semshare_agents.cli.main import app, main
from semshare_agents.llm import SemShareLLM
from semshare_agents.store.disk import DiskStore
from semshare_agents.values import Report, Saved
from tests import tiny
from tests.commands import Commands

OpenLLM = Callable[..., Awaitable[SemShareLLM]]
COMMANDS = Commands(COLUMNS="140")
run, off_loop, runner = COMMANDS.run, COMMANDS.off_loop, COMMANDS.runner


@pytest.fixture
async def memory(open_llm: OpenLLM, tmp_path: Path) -> Path:
    """A closed memory with two turns of one session."""
    home = tmp_path / "home"
    llm = await open_llm(home=home)
    talk = llm.session("alice", tenant="acme")
    await talk.send(tiny.words(30, seed=1))
    await talk.send(tiny.words(5, seed=2))
    await llm.aclose()
    return home


def files(home: Path) -> list[Path]:
    return sorted((home / "kv").glob("*/*.safetensors"))


COMMANDS = [
    "",
    "demo",
    "chat",
    "turns",
    "speeds",
    "stats",
    "verify",
    "doctor",
    "db",
    "db upgrade",
    "models",
    "models pull",
    "pin",
    "unpin",
    "pins",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    status, output = run(*command.split(), "--help")
    assert status == 0
    assert "Usage" in output


async def test_turns_lists_the_newest_first(memory: Path) -> None:
    status, output = await off_loop("turns", "--home", memory)
    assert status == 0
    lines = [line for line in output.splitlines() if "alice" in line]
    assert len(lines) == 2
    assert "exact" in lines[0]
    assert "cold" in lines[1]
    _, shorter = await off_loop("turns", "--limit", "1", "--home", memory)
    assert sum("alice" in line for line in shorter.splitlines()) == 1


async def test_stats_counts_turns_and_files(memory: Path) -> None:
    status, output = await off_loop("stats", "--json", "--home", memory)
    assert status == 0
    figures = json.loads(output)
    assert {name: row["turns"] for name, row in figures["turns"].items()} == {"cold": 1, "exact": 1}
    assert figures["disk"]["files"] == figures["blocks"] == len(files(memory))
    assert figures["disk"]["bytes"] == sum(f.stat().st_size for f in files(memory))
    status, output = await off_loop("stats", "--home", memory)
    assert status == 0
    assert str(len(files(memory))) in output


async def test_verify_agrees_with_a_sound_memory(memory: Path) -> None:
    status, output = await off_loop("verify", "--home", memory)
    assert status == 0
    assert "rows and files agree" in output


async def test_verify_finds_every_kind_of_damage_and_puts_it_right(memory: Path) -> None:
    gone, damaged, truncated, *_ = files(memory)
    gone.unlink()
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    truncated.write_bytes(truncated.read_bytes()[:40])
    orphan = DiskStore(memory / "kv").path("ff" * 16)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"of no use")
    leftover = orphan.with_suffix(".123.tmp")
    leftover.write_bytes(b"half")

    status, output = await off_loop("verify", "--home", memory)
    assert status == 1
    assert "5 problems" in output
    assert "fails its checksum" in output
    assert orphan.exists()

    status, output = await off_loop("verify", "--fix", "--home", memory)
    assert status == 0
    assert "5 problems put right" in output
    assert not any(f.exists() for f in (damaged, truncated, orphan, leftover))
    status, output = await off_loop("verify", "--home", memory)
    assert (status, "agree" in output) == (0, True)


async def test_verify_takes_over_what_a_killed_process_left(memory: Path) -> None:
    import sqlite3

    finished, lost, broken, *_ = files(memory)
    with sqlite3.connect(memory / "registry.db") as database:
        for file in (finished, lost, broken):
            database.execute("UPDATE blocks SET holder = 'dead' WHERE key = ?", (file.stem,))
    database.close()
    lost.unlink()
    broken.write_bytes(b"half")

    status, output = await off_loop("verify", "--home", memory)
    assert status == 1
    assert "3 problems" in output
    assert (await off_loop("verify", "--fix", "--home", memory))[0] == 0
    assert (await off_loop("verify", "--home", memory))[0] == 0
    assert finished.exists()
    assert not broken.exists()


async def test_verify_brings_files_home_and_drops_what_nothing_uses(memory: Path) -> None:
    import sqlite3

    store = DiskStore(memory / "kv")
    lost, unused, copied, *_ = files(memory)
    other = memory / "kv" / ("00" if lost.parent.name != "00" else "01")
    other.mkdir(exist_ok=True)
    lost.rename(other / lost.name)
    (memory / "kv" / copied.name).write_bytes(copied.read_bytes())
    with sqlite3.connect(memory / "registry.db") as database:
        database.execute(
            "DELETE FROM turn_blocks WHERE block_id = (SELECT id FROM blocks WHERE key = ?)", (unused.stem,)
        )
        database.execute("INSERT INTO turn_blocks VALUES (999, 0, 1, 998)")
    database.close()

    status, output = await off_loop("verify", "--home", memory)
    assert status == 1
    # The lost file counts twice: where it lies, and for the row that misses it.
    assert "5 problems" in output
    assert (await off_loop("verify", "--fix", "--home", memory))[0] == 0
    assert (await off_loop("verify", "--home", memory))[0] == 0
    assert lost.exists()
    assert copied.exists()
    assert not unused.exists()
    assert store.misplaced() == []


async def test_verify_leaves_a_memory_in_use_alone(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (memory / "alive.lock").open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        assert (await off_loop("verify", "--home", memory))[0] == 0
        monkeypatch.setattr(sys, "argv", ["semshare", "verify", "--fix", "--home", str(memory)])
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(main)
    assert ended.value.code == 2


@pytest.mark.parametrize("command", ["turns", "stats", "verify"])
def test_looking_at_a_memory_does_not_make_one(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["semshare", command, "--home", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "no memory in" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_models_list(tmp_path: Path) -> None:
    assert "semshare models pull" in run("models", "list", "--home", tmp_path)[1]
    folder = tmp_path / "models" / "some-model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert "some-model" in run("models", "list", "--home", tmp_path)[1]


def test_chat_keeps_a_session_between_runs(tmp_path: Path) -> None:
    model, home = tmp_path / "model", tmp_path / "home"
    tiny.build("llama").save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    words = ["chat", "--session", "s", "--model", str(model), "--home", str(home), "--max-new-tokens", "4"]
    first = runner.invoke(app, words, input="hello there\n\nand again\n/exit\nnever read\n")
    assert first.exit_code == 0, first.output
    assert "session 's', new" in first.output
    assert "never read" not in first.output
    assert first.output.count("first token after") == 2
    second = runner.invoke(app, words, input=f"{tiny.words(2000, seed=1)}\nonce more\n")
    assert second.exit_code == 0, second.output
    assert "4 messages so far" in second.output
    assert "error: prompt is too long" in second.output
    assert second.output.count("first token after") == 1


def test_chat_summary_says_what_was_reused() -> None:
    tokens = {"computed": 20, "exact": 1000, "moved": 0, "semantic": 0}
    report = Report("exact", tokens, 0.02, {1: 1000}, 0.0, 1020, {}, 0.1, 3.0, "")
    assert chat.summary(report) == "[exact: 20 computed, 1,000 exact tokens; first token after 0.10 s]"
    known = replace(report, saved=Saved(2.5, 2.0, 3.0, 4))
    assert chat.summary(known) == "[exact: 20 computed, 1,000 exact tokens; first token after 0.10 s, saved 2.50 s]"


def test_the_story_is_told_twice_with_the_same_facts() -> None:
    def facts(days: tuple[str, ...]) -> list[list[str]]:
        return [sorted(w for w in day.replace(".", " ").split() if any(c.isdigit() for c in w)) for day in days]

    assert facts(story.DAYS[: len(story.RETOLD)]) == facts(story.RETOLD)
    assert not set(story.DAYS) & set(story.RETOLD)


def test_demo_steps_build_on_the_chat() -> None:
    first, following, _, trimmed, *_ = demo.STEPS
    messages = first.prompt([], first.question)
    assert following.prompt(messages, "?") == [*messages, {"role": "user", "content": "?"}]
    assert [m["role"] for m in trimmed.prompt(messages, "?")[:2]] == ["system", "user"]
    assert trimmed.prompt(messages, "?")[1]["content"] == story.DAYS[1]


def test_demo_plays_on_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    tiny.build("llama").save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    monkeypatch.setattr(story, "DAYS", tuple(day[:100] for day in story.DAYS[:4]))
    monkeypatch.setattr(story, "RETOLD", tuple(day[:100] for day in story.RETOLD))
    status, output = run("demo", "--model", model, "--home", tmp_path / "home", "--max-new-tokens", "8")
    assert status == 0
    for step in demo.STEPS:
        assert step.title in output
    assert not list((tmp_path / "home").glob("registry.db*"))
