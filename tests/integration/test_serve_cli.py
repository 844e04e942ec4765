"""`semshare serve`, `keys`, `turns show` and `turns export`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import openai
import pytest
from typer.testing import CliRunner

from semshare_agents.cli.main import app
from semshare_agents.llm import SemShareLLM
from tests import tiny

OpenLLM = Callable[..., Awaitable[SemShareLLM]]

runner = CliRunner(env={"COLUMNS": "140"})


def run(*words: str | Path) -> tuple[int, str]:
    result = runner.invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as files."""
    path = tmp_path_factory.mktemp("tiny-model")
    tiny.build("llama").save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


@pytest.fixture
async def memory(open_llm: OpenLLM, tmp_path: Path, folder: Path) -> Path:
    """A closed memory whose second turn has exact tokens."""
    home = tmp_path / "home"
    llm = await open_llm(replace(tiny.loaded("llama"), name=str(folder)), home=home)
    talk = llm.session("alice")
    await talk.send("the quick brown fox <b> jumps over the lazy dog again and again and again and again")
    await talk.send("and then")
    await llm.aclose()
    return home


async def test_turns_show_prints_the_prompt_by_kind(memory: Path) -> None:
    status, output = await asyncio.to_thread(run, "turns", "show", "2", "--home", memory)
    assert status == 0
    assert "the quick brown fox <b> jumps" in output.replace("\n", "")
    assert re.search(r"exact: tokens 0-\d+ from turn 1, token 0", output)
    assert "computed" in output
    status, output = await asyncio.to_thread(run, "turns", "--home", memory)
    assert status == 0
    assert "alice" in output


async def test_turns_show_without_the_model_shows_dots(memory: Path, folder: Path) -> None:
    def moved_away() -> tuple[int, str]:
        away = folder.rename(folder.with_name("away"))
        try:
            return run("turns", "show", "2", "--home", memory)
        finally:
            away.rename(folder)

    status, output = await asyncio.to_thread(moved_away)
    assert status == 0
    assert "fox" not in output
    assert "····" in output


async def test_turns_export_is_one_file(memory: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.html"
    status, output = await asyncio.to_thread(run, "turns", "export", "2", "--out", out, "--home", memory)
    assert status == 0
    assert str(out) in output
    html = out.read_text()
    assert not re.search(r'(?:src|href)="(?!\./)', html)
    texts = re.findall(r"<i>(.*?)</i>", html, re.DOTALL)
    assert "the quick brown fox &lt;b&gt; jumps" in "".join(texts)


async def test_an_unknown_turn_is_told(memory: Path) -> None:
    result = await asyncio.to_thread(runner.invoke, app, ["turns", "show", "99", "--home", str(memory)])
    assert "there is no turn 99" in str(result.exception)


def test_keys_are_listed_and_removed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for tenant in ("acme", "bolt"):
        assert run("keys", "add", tenant, "--home", home)[0] == 0
    status, listed = run("keys", "list", "--home", home)
    assert (status, [line.split()[1] for line in listed.splitlines()]) == (0, ["acme", "bolt"])
    assert run("keys", "remove", listed.split()[0], "--home", home) == (0, "removed a key of acme\n")
    assert [line.split()[1] for line in run("keys", "list", "--home", home)[1].splitlines()] == ["bolt"]


async def test_serve_with_a_key_until_a_signal(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    status, output = await asyncio.to_thread(run, "keys", "add", "acme", "--home", home)
    assert status == 0
    key = output.splitlines()[0]
    command = [sys.executable, "-c", "from semshare_agents.cli.main import main; main()", "serve", "--port", "0"]
    command += ["--model", str(folder), "--home", str(home), "--keys-file", str(home / "api-keys")]
    command += ["--log-format", "json"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, env={**os.environ})
    assert process.stderr is not None
    url = None
    while url is None:
        line = (await asyncio.wait_for(process.stderr.readline(), 120)).decode()
        assert line, "the server ended"
        url = re.search(r"http://127\.0\.0\.1:\d+", line)
    async with openai.AsyncOpenAI(base_url=f"{url[0]}/v1", api_key=key, max_retries=0) as ai:
        model = (await ai.models.list()).data[0].id
        stream = await ai.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "hello"}], max_tokens=200, stream=True
        )
        await anext(stream)
        process.send_signal(signal.SIGTERM)
        pieces = [event async for event in stream]
    assert pieces[-1].choices[0].finish_reason in ("length", "stop")
    rest = (await asyncio.wait_for(process.communicate(), 60))[1].decode()
    turn = next(json.loads(x) for x in rest.splitlines() if '"event": "turn"' in x)
    assert turn["tenant"] == "acme"
    status, output = await asyncio.to_thread(run, "verify", "--home", home)
    assert status == 0, output
    status, output = await asyncio.to_thread(run, "turns", "--home", home)
    assert "acme" in output


def test_serve_refuses_other_machines_without_keys(tmp_path: Path) -> None:
    result = runner.invoke(app, ["serve", "--host", "0.0.0.0", "--home", str(tmp_path)])
    assert "semshare keys add" in str(result.exception)
