"""`semshare bench serve` on a tiny model: in process, over a server on loopback, and on what is wrong."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from semshare_server import Keyring
from semshare_server.keys import digest
from transformers import AutoModelForCausalLM, LlamaConfig

from semshare_agents.errors import ConfigurationError, ContextLengthError
from semshare_agents.llm import SemShareLLM
from tests import tiny
from tests.commands import Commands
from tests.serving import MODEL, serving

OpenLLM = Callable[..., Awaitable[SemShareLLM]]

WORDS = ["bench", "serve", "--sessions", "2", "--turns", "2", "--history", "2", "--answer", "5"]
COMMANDS = Commands(COLUMNS="160", SEMSHARE_MIN_GAIN="1", SEMSHARE_BLOCK_TOKENS="16", SEMSHARE_MEASURE_IDLE="false")
run, off_loop = COMMANDS.run, COMMANDS.off_loop


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose context holds made-up chats, a token a byte."""
    path = tmp_path_factory.mktemp("tiny-model")
    config = LlamaConfig(**{**tiny.SHAPE, "max_position_embeddings": 8192})
    model = AutoModelForCausalLM.from_config(config).eval()
    tiny.only_letters(model)
    model.save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A recorded chat of six rounds, short enough for any tiny model."""
    rounds = [
        (tiny.user(f"what of {tiny.words(12, seed)}"), {"role": "tool", "content": tiny.words(8, seed + 20)})
        for seed in range(6)
    ]
    said = [message for asked in rounds for message in (*asked, tiny.assistant("i see"))]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps([tiny.system("be brief"), *said]))
    return path


def checked(out: Path, **expected: Any) -> dict[str, Any]:
    """What was written, with what holds whatever was measured."""
    written: dict[str, Any] = json.loads(out.read_text())
    assert {name: written[name] for name in expected} == expected
    assert {"machine", "versions", "commit"} <= set(written)
    rows, summary = written["rows"], written["summary"]
    assert sorted((row["session"], row["turn"]) for row in rows) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for row in rows:
        assert 0 < row["ttft_seconds"] <= row["turn_seconds"] < summary["wall_seconds"]
        assert 0 <= row["gap_seconds"] < row["turn_seconds"]
        assert 1 <= row["completion_tokens"] <= 5
        assert sum(row["reused"].values()) == row["prompt_tokens"]
    assert summary["completion_tokens"] == sum(row["completion_tokens"] for row in rows)
    assert summary["tokens_per_second"] == pytest.approx(summary["completion_tokens"] / summary["wall_seconds"])
    return written


@pytest.mark.parametrize("mode", ["append", "clock", "window", "tools"])
def test_made_up_chats_in_this_process(folder: Path, tmp_path: Path, mode: str) -> None:
    out, home = tmp_path / "figures" / "out.json", tmp_path / "home"
    status, output = run(*WORDS, "--mode", mode, "--model", folder, "--home", home, "--json", out)
    assert status == 0, output
    for shown in (
        "session 0",
        "time to first token, p95",
        "longest gap in a stream",
        "tokens a second over all",
        "exact",
    ):
        assert shown in output
    written = checked(out, command="serve", mode=mode, sessions=2, turns=2, history=2, answer=5, seed=0, url=None)
    exact = {(row["session"], row["turn"]): row["reused"]["exact"] for row in written["rows"]}
    later = [exact[session, 1] for session in (0, 1)]
    if mode == "append":
        first = {row["session"]: row["prompt_tokens"] for row in written["rows"] if row["turn"] == 0}
        assert all(later[session] >= first[session] - 32 for session in (0, 1))
    elif mode == "clock":
        assert max(later) < 64, "the time is near the beginning"
    assert not list((home / "kv").rglob("*.safetensors")), "what is measured has a memory of its own"


async def test_a_file_over_a_server(llm: SemShareLLM, file: Path, tmp_path: Path) -> None:
    out, keys = tmp_path / "out.json", Keyring({digest("sk-a"): "acme"})
    async with serving(llm, keys) as url:
        where = ["--url", f"{url}/v1", "--api-key", "sk-a"]
        status, output = await off_loop(*WORDS, file, "--mode", "window", *where, "--json", out)
        assert status == 0, output
        written = checked(out, command="serve", mode="window", url=f"{url}/v1", model=MODEL, file=str(file))
        assert written["summary"]["reused"]["exact"] > 0
        assert "sk-a" not in out.read_text()
        with pytest.raises(ConfigurationError, match=rf"{url}/v1 answered with status 401"):
            await off_loop(*WORDS, file, "--url", f"{url}/v1")
        # Any name is served by the one model, unless the server is strict.
        assert (await off_loop(*WORDS, file, *where, "--model", "gpt-none"))[0] == 0
        with pytest.raises(ConfigurationError, match="answered with status 404"):
            await off_loop(*WORDS, file, "--url", url, "--api-key", "sk-a", "--model", MODEL)


async def test_prompts_are_the_same_whatever_is_measured(
    llm: SemShareLLM, file: Path, folder: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    async with serving(llm) as url:
        await off_loop(*WORDS, file, "--url", f"{url}/v1", "--json", there)
    await off_loop(*WORDS, file, "--model", folder, "--home", tmp_path / "other", "--json", here)
    counts = [
        {(row["session"], row["turn"]): row["prompt_tokens"] for row in checked(out)["rows"]} for out in (here, there)
    ]
    assert counts[0] == counts[1]


async def test_a_prompt_that_is_too_long_is_told_by_both(llm: SemShareLLM, tmp_path: Path) -> None:
    folder = tmp_path / "short"
    tiny.build("llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    with pytest.raises(ContextLengthError):
        await off_loop(*WORDS, "--model", folder, "--home", tmp_path / "other")
    async with serving(llm) as url:
        with pytest.raises(ConfigurationError, match="answered with status 400"):
            await off_loop(*WORDS, "--url", f"{url}/v1")


# --- other servers

CHUNK = 'data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [%s]%s}\n\n'
PIECE = '{"index": 0, "delta": {%s}, "finish_reason": null}'
THOUGHT, TEXT = PIECE % '"reasoning_content": "hm"', PIECE % '"content": "yes"'
USAGE = ', "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11%s}'
CACHED = USAGE % ', "prompt_tokens_details": {"cached_tokens": 4}'
DONE = "data: [DONE]\n\n"


@asynccontextmanager
async def answering(body: str, status: str = "200 OK", cut: bool = False) -> AsyncIterator[str]:
    """A server that says one thing to everybody; `cut`: it says that more would come."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length"))
        received.append(json.loads(await reader.readexactly(length)))
        content = body.encode()
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: text/event-stream\r\nConnection: close\r\n".encode())
        writer.write(f"Content-Length: {len(content) + 100 * cut}\r\n\r\n".encode() + content)
        await writer.drain()
        writer.close()

    received.clear()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


received: list[dict[str, Any]] = []


@pytest.mark.parametrize(
    ("usage", "reused", "tokens"),
    [(CACHED, {"computed": 5, "cached": 4}, 2), (USAGE % "", {}, 2), ("", {}, None)],
    ids=["cached", "uncached", "uncounted"],
)
async def test_other_servers_tell_more_or_less(
    file: Path, tmp_path: Path, usage: str, reused: dict[str, int], tokens: int | None
) -> None:
    out = tmp_path / "out.json"
    body = CHUNK % (THOUGHT, "") + CHUNK % (TEXT, "") + CHUNK % ("", usage) + DONE
    async with answering(body) as url:
        status, output = await off_loop(*WORDS, file, "--url", url, "--model", "m", "--json", out)
    assert status == 0, output
    rows = json.loads(out.read_text())["rows"]
    assert [row["reused"] for row in rows] == [reused] * 4
    assert [row["completion_tokens"] for row in rows] == [tokens] * 4
    assert all(row["gap_seconds"] > 0 for row in rows), "thoughts are pieces"
    assert ("not told" in output) == (usage != CACHED)
    known = {"messages", "model", "max_tokens", "temperature", "stream", "stream_options"}
    assert all(set(body) == known for body in received)
    assert {body["max_tokens"] for body in received[1:]} == {5}


@pytest.mark.parametrize(
    ("body", "status", "cut", "problem"),
    [
        ('{"error": {"message": "no slot"}}', "503 Service Unavailable", False, "answered with status 503: .*no slot"),
        ("<html>hello</html>", "200 OK", False, "sent no chat completion; is it the address that ends in /v1"),
        ('data: {"error": {"message": "slot died"}}\n\n', "200 OK", False, "ended an answer with an error: slot died"),
        ("data: {half\n\n", "200 OK", False, "sent what is no JSON"),
        (CHUNK % (TEXT, ""), "200 OK", True, "cannot be reached or broke off"),
    ],
    ids=["status", "page", "error", "json", "cut"],
)
async def test_servers_that_fail_are_named(file: Path, body: str, status: str, cut: bool, problem: str) -> None:
    async with answering(body, status, cut) as url:
        with pytest.raises(ConfigurationError, match=f"{url} {problem}"):
            await off_loop(*WORDS, file, "--url", url, "--model", "m")


async def test_a_server_that_is_not_there_is_named(file: Path) -> None:
    async with answering("") as url:
        pass
    with pytest.raises(ConfigurationError, match=f"{url} cannot be reached or broke off .*is it running"):
        await off_loop(*WORDS, file, "--url", url)


def test_wrong_words_are_refused(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, problem in (
        (["--mode", "ring"], "mode must be one of append, clock, window, tools"),
        (["--history", "3"], "history must be an even number"),
        (["--sessions", "9"], "6 questions with answers; 9 sessions"),
        (["--url", "127.0.0.1:8080"], "url must begin with http:// or https://"),
        (["--api-key", "sk-a"], "give its address with --url"),
        (["--url", "http://127.0.0.1:1/v1", "--home", tmp_path], "leave one of them out"),
        (["--url", "http://127.0.0.1:1/v1", "--json", file / "out.json"], "cannot write to"),
    ):
        with pytest.raises(ConfigurationError, match=problem):
            run(*WORDS, file, *words)
    for words in (["--sessions", "0"], ["--turns", "0"], ["--answer", "0"], ["--history", "-2"], ["--turns", "many"]):
        assert run(*WORDS, file, *words)[0] == 2
    with pytest.raises(ConfigurationError, match="is not a JSON list"):
        run(*WORDS, tmp_path / "none.json")
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'semshare-agents\[bench\]'"):
        run(*WORDS, file, "--url", "http://127.0.0.1:1/v1")
