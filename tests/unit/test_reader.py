"""The adapter's read face, real and fake; whoever watches or integrates reads by it alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from semshare_agents.errors import ClosedError, InvalidSchemaError
from semshare_agents.testing import FakeLLM
from tests.conftest import OpenLLM
from tests.tiny import user

ROOT = Path(__file__).parents[2]
OUTSIDE = ("integrations", "semshare_agents/observe", "semshare_agents/cli", "semshare_agents/testing/fake")


async def test_both_are_read_alike(open_llm: OpenLLM) -> None:
    real = await open_llm()
    async with FakeLLM("Yes.") as fake:
        for llm in (real, fake):
            kept = await llm.generate([user("Hello there")], session="ana")
            reader = llm.reader
            assert reader.model.name
            assert reader.model.context_tokens > kept.usage.total_tokens
            assert [row.id for row in await reader.stored.browse("default")] == [kept.report.turn_id]
            found = await reader.stored.turn(kept.report.turn_id, "default")
            assert found is not None
            assert len(found[1]) >= kept.usage.prompt_tokens
            assert [row["name"] for row in await reader.stored.sessions("default")] == ["ana"]
            assert await reader.stored.drift_of("default") == []
            assert reader.counter().messages([user("Hello there")]) == kept.usage.prompt_tokens
            assert len(reader.counter().text("Hello there")) > 1
            assert all(tier.used_bytes <= tier.budget_bytes for tier in reader.tiers)
            await reader.check_schema({"type": "object"})
            with pytest.raises(InvalidSchemaError):
                await reader.check_schema({"type": "strange"})
        assert real.reader.tiers


async def test_a_closed_adapter_cannot_be_read(open_llm: OpenLLM) -> None:
    real, fake = await open_llm(), FakeLLM()
    await real.aclose()
    for llm in (real, fake):
        with pytest.raises(ClosedError):
            _ = llm.reader


def test_nobody_outside_reaches_through_the_stages() -> None:
    files = [path for folder in OUTSIDE for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 30
    for path in files:
        reached = [n.lineno for n in ast.walk(ast.parse(path.read_text())) if _through(n)]
        assert not reached, f"{path}, lines {reached}: read `llm.reader` instead"


def _through(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "pipeline"
        and isinstance(node.value, ast.Name | ast.Attribute)
        and (node.value.id if isinstance(node.value, ast.Name) else node.value.attr).strip("_") in ("llm", "self")
    )
