"""Faces of an earlier version work for one more, and warn."""

from __future__ import annotations

from pathlib import Path

import pytest

from semshare_agents.turn.earlier import PLACES
from tests import tiny
from tests.conftest import OpenLLM


async def test_the_stages_are_read_by_their_old_names(open_llm: OpenLLM, tmp_path: Path) -> None:
    llm = await open_llm()
    await llm.generate([tiny.user("hello")])
    with pytest.warns(DeprecationWarning, match=r"llm\.reader"):
        turns = llm.turns
    for name in PLACES:
        getattr(turns, name)
    assert turns.registry is llm.pipeline.memory.registry
    assert turns.model is llm.pipeline.model
    assert turns.cost is llm.pipeline.planner.cost
    assert turns.kv_fingerprint == llm.pipeline.memory.spec.fingerprint
    with pytest.raises(AttributeError, match=r"llm\.pipeline"):
        _ = turns.nothing
