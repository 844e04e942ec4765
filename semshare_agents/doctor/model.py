"""Checks of the loaded model: its KV, the tiers' speeds, what decides whether reuse pays, and a turn reused."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import torch

from semshare_agents.doctor.check import Check, State
from semshare_agents.errors import SemShareError
from semshare_agents.kv.layout import tokens_of
from semshare_agents.kv.packing import make_packing
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel
from semshare_agents.reuse.cost import figures
from semshare_agents.reuse.measure import setting_of
from semshare_agents.reuse.speeds import kept, path_of
from semshare_agents.settings import Settings
from semshare_agents.store import BlockStore, DeviceStore, DiskStore, MemoryStore
from semshare_agents.store.base import BlockInfo

SPEED_BLOCKS = 16
SLOW_DISK_MB_PER_SECOND = 100.0
MB = 1e6
TEST_TEXT = " ".join(f"Item {n} of the list lies in drawer {n * 7 % 31}." for n in range(12))


def model_check(loaded: LoadedModel) -> Check:
    """What the model's KV can be used for, up to which length, and whether it chats."""
    support = loaded.support
    weight = loaded.embeddings
    found = (
        f"{loaded.name}, {weight.dtype}".replace("torch.", "")
        + f" on {weight.device}, {loaded.context_tokens:,} tokens"
    )
    if support.rows is None:
        advice = "every turn runs cold: for reuse take a model whose layers all keep keys and values, and attend to all"
        return Check("model", State.WARNING, f"{found}; its KV cannot be reused: {support.reason}", advice)
    found += "; its KV can be reused" + (" and moved" if support.mover is not None else "")
    advised = []
    if support.mover is None:
        found += f", not moved: {support.reason}"
        advised.append("exact reuse only")
    if support.limit is not None:
        found += (
            f"; turns of more than {support.limit.tokens} tokens, answer included, reach past {support.limit.reason}"
        )
        advised.append(f"turns of more than {support.limit.tokens} tokens run cold")
    if getattr(loaded.tokenizer, "chat_template", None) is None:
        found += "; its tokenizer has no chat template"
        advised.append("raw prompts only: chats need a model that was made for them")
    return Check("model", State.WARNING if advised else State.OK, found, "; ".join(advised))


def tier_checks(settings: Settings, loaded: LoadedModel) -> list[Check]:
    """Writing to and reading from each tier, with blocks of the model's own size."""
    rows = loaded.support.rows
    assert rows is not None
    packing = make_packing(settings.kv_codec)
    kv = rows.layout.empty(settings.block_tokens, rows.device).normal_()
    checks = []
    stores: list[tuple[str, Callable[[Path], BlockStore]]] = [("memory", lambda _: MemoryStore(packing=packing))]
    if settings.device_bytes:
        device = "cuda" if settings.device == "auto" else settings.device
        stores.insert(0, ("device", lambda _: DeviceStore(device, packing)))
    if settings.disk_bytes:
        stores.append(("disk", lambda folder: DiskStore(folder, packing)))
    for name, made in stores:
        try:
            near = next(p for p in (settings.kv_dir, *settings.kv_dir.parents) if p.exists())
            with tempfile.TemporaryDirectory(dir=near, prefix=".doctor-") as folder:
                checks.append(_speed(name, made(Path(folder)), kv, loaded.fingerprint))
        except (SemShareError, OSError) as e:
            checks.append(Check(f"{name} tier", State.FAILED, str(e), "see permissions and free space"))
    return checks


def _speed(name: str, store: BlockStore, kv: torch.Tensor, fingerprint: str) -> Check:
    infos = [BlockInfo(uuid4().hex, fingerprint, tokens_of(kv)) for _ in range(SPEED_BLOCKS)]
    start = time.perf_counter()
    for info in infos:
        store.put(info, kv)
    between = time.perf_counter()
    for info in infos:
        block = store.get(info)
        assert block is not None
        block.clone()
    end = time.perf_counter()
    total = kv.nbytes * SPEED_BLOCKS / MB
    write, read = total / (between - start), total / (end - between)
    found = f"writes {write:,.0f} MB/s, reads {read:,.0f} MB/s ({SPEED_BLOCKS} blocks of {kv.nbytes / MB:.1f} MB)"
    if name == "disk" and min(write, read) < SLOW_DISK_MB_PER_SECOND:
        return Check(f"{name} tier", State.WARNING, found, "put store_dir on a faster disk, or use kv_codec=int8")
    return Check(f"{name} tier", State.OK, found)


def speeds_check(settings: Settings, loaded: LoadedModel) -> Check:
    """The speeds that decide whether reuse pays: how old they are, how sure, and what they say."""
    rows = loaded.support.rows
    assert rows is not None
    measurement = kept(path_of(settings.home, loaded.fingerprint), setting_of(rows))
    if measurement is None:
        return Check("speeds", State.OK, "not measured yet; the first start does it")
    told = figures(measurement, settings.min_gain)
    pays = told["break_even_tokens"]
    when = datetime.fromtimestamp(measurement.at).strftime("%d %b %Y %H:%M")
    says = "next turns are never reused" if pays is None else f"next turns are reused from {pays:,} tokens on"
    found = f"measured {when}, {measurement.quality}; {says}"
    if measurement.disturbed:
        advice = "they are measured again in idle time; `semshare speeds --measure` does it now"
        return Check("speeds", State.WARNING, found, advice)
    if pays is None:
        return Check("speeds", State.WARNING, found, "this model is as fast without a memory on this machine")
    return Check("speeds", State.OK, found)


async def self_test(settings: Settings, loaded: LoadedModel) -> Check:
    """A prompt answered cold, then from a memory of its own: the same tokens, and reused."""
    messages = [{"role": "user", "content": TEST_TEXT}]
    with tempfile.TemporaryDirectory(prefix="semshare-doctor-") as folder:
        home = Path(folder)
        chosen = {name: getattr(settings, name) for name in ("kv_codec", "block_tokens", "device", "dtype")}
        try:
            async with SemShareLLM.open(
                loaded=loaded,
                home=home,
                database_url=None,
                min_gain=1.0,
                max_new_tokens=8,
                measure_idle=False,
                **chosen,
            ) as llm:
                cold = await llm.generate(messages, reuse="off")
                await llm.flush()
                again = await llm.generate(messages, reuse="exact", store=False)
        except SemShareError as e:
            return Check("self-test", State.FAILED, str(e), "please report this")
    report = again.report
    found = (
        f"{report.tokens['exact']} of {again.usage.prompt_tokens} tokens reused, first token after "
        f"{report.ttft_seconds:.3f} s, cold {cold.report.ttft_seconds:.3f} s"
    )
    if report.reuse_class != "exact":
        why = f"nothing was reused: {report.reason}"
        return Check("self-test", State.FAILED, why, "a memory does not help with this model on this machine")
    if again.tokens != cold.tokens:
        state, advice = of_another_answer(settings.kv_codec, loaded.embeddings.dtype)
        return Check("self-test", state, f"{found}; another answer than the cold run's", advice)
    return Check("self-test", State.OK, f"{found}; the same answer")


def of_another_answer(kv_codec: str, dtype: torch.dtype) -> tuple[State, str]:
    """What it means that an answer from exact KV differs from the cold one."""
    if kv_codec != "raw":
        return State.WARNING, "kv_codec=raw keeps every bit"
    if dtype != torch.float32:
        name = str(dtype).removeprefix("torch.")
        return (
            State.WARNING,
            f"{name} rounds passes of other shapes otherwise and near ties fall either way: use float32",
        )
    return State.FAILED, "please report this"
