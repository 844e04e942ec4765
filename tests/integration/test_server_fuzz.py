"""Schemathesis against the server's own OpenAPI: nothing it makes up may be a server error or leave the schema."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from semshare_agents.llm import SemShareLLM
from tests import tiny
from tests.serving import MODEL, serving

OpenLLM = Callable[..., Awaitable[SemShareLLM]]
CHECKS: Any = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


def fuzz(url: str, examples: int) -> int:
    """Every operation with valid and invalid data; returns how many requests were made."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    made = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
        cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases)
        def send(case: Any) -> None:
            nonlocal made
            if isinstance(case.body, dict) and case.body.get("model"):
                case.body["model"] = MODEL  # else all of them would end at the unknown model
            case.call_and_validate(checks=CHECKS, timeout=120)
            made += 1

        send()
    return made


async def test_fuzz(open_llm: OpenLLM, request: Any) -> None:
    llm = await open_llm()
    async with serving(llm) as url:
        made = await asyncio.to_thread(fuzz, url, request.config.getoption("--fuzz"))
        assert made > 50
        reply = await llm.generate([tiny.user("still there?")])
        assert reply.text
