"""A disk slower than the answers: what waits for it is within the RAM budget, turns wait, nothing promised is lost."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from semshare_agents.errors import RegistryUnavailableError
from semshare_agents.kv.packing import Packed
from semshare_agents.llm import SemShareLLM
from semshare_agents.operate.audit import audit
from semshare_agents.store.disk import DiskStore
from tests import tiny
from tests.conftest import OpenLLM
from tests.tiny import user

BLOCK_BYTES = 16 * 3 * 2 * 2 * 16 * 4
"""16 tokens of the tiny model: layers, keys and values, KV heads, dimensions, float32."""
TEXTS = [tiny.words(40, seed) for seed in range(10)]


class Gate:
    """A disk whose writes wait: for a moment each, or until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float | None = None):
        self.open = threading.Event()
        whole: Callable[..., int] = DiskStore.put

        def put(store: DiskStore, *arguments: Any) -> int:
            self.open.wait(seconds)
            return whole(store, *arguments)

        monkeypatch.setattr(DiskStore, "put", put)


def held_bytes() -> int:
    """KV of all packed blocks that this process holds, wherever they are."""
    gc.collect()
    return sum(thing.nbytes for thing in gc.get_objects() if type(thing) is Packed)


async def asked(llm: SemShareLLM, text: str, **more: Any) -> Any:
    return (await llm.generate([user(text)], max_new_tokens=1, **more)).report


@pytest.mark.parametrize("side_by_side", [1, 5])
async def test_what_waits_is_within_the_budget_and_reaches_the_disk(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, side_by_side: int
) -> None:
    budget, others = 20 * BLOCK_BYTES, held_bytes()
    llm = await open_llm(memory_bytes=budget)
    Gate(monkeypatch, seconds=0.02)
    peak = 0
    for begin in range(0, len(TEXTS), side_by_side):
        now = TEXTS[begin : begin + side_by_side]
        turns = [asyncio.create_task(asked(llm, text, reuse="exact")) for text in now]
        for turn in asyncio.as_completed(turns):
            assert (await turn).turn_id is not None
            peak = max(peak, held_bytes() - others)
    # Each turn that is being stored has one block in its hands, and so has each thread that writes.
    assert 10 * BLOCK_BYTES < peak <= budget + (2 * side_by_side + 2) * BLOCK_BYTES
    await llm.flush()
    files = list((tmp_path / "home" / "kv").glob("*/*.safetensors"))
    assert len(files) == (await llm.pipeline.memory.registry.statistics())["blocks"]
    assert (await audit(llm.pipeline.memory.registry, DiskStore(tmp_path / "home" / "kv"))).problems(alone=True) == 0
    await llm.aclose()
    again = await open_llm()
    for text in TEXTS:
        found = await asked(again, text, reuse="exact", store=False)
        assert (found.reuse_class, found.misses) == ("exact", 0)
        assert found.tokens["computed"] < 20


async def test_a_disk_that_stands_still_holds_up_what_has_to_be_stored_alone(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = await open_llm(memory_bytes=20 * BLOCK_BYTES)
    gate = Gate(monkeypatch)
    await asked(llm, TEXTS[0])
    pieces = llm.stream([user(TEXTS[1])], max_new_tokens=4)
    assert len([(await anext(pieces)).text for _ in range(4)]) == 4
    last = asyncio.ensure_future(anext(pieces))
    done, _ = await asyncio.wait([last], timeout=0.3)
    assert not done
    assert (await asyncio.wait_for(asked(llm, TEXTS[0], store=False), 10)).reuse_class == "exact"
    assert (await asyncio.wait_for(asked(llm, TEXTS[2], store=False), 10)).reuse_class == "cold"
    gate.open.set()
    generation = (await asyncio.wait_for(last, 10)).generation
    assert generation is not None
    assert generation.report.turn_id is not None
    await llm.settle()


async def test_a_caller_who_goes_away_while_it_is_stored_leaves_nothing(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    llm = await open_llm(memory_bytes=20 * BLOCK_BYTES)
    gate = Gate(monkeypatch)
    await asked(llm, TEXTS[0])
    late = asyncio.create_task(asked(llm, TEXTS[1]))
    done, _ = await asyncio.wait([late], timeout=0.5)
    assert not done
    late.cancel()
    with suppress(asyncio.CancelledError):
        await late
    gate.open.set()
    await llm.settle()
    await kept_alone(llm, tmp_path, turns=1)
    # What was taken for it is free again.
    assert (await asked(llm, TEXTS[2])).turn_id is not None
    assert (await asked(llm, TEXTS[2], store=False)).reuse_class == "exact"


async def test_what_no_row_will_name_is_let_go(
    open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    llm = await open_llm(memory_bytes=20 * BLOCK_BYTES)

    async def refuse(*_: object, **__: object) -> None:
        raise RegistryUnavailableError("no")

    for name in ("add_turn", "drop_blocks", "demoted"):
        with monkeypatch.context() as patch:
            patch.setattr(llm.pipeline.memory.registry, name, refuse)
            for text in TEXTS[:4]:
                await asked(llm, text)
    await llm.settle()
    for text in TEXTS[4:]:
        assert (await asked(llm, text)).turn_id is not None
    await llm.settle()
    tier = llm.pipeline.memory.tiers.tiers[0]
    # Newer turns took the place of what was kept in vain: RAM is filled up to the low watermark.
    low = llm.settings.low_watermark * tier.budget_bytes
    assert low - BLOCK_BYTES < sum(size for _, size in tier.store.entries()) <= tier.budget_bytes
    assert (await asked(llm, TEXTS[9], store=False)).reuse_class == "exact"


async def kept_alone(llm: SemShareLLM, tmp_path: Path, turns: int) -> None:
    """So many turns are stored, and every tier has their blocks alone."""
    async with asyncio.timeout(10):
        while True:
            figures = await llm.pipeline.memory.registry.statistics()
            named = {info.key for info, _ in await llm.pipeline.memory.registry.blocks()}
            kept = {key for tier in llm.pipeline.memory.tiers.tiers for key, _ in tier.store.entries()}
            if kept == named:
                break
            await asyncio.sleep(0.05)
    assert sum(row["turns"] for row in figures["turns"].values()) == turns
    assert (await audit(llm.pipeline.memory.registry, DiskStore(tmp_path / "home" / "kv"))).problems(alone=True) == 0
