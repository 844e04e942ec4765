"""The server, asked by the official OpenAI client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
import semshare_server
from blockbuster import blockbuster_ctx
from semshare_server import Keyring
from semshare_server.keys import add_key, digest, list_keys, remove_key
from semshare_server.serve import checked_keys

import semshare_agents
from semshare_agents.errors import ConfigurationError
from semshare_agents.llm import SemShareLLM
from semshare_agents.settings import load_server_settings
from semshare_agents.values import Piece
from tests import tiny
from tests.serving import MODEL, client, serving

OpenLLM = Callable[..., Awaitable[SemShareLLM]]
KEYS = Keyring({digest("sk-a"): "acme", digest("sk-b"): "bolt"})


CHAT: dict[str, Any] = {"model": MODEL, "messages": [tiny.user(tiny.words(30, seed=1))]}


async def test_async_client_gets_an_answer_with_exact_cached_tokens(url: str, llm: SemShareLLM) -> None:
    async with client(url) as ai:
        first = await ai.chat.completions.create(**CHAT)
        again = await ai.chat.completions.create(**CHAT)
    cold = await llm.generate(CHAT["messages"], reuse="off", store=False)
    assert first.choices[0].message.content == again.choices[0].message.content == cold.text
    assert first.choices[0].finish_reason == cold.finish_reason
    assert again.usage is not None
    assert first.usage is not None
    assert first.usage.prompt_tokens_details is not None
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    report = again.model_extra["semshare"]  # type: ignore[index]
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == report["tokens"]["exact"] > 100
    assert again.usage.prompt_tokens == cold.usage.prompt_tokens
    assert again.usage.total_tokens == again.usage.prompt_tokens + again.usage.completion_tokens
    assert report["class"] == "exact"


async def test_moved_tokens_are_not_counted_as_cached(url: str) -> None:
    text = tiny.words(60, seed=3)
    async with client(url) as ai:
        await ai.chat.completions.create(model=MODEL, messages=[tiny.system("one"), tiny.user(text)])  # type: ignore[list-item]
        moved = await ai.chat.completions.create(
            model=MODEL,
            messages=[tiny.system("another one"), tiny.user(text)],  # type: ignore[list-item]
        )
    report = moved.model_extra["semshare"]  # type: ignore[index]
    assert report["tokens"]["moved"] > 100
    assert moved.usage is not None
    assert moved.usage.prompt_tokens_details is not None
    assert moved.usage.prompt_tokens_details.cached_tokens == report["tokens"]["exact"] < 100


async def test_sync_client(url: str) -> None:
    def ask() -> tuple[str | None, str, list[str]]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as ai:
            whole = ai.chat.completions.create(**CHAT)
            with ai.chat.completions.create(**CHAT, stream=True) as events:
                streamed = "".join(e.choices[0].delta.content or "" for e in events)
            return whole.choices[0].message.content, streamed, [m.id for m in ai.models.list()]

    whole, streamed, models = await asyncio.to_thread(ask)
    assert whole == streamed
    assert models == [MODEL]


async def test_stream_ends_with_its_reason_and_usage(url: str) -> None:
    async with client(url) as ai:
        stream = await ai.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
        events = [event async for event in stream]
    assert events[0].choices[0].delta.role == "assistant"
    assert [e.choices[0].finish_reason for e in events[:-1]].count("length") == 1
    assert events[-1].choices == []
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == 6
    assert len({e.id for e in events}) == 1
    assert events[-2].model_extra["semshare"]["class"] == "cold"  # type: ignore[index]


async def test_completion_continues_the_text_itself(url: str, llm: SemShareLLM) -> None:
    async with client(url) as ai:
        answer = await ai.completions.create(model=MODEL, prompt="once upon a time", max_tokens=5)
        stream = await ai.completions.create(model=MODEL, prompt="once upon a time", max_tokens=5, stream=True)
        streamed = "".join([event.choices[0].text async for event in stream])
    model = llm.pipeline.model
    ids = model.tokenizer("once upon a time", return_tensors="pt").input_ids
    stock = model.model.generate(ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :]
    expected = model.tokenizer.decode(stock, skip_special_tokens=True)
    assert answer.choices[0].text == streamed == expected
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == ids.shape[1]


async def test_stop_and_seed(url: str) -> None:
    async with client(url) as ai:
        whole = (await ai.chat.completions.create(**CHAT)).choices[0].message.content
        assert whole
        stopped = await ai.chat.completions.create(**CHAT, stop=[whole[2]])
        hot = [
            (await ai.chat.completions.create(**CHAT, temperature=1.5, seed=seed)).choices[0].message.content
            for seed in (5, 5, 6)
        ]
    assert stopped.choices[0].message.content == whole[: whole.index(whole[2])]
    assert stopped.choices[0].finish_reason == "stop"
    assert hot[0] == hot[1] != hot[2]


CALLED = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
UNKNOWN_RESULT = [
    {"role": "assistant", "content": None, "tool_calls": [CALLED]},
    {"role": "tool", "tool_call_id": "c2", "content": "sun"},
]
BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"messages": []}, 400, "messages"),
    ({"messages": "hello"}, 400, "messages"),
    ({"messages": [{"role": "king", "content": "x"}]}, 400, "role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400, "content"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "user"}]}, 400, "message 1"),
    ({"messages": [{"role": "user", "content": "x"}, *UNKNOWN_RESULT]}, 400, "message 2"),
    ({"messages": [{"role": "user", "content": "x" * 5000}]}, 400, "context"),
    ({"temperature": -1}, 400, "temperature"),
    ({"temperature": "hot"}, 400, "temperature"),
    ({"top_p": 0}, 400, "top_p"),
    ({"n": 5}, 400, "n: must be at most 4"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"stop": ["a"] * 300}, 400, "stop: must be text or must have at most 256"),
    ({"seed": 2**70}, 400, "seed"),
    ({"top_logprobs": 21}, 400, "top_logprobs: must be at most 20"),
    ({"tenant": "bolt"}, 400, "tenant"),
    ({"semshare": {"tenant": "bolt"}}, 400, "tenant"),
    ({"semshare": {"reuse": "all"}}, 400, "reuse"),
]


@pytest.mark.parametrize("levels", [120, 990, 5000, 100_000])
@pytest.mark.parametrize(
    "body",
    [
        '"metadata": DEEP',
        '"tools": [{"type": "function", "function": {"name": "f", "parameters": DEEP}}]',
        '"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": DEEP}}',
        '"messages": DEEP',
    ],
)
async def test_what_is_nested_too_deeply_is_the_callers_fault(url: str, levels: int, body: str) -> None:
    deep = '{"x": ' * levels + "1" + "}" * levels
    plain = {key: value for key, value in CHAT.items() if f'"{key}"' not in body}
    text = json.dumps(plain)[:-1] + ", " + body.replace("DEEP", deep) + "}"
    async with httpx.AsyncClient(base_url=url) as http:
        answer = await http.post("/v1/chat/completions", content=text, headers={"content-type": "application/json"})
        assert answer.status_code == 400, answer.text
        assert "nested deeper than 100 levels" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("change", "status", "told"), BAD)
@pytest.mark.parametrize("stream", [False, True])
async def test_bad_input_is_told_in_openai_shape(
    url: str, change: dict[str, Any], status: int, told: str, stream: bool
) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        answer = await http.post("/v1/chat/completions", json={**CHAT, "stream": stream, **change})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert told in f"{error['message']} {error['param']} {error['code']}"


async def test_a_fault_of_the_server_has_openais_shape_too(llm: SemShareLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> AsyncIterator[Piece]:
        raise RuntimeError("a bug")
        yield

    monkeypatch.setattr(llm, "stream", broken)
    async with serving(llm, running=1, queue=0) as url, httpx.AsyncClient(base_url=url) as http:
        for stream in (False, True, False):  # and its place is free again each time
            answer = await http.post("/v1/chat/completions", json={**CHAT, "stream": stream})
            assert answer.status_code == 500
            assert answer.json()["error"]["type"] == "server_error"
            assert "a bug" not in answer.text


async def test_a_very_low_temperature_is_greedy(url: str) -> None:
    async with client(url) as ai:
        greedy = await ai.chat.completions.create(**CHAT)
        for temperature in (1e-110, 1e-7, 1e-5):
            cool = await ai.chat.completions.create(**CHAT, temperature=temperature)
            assert cool.choices[0].message.content == greedy.choices[0].message.content


async def test_nothing_blocks_the_event_loop(url: str) -> None:
    with blockbuster_ctx(scanned_modules=[semshare_server, semshare_agents]):
        async with client(url) as ai, httpx.AsyncClient(base_url=url) as http:
            await ai.chat.completions.create(**CHAT)
            stream = await ai.chat.completions.create(**CHAT, stream=True)
            assert [event async for event in stream]
            for path in ("/", "/turn?id=1", "/metrics", "/static/page.css", "/v1/models"):
                assert (await http.get(path)).status_code == 200, path


async def test_malformed_bodies(url: str) -> None:
    kind = {"content-type": "application/json"}
    async with httpx.AsyncClient(base_url=url) as http:
        for body in (b"{", b"[]", b"\xff\xfe", b'{"model": NaN}', b'"\\ud800"', b""):
            answer = await http.post("/v1/chat/completions", content=body, headers=kind)
            assert answer.status_code == 400, (body, answer.text)
            assert answer.json()["error"]["message"]
        lone = b'{"model": "tiny-llama", "messages": [{"role": "user", "content": "\\ud800"}]}'
        assert (await http.post("/v1/chat/completions", content=lone, headers=kind)).status_code == 400
        assert (await http.get("/v1/chat/completions")).status_code == 405
        assert (await http.get("/v1/nothing")).json()["error"]["type"] == "not_found_error"


async def test_large_bodies_are_refused_with_and_without_a_length(llm: SemShareLLM) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b"x" * 512

    async with serving(llm, body_bytes=2048) as url, httpx.AsyncClient(base_url=url) as http:
        kind = {"content-type": "application/json"}
        for body in (b"x" * 4096, chunks()):
            answer = await http.post("/v1/chat/completions", content=body, headers=kind)
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "body_too_large"


async def test_keys_open_their_tenants_memory_alone(llm: SemShareLLM) -> None:
    async with serving(llm, KEYS) as url:
        async with client(url, "sk-a") as a, client(url, "sk-b") as b:
            await a.chat.completions.create(**CHAT)
            mine = await a.chat.completions.create(**CHAT)
            other = await b.chat.completions.create(**CHAT)
        assert mine.model_extra["semshare"]["class"] == "exact"  # type: ignore[index]
        assert other.model_extra["semshare"]["class"] == "cold"  # type: ignore[index]
        async with client(url, "sk-wrong") as nobody:
            with pytest.raises(openai.AuthenticationError):
                await nobody.chat.completions.create(**CHAT)
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/health")).json() == {"status": "ok"}
            for path in ("/", "/turn?id=1", "/metrics", "/v1/models", "/openapi.json", "/static/page.css"):
                assert (await http.get(path)).status_code == 401, path
            assert (await http.get("/turn?id=1", auth=("me", "sk-a"))).status_code == 200
            assert (await http.get("/turn?id=1", auth=("me", "sk-b"))).status_code == 404
            turn = mine.model_extra["semshare"]["turn_id"]  # type: ignore[index]
            assert f"turn?id={turn}" not in (await http.get("/", auth=("me", "sk-b"))).text


async def test_without_keys_only_loopback(llm: SemShareLLM, caplog: pytest.LogCaptureFixture) -> None:
    assert not checked_keys(load_server_settings())
    assert "no API keys" in caplog.text
    with pytest.raises(ConfigurationError, match="semshare keys add"):
        checked_keys(load_server_settings(host="0.0.0.0"))
    async with serving(llm) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/v1/models", headers={"host": "evil.example"})).status_code == 403


def test_keys_of_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    key = add_key(path, "acme")
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("SEMSHARE_SERVER_KEYS", "bolt=sk-b, core=sk-c")
    ring = Keyring.of(load_server_settings(keys_file=path))
    assert [ring.tenant(k) for k in (key, "sk-b", "sk-c", "sk-d", "")] == ["acme", "bolt", "core", None, None]
    path.write_text("plain-key acme\n")
    with pytest.raises(ConfigurationError, match="line 1"):
        Keyring.of(load_server_settings(keys_file=path))


def test_a_key_that_is_removed_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    first, second = add_key(path, "acme"), add_key(path, "acme")
    assert list_keys(path) == [(digest(first), "acme"), (digest(second), "acme")]
    for beginning in ("", "x", digest(first)[:3] + "-"):
        with pytest.raises(ConfigurationError, match="semshare keys list"):
            remove_key(path, beginning)
    assert remove_key(path, digest(first)[:12]) == "acme"
    assert path.stat().st_mode & 0o077 == 0
    ring = Keyring.of(load_server_settings(keys_file=path))
    assert [ring.tenant(key) for key in (first, second)] == [None, "acme"]


async def test_a_full_queue_answers_429_with_retry_after(llm: SemShareLLM) -> None:
    long = {**CHAT, "max_tokens": 200}
    async with serving(llm, running=1, queue=1) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        answers = await asyncio.gather(*(http.post("/v1/chat/completions", json=long) for _ in range(6)))
        codes = sorted(a.status_code for a in answers)
        assert codes == [200, 200, 429, 429, 429, 429]
        refused = next(a for a in answers if a.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_frees_its_place(llm: SemShareLLM, stream: bool) -> None:
    endless = {**CHAT, "max_tokens": 1500, "stream": stream}
    async with serving(llm, running=1, queue=0) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        if stream:
            async with http.stream("POST", "/v1/chat/completions", json=endless) as answer:
                await anext(answer.aiter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                await http.post("/v1/chat/completions", json=endless, timeout=0.3)
        for _ in range(100):
            status = (await http.post("/v1/chat/completions", json=CHAT)).status_code
            if status == 200:
                break
            await asyncio.sleep(0.02)
        assert status == 200
        assert "semshare_requests_cancelled_total 1.0" in (await http.get("/metrics")).text
        # Whoever goes away while waiting leaves the queue too, and a broken-off turn is not stored.
        assert len(await llm.pipeline.memory.registry.turns()) == 1


async def test_silence_is_filled_with_pings(llm: SemShareLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    real = llm.stream

    async def slow(*messages: Any, **options: Any) -> AsyncIterator[Piece]:
        await asyncio.sleep(2.6)
        async for piece in real(*messages, **options):
            yield piece

    monkeypatch.setattr(llm, "stream", slow)
    async with serving(llm, ping_seconds=1) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        async with http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
            assert answer.status_code == 200
            lines = [line async for line in answer.aiter_lines()]
        assert any(line.startswith(": ping") for line in lines)
        assert [line for line in lines if line][-1] == "data: [DONE]"
        # What goes wrong after the first ping can have no status any more: it is an event.
        long = {**CHAT, "messages": [tiny.user("x" * 5000)], "stream": True}
        answer = await http.post("/v1/chat/completions", json=long)
        assert answer.status_code == 200
        assert '"code": "context_length_exceeded"' in answer.text
        assert "[DONE]" not in answer.text


async def test_answers_under_way_are_finished_when_the_server_ends(llm: SemShareLLM) -> None:
    async with httpx.AsyncClient(timeout=60) as http:
        async with serving(llm) as url:
            long = {**CHAT, "max_tokens": 150, "stream": True}
            request = http.build_request("POST", f"{url}/v1/chat/completions", json=long)
            answer = await http.send(request, stream=True)
        lines = [line async for line in answer.aiter_lines() if line.startswith("data:")]
        await answer.aclose()
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2][6:])["choices"][0]["finish_reason"] == "length"


async def test_sixteen_sessions_of_ten_turns(open_llm: OpenLLM) -> None:
    """Every answer is the cold model's own for that conversation, so none has another session's content."""
    llm = await open_llm(reuse="exact")
    common = tiny.system(tiny.words(20, seed=99))
    async with serving(llm) as url, client(url) as ai:

        async def talk(number: int) -> list[tuple[list[dict[str, str]], str]]:
            said: list[dict[str, str]] = [common]
            turns = []
            for turn in range(10):
                said = [*said, tiny.user(tiny.words(4, seed=1000 * number + turn))]
                ask: dict[str, Any] = {"model": MODEL, "messages": said, "max_tokens": 6}
                ask["extra_body"] = {"semshare": {"session": f"s{number}"}}
                if turn % 2:
                    stream = await ai.chat.completions.create(**ask, stream=True)
                    text = "".join([e.choices[0].delta.content or "" async for e in stream])
                else:
                    text = (await ai.chat.completions.create(**ask)).choices[0].message.content
                turns.append((said, text))
                said = [*said, tiny.assistant(text)]
            return turns

        talks = await asyncio.gather(*(talk(i) for i in range(16)))
    for turns in talks:
        for messages, text in turns:
            cold = await llm.generate(messages, reuse="off", store=False, max_new_tokens=6)
            assert text == cold.text
    stored = await llm.pipeline.memory.registry.turns(1000)
    assert len(stored) == 160
    assert sum(row.reuse_class == "exact" for row in stored) > 140


async def test_null_is_not_given_and_zero_counts(url: str, llm: SemShareLLM) -> None:
    nulls = "stream stream_options temperature top_p seed stop n response_format user semshare max_tokens"
    chat = "max_completion_tokens tools tool_choice parallel_tool_calls store metadata"
    body: dict[str, Any] = {**CHAT, "temperature": 1.5, "seed": 0, "max_tokens": 12}
    text = {"model": MODEL, "prompt": "x" * 30, **dict.fromkeys(nulls.split())}
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        plain = (await http.post("/v1/chat/completions", json=CHAT)).json()
        given = await http.post("/v1/chat/completions", json={**CHAT, **dict.fromkeys(f"{nulls} {chat}".split())})
        assert given.json()["choices"] == plain["choices"]
        drawn = [(await http.post("/v1/chat/completions", json=body)).json() for _ in range(2)]
        assert drawn[0]["choices"] == drawn[1]["choices"] != plain["choices"]
        greedy = (await http.post("/v1/chat/completions", json={**body, "temperature": 0, "max_tokens": None})).json()
        assert greedy["choices"] == plain["choices"]
        options = await http.post("/v1/chat/completions", json={**CHAT, "stream_options": {"include_usage": None}})
        assert options.status_code == 200
        # What OpenAI's own completions answer with where nobody says how long.
        assert (await http.post("/v1/completions", json=text)).json()["usage"]["completion_tokens"] == 16
    assert llm.settings.max_new_tokens != 16


@pytest.mark.parametrize(
    "field",
    [
        {"max_tokens": 0},
        {"max_completion_tokens": 0},
        {"stop": ""},
        {"stop": [""]},
        {"top_p": 0},
        {"n": 0},
        {"store": "never"},
        {"tool_choice": ""},
        {"response_format": {}},
        {"stream_options": {"include_usage": "perhaps"}},
        {"semshare": {"session": ""}},
        {"semshare": {"fidelity": 0}},
    ],
    ids=str,
)
async def test_what_cannot_be_kept_is_refused(url: str, field: dict[str, Any]) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        refused = await http.post("/v1/chat/completions", json={**CHAT, **field})
    assert refused.status_code == 400
    assert next(iter(field)) in refused.json()["error"]["message"]
