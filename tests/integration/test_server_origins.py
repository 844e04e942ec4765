"""Who may ask a server: HEAD, pages of other origins, names of hosts, and names of the model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx2 as httpx
import pytest
from semshare_server import Keyring
from semshare_server.keys import digest
from semshare_server.models import served_name

from semshare_agents.llm import SemShareLLM
from tests import tiny
from tests.serving import MODEL, serving

OpenLLM = Callable[..., Awaitable[SemShareLLM]]
KEYS = Keyring({digest("sk-a"): "acme"})
CHAT: dict[str, Any] = {"messages": [tiny.user("hi")], "max_tokens": 2}
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


async def test_head_is_get_without_a_body(llm: SemShareLLM) -> None:
    async with serving(llm) as url, httpx.AsyncClient(base_url=url) as http:
        for path in ("/health", "/", "/metrics", "/v1/models", f"/v1/models/{MODEL}", "/openapi.json"):
            head, got = await http.head(path), await http.get(path)
            assert (head.status_code, head.content) == (200, b""), path
            assert head.headers["content-type"] == got.headers["content-type"]
        assert (await http.head("/nothing")).status_code == 404
    async with serving(llm, KEYS) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.head("/health")).status_code == 200
        assert (await http.head("/v1/models")).status_code == 401


@pytest.mark.parametrize("keys", [None, KEYS])
async def test_a_preflight_is_never_asked_for_a_key(llm: SemShareLLM, keys: Keyring | None) -> None:
    async with serving(llm, keys, cors_origins="https://chat.example, local") as url, httpx.AsyncClient() as http:
        for origin in ("http://localhost:3000", "http://127.0.0.1:5173", "https://chat.example"):
            asked = await http.options(f"{url}/v1/chat/completions", headers={"origin": origin, **PREFLIGHT})
            assert asked.status_code == 200
            assert asked.headers["access-control-allow-origin"] == origin
            assert "authorization" in asked.headers["access-control-allow-headers"]
        for origin in ("https://evil.example", "http://localhost.evil.example", "null"):
            asked = await http.options(f"{url}/v1/chat/completions", headers={"origin": origin, **PREFLIGHT})
            assert asked.status_code == 400
            assert "access-control-allow-origin" not in asked.headers


async def test_answers_and_errors_say_which_pages_may_read_them(llm: SemShareLLM) -> None:
    own, other = {"origin": "http://localhost:3000"}, {"origin": "https://evil.example"}
    async with serving(llm, KEYS) as url, httpx.AsyncClient(base_url=url) as http:
        for key, status in (("sk-a", 200), ("sk-b", 401)):
            bearer = {"authorization": f"Bearer {key}"}
            for stream in (False, True):
                body = {**CHAT, "stream": stream}
                answer = await http.post("/v1/chat/completions", json=body, headers={**own, **bearer})
                assert answer.status_code == status
                assert answer.headers["access-control-allow-origin"] == own["origin"]
            answer = await http.post("/v1/chat/completions", json=CHAT, headers={**other, **bearer})
            assert "access-control-allow-origin" not in answer.headers
    async with serving(llm, cors_origins="*") as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/v1/models", headers=other)).headers["access-control-allow-origin"] == "*"
    async with serving(llm, cors_origins="") as url, httpx.AsyncClient(base_url=url) as http:
        assert "access-control-allow-origin" not in (await http.get("/v1/models", headers=own)).headers


async def test_hosts_of_a_server_without_keys(llm: SemShareLLM) -> None:
    async def status(http: httpx.AsyncClient, host: str) -> int:
        return (await http.get("/v1/models", headers={"host": host})).status_code

    async with serving(llm) as url, httpx.AsyncClient(base_url=url) as http:
        for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "host.docker.internal:8000"):
            assert await status(http, host) == 200, host
        refused = await http.get("/v1/models", headers={"host": "evil.example"})
        assert refused.status_code == 403
        assert "SEMSHARE_SERVER_HOSTS" in refused.json()["error"]["message"]
    async with serving(llm, hosts="box.lan, other") as url, httpx.AsyncClient(base_url=url) as http:
        assert [await status(http, host) for host in ("box.lan:80", "other", "evil.example")] == [200, 200, 403]
    async with serving(llm, hosts="*") as url, httpx.AsyncClient(base_url=url) as http:
        assert await status(http, "any.example") == 200
    async with serving(llm, KEYS) as url, httpx.AsyncClient(base_url=url) as http:
        assert await status(http, "any.example") == 401


async def test_the_models_entry_and_its_names(llm: SemShareLLM) -> None:
    async with serving(llm, aliases="gpt-4o, fast") as url, httpx.AsyncClient(base_url=url) as http:
        listed = (await http.get("/v1/models")).json()["data"]
        assert [entry["id"] for entry in listed] == [MODEL, "gpt-4o", "fast"]
        for entry in listed:
            assert entry["max_model_len"] == entry["context_length"] == tiny.CONTEXT_TOKENS
            assert (entry["root"], entry["aliases"]) == (MODEL, ["gpt-4o", "fast"])
        for name in (MODEL, "fast", f"openai/{MODEL}"):
            assert (await http.get(f"/v1/models/{name}")).json()["id"] == MODEL
        assert (await http.get("/v1/models/gpt-9")).status_code == 404
        for model in (MODEL, "fast", f"openai/{MODEL}", "anything"):
            answer = await http.post("/v1/chat/completions", json={**CHAT, "model": model})
            assert answer.json()["model"] == MODEL
        assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 200
    async with serving(llm, aliases="fast", strict=True) as url, httpx.AsyncClient(base_url=url) as http:
        names = {MODEL: 200, "fast": 200, f"openai/{MODEL}": 200, "anything": 404}
        for model, status in names.items():
            assert (await http.post("/v1/chat/completions", json={**CHAT, "model": model})).status_code == status


def test_the_default_model_is_served_under_its_real_name() -> None:
    assert served_name("default") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert served_name("/models/qwen") == "qwen"
    assert served_name("org/model") == "org/model"
