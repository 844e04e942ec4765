"""A memory that an earlier version wrote is read by this one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from semshare_agents.values import Reuse
from tests.fixtures import memory

WRITTEN = sorted((Path(__file__).parents[1] / "fixtures").glob("memory-*"))

pytestmark = pytest.mark.usefixtures("reuse_wins")


@pytest.fixture(params=WRITTEN, ids=lambda folder: folder.name)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a fixture."""
    return Path(shutil.copytree(request.param, tmp_path / "written"))


async def test_it_serves_the_same_turns_with_the_same_tokens_and_answers(written: Path) -> None:
    expected = json.loads((written / "expected.json").read_text())
    assert {answer["class"] for answer in expected.values()} == {"exact", "moved", "semantic"}
    assert await memory.ask(written / "home", memory.model_of(written)) == expected


async def test_its_sessions_go_on_and_its_pins_hold(written: Path) -> None:
    model = memory.model_of(written)
    async with memory.opened(written / "home", model) as llm:
        assert [pin.session for pin in await llm.pins()] == ["talk"]
        talk = llm.session("talk", system="you are brief")
        assert len(await talk.messages()) == 5
        report = (await talk.send("and a third", reuse=str(Reuse.EXACT))).report
        assert report.reuse_class == "exact"
        assert report.tokens["computed"] < 100


async def test_what_it_has_of_another_tenant_stays_apart_and_can_be_forgotten(written: Path) -> None:
    model = memory.model_of(written)
    async with memory.opened(written / "home", model) as llm:
        asked = [memory.tiny.user(memory.OTHER)]
        assert (await llm.generate(asked, store=False)).report.reuse_class != "exact"
        assert (await llm.generate(asked, tenant="acme", store=False)).report.reuse_class == "exact"
        assert len((await llm.forget(session="elsewhere", tenant="acme")).turn_ids) == 1
        assert (await llm.generate(asked, tenant="acme", store=False)).report.reuse_class == "cold"
