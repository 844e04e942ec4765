"""Fields that clients send: they work, change nothing and are ignored, or are refused in words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from semshare_server.fields import IGNORED, REFUSED
from semshare_server.wording import TOLD

from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel
from semshare_agents.values import Sampling
from tests import tiny
from tests.serving import MODEL, serving

OpenLLM = Callable[..., Awaitable[SemShareLLM]]
CHAT: dict[str, Any] = {"model": MODEL, "messages": [tiny.user(tiny.words(30, seed=1))]}
DOCS = Path(__file__).parents[2] / "docs" / "server.md"


@pytest.fixture
async def http(llm: SemShareLLM) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(llm) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        yield client


async def chat(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await http.post("/v1/chat/completions", json={**CHAT, **body})
    assert answer.status_code == 200, (body, answer.text)
    found: dict[str, Any] = answer.json()
    return found


async def refused(http: httpx.AsyncClient, path: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    answer = await http.post(path, json={**CHAT, **body})
    assert answer.status_code == 400, (body, answer.text)
    error: dict[str, Any] = answer.json()["error"]
    return error


async def test_null_is_absent_wherever_a_field_may_stand(http: httpx.AsyncClient) -> None:
    plain = (await chat(http))["choices"]
    names = {*IGNORED, *REFUSED, "logprobs", "top_logprobs", "reasoning_effort", "stream_options", "n", "nobody_knows"}
    assert (await chat(http, **dict.fromkeys(names)))["choices"] == plain
    inside = {
        "stream_options": {"include_usage": None, "x": None},
        "response_format": {"type": "text", "json_schema": None},
        "tools": [{"type": "function", "function": {"name": "f", "description": None, "parameters": None}}],
        "semshare": {"session": None, "reuse": None},
    }
    for name, value in inside.items():
        await chat(http, **{name: value})


async def test_what_changes_nothing_is_ignored(http: httpx.AsyncClient) -> None:
    plain = (await chat(http))["choices"]
    for name in IGNORED:
        answer = await http.post("/v1/chat/completions", json={**CHAT, name: {"any": ["thing"]}})
        assert answer.json()["choices"] == plain, name
        assert "x-semshare-ignored" not in answer.headers
    for name, known in REFUSED.items():
        for value in known.asks_nothing:
            assert (await chat(http, **{name: value}))["choices"] == plain, (name, value)


async def test_what_would_change_the_answer_is_refused_by_name(http: httpx.AsyncClient) -> None:
    for name, known in REFUSED.items():
        error = await refused(http, **{name: {"something": 7}})
        assert error["param"] == name
        assert error["message"] == f"{name} is not supported: {known.told}"


async def test_a_field_that_nobody_knows_is_named(http: httpx.AsyncClient, llm: SemShareLLM) -> None:
    body = {**CHAT, "wobble": 1, "tools": [{"type": "web_search"}, {"type": "function", "function": {"name": "f"}}]}
    for stream in (False, True):
        answer = await http.post("/v1/chat/completions", json={**body, "stream": stream})
        assert answer.status_code == 200
        assert answer.headers["x-semshare-ignored"] == "tools.0, wobble"
    async with serving(llm, strict=True) as url, httpx.AsyncClient(base_url=url) as strict:
        assert (await refused(strict, wobble=1))["param"] == "wobble"
        assert (await refused(strict, stream_options={"wobble": 1}))["param"] == "stream_options.wobble"
        await chat(strict, user="me", metadata={"trace": "7"})
        for model in ("gpt-9", None):
            other = await strict.post("/v1/chat/completions", json={**CHAT, "model": model})
            assert other.status_code == 404
            assert other.json()["error"]["code"] == "model_not_found"


def test_the_docs_list_every_field() -> None:
    text = DOCS.read_text()
    assert [name for name in (*IGNORED, *REFUSED) if f"`{name}`" not in text] == []


SAMPLING: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"top_k": 3}, {"top_k": 3}),
    ({"top_k": -1}, {}),
    ({"min_p": 0.2}, {"min_p": 0.2}),
    ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
    ({"repeat_penalty": 1.3}, {"repetition_penalty": 1.3}),
    ({"presence_penalty": 1.5}, {"presence_penalty": 1.5}),
    ({"frequency_penalty": 1.5}, {"frequency_penalty": 1.5}),
    ({"logit_bias": {"70": 100}}, {"logit_bias": {70: 100}}),
    ({"stop": ["q", "x", "z", "j", "v", "w"]}, {"stop": ["q", "x", "z", "j", "v", "w"]}),
    ({"max_tokens": 3}, {"max_new_tokens": 3}),
    ({"n_predict": 3}, {"max_new_tokens": 3}),
    ({"max_tokens": 9, "max_completion_tokens": 3}, {"max_new_tokens": 3}),
]


@pytest.mark.parametrize(("body", "options"), SAMPLING, ids=str)
async def test_how_tokens_are_drawn(
    http: httpx.AsyncClient, llm: SemShareLLM, body: dict[str, Any], options: dict[str, Any]
) -> None:
    hot = {"temperature": 1.1, "seed": 4}
    expected = await llm.generate(CHAT["messages"], store=False, **hot, **options)
    assert (await chat(http, **hot, **body))["choices"][0]["message"]["content"] == expected.text


async def test_without_a_limit_an_answer_has_all_the_room(llama: LoadedModel, tmp_path: Path) -> None:
    async with (
        SemShareLLM.open(loaded=llama, home=tmp_path) as llm,
        serving(llm) as url,
        httpx.AsyncClient(base_url=url, timeout=120) as http,
    ):
        for body in ({}, {"max_tokens": -1}, {"max_tokens": None}):
            done = await chat(http, **body)
            assert done["usage"]["total_tokens"] == tiny.CONTEXT_TOKENS
            assert done["choices"][0]["finish_reason"] == "length"


@pytest.fixture
def llama() -> LoadedModel:
    return tiny.loaded("llama")


async def test_the_models_own_advice_counts_where_the_caller_is_silent(tmp_path: Path) -> None:
    loaded = tiny.loaded("llama", seed=11)
    config = loaded.model.generation_config
    assert loaded.advised_sampling == {}
    config.do_sample, config.temperature, config.top_k, config.repetition_penalty = True, 0.7, 20, 1.05
    advised = {"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.05}
    assert loaded.advised_sampling == advised
    asked: list[Sampling] = []

    class Seen:
        def turn(self, seen: Any) -> None:
            asked.append(seen.request.sampling)

    async with SemShareLLM.open(loaded=loaded, home=tmp_path, max_new_tokens=2) as llm:
        llm.observers.append(Seen())  # type: ignore[arg-type]
        async with serving(llm) as url, httpx.AsyncClient(base_url=url) as http:
            await chat(http)
            await chat(http, temperature=0, top_k=5)
        async with serving(llm, sampling="greedy") as url, httpx.AsyncClient(base_url=url) as http:
            await chat(http)
        await llm.generate(CHAT["messages"])
    silent = Sampling(max_new_tokens=2)
    assert asked[0] == Sampling(max_new_tokens=2, **advised)  # type: ignore[arg-type]
    assert asked[1] == Sampling(max_new_tokens=2, temperature=0, top_k=5, repetition_penalty=1.05)
    assert asked[2:] == [silent, silent]


WORDS: list[tuple[dict[str, Any], str]] = [
    ({"temperature": "hot"}, "temperature: must be a number"),
    ({"temperature": -1}, "temperature: must be at least 0"),
    ({"max_tokens": 0}, "max_tokens: must be at least 1 or must be -1"),
    ({"max_tokens": 1.5}, "max_tokens: must be a whole number or must be -1"),
    ({"n": 0}, "n: must be at least 1"),
    ({"stop": 5}, "stop: must be text or must be a list"),
    ({"stop": ["a", ""]}, "stop.1: must not be empty"),
    ({"messages": []}, "messages: must have at least 1"),
    ({"messages": "hello"}, "messages: must be a list"),
    ({"messages": ["hello"]}, "message 0: must be an object"),
    ({"messages": [{"content": "x"}]}, "message 0 has role None; known roles"),
    ({"tools": "f"}, "tools: must be a list"),
    ({"tools": ["f"]}, "tools.0: must be an object"),
    ({"response_format": {"type": "yaml"}}, "response_format: its `type` must be one of"),
    ({"response_format": "json"}, "response_format: must be an object"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"semshare": {"reuse": "all"}}, "semshare.reuse: must be 'off', 'exact'"),
    ({"semshare": {"tenant": "x"}}, "semshare.tenant: this server does not know that field"),
]


@pytest.mark.parametrize(("body", "told"), WORDS, ids=str)
async def test_errors_are_in_a_persons_words(http: httpx.AsyncClient, body: dict[str, Any], told: str) -> None:
    message = (await refused(http, **body))["message"]
    assert message.startswith(told)
    for odd in ("constrained", "literal[", "valid dictionary", "Input should", "list["):
        assert odd not in message


async def test_a_body_that_is_no_json_says_so(http: httpx.AsyncClient) -> None:
    for content in (b'{"model": "x", "messages": []}', b"a=b"):
        answer = await http.post("/v1/chat/completions", content=content)
        assert answer.status_code == 400
        assert "Content-Type: application/json" in answer.json()["error"]["message"]
    assert len(TOLD) > 20


OVERFLOWS = ["prompt is too long", "model's maximum context length is", "exceeds the context window"]


async def test_an_overflow_is_told_in_words_that_clients_look_for(http: httpx.AsyncClient) -> None:
    error = await refused(http, messages=[tiny.user("x" * 5000)])
    assert error["code"] == "context_length_exceeded"
    assert all(words in error["message"] for words in OVERFLOWS)


SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "any name, really", "schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "name": "s", "schema": SCHEMA, "strict": True}},
        {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"guided_json": SCHEMA},
        {"guided_json": '{"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}'},
        {"structured_outputs": {"json": SCHEMA, "regex": None}},
        {"json_schema": SCHEMA},
        {"format": SCHEMA},
    ],
    ids=str,
)
async def test_schemas_in_the_forms_of_peers(http: httpx.AsyncClient, form: dict[str, Any]) -> None:
    done = await chat(http, max_tokens=40, **form)
    assert done["choices"][0]["message"]["content"] in ('{"a": "x"}', '{"a": "y"}')


async def test_what_was_reused_beyond_exact_is_in_the_usage(http: httpx.AsyncClient) -> None:
    text = tiny.words(60, seed=3)
    await chat(http, messages=[tiny.system("one"), tiny.user(text)])
    moved = await chat(http, messages=[tiny.system("another one"), tiny.user(text)])
    tokens, details = moved["semshare"]["tokens"], moved["usage"]["prompt_tokens_details"]
    assert details["cached_tokens"] == tokens["exact"]
    assert details["reused_tokens"] == tokens["exact"] + tokens["moved"] + tokens["semantic"] > tokens["exact"]
