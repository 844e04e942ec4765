"""Doctor: is this machine, with these settings, fit to keep a memory? Each check says what it found and what to do."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from uuid import uuid4

import psutil
import torch

from semshare_agents.errors import SemShareError
from semshare_agents.kv.layout import KV, tokens_of
from semshare_agents.kv.packing import make_packing
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import LoadedModel, load
from semshare_agents.registry import Registry, schema
from semshare_agents.registry.tables import SCHEMA_VERSION
from semshare_agents.reuse.cost import figures
from semshare_agents.reuse.measure import setting_of
from semshare_agents.reuse.speeds import kept, path_of
from semshare_agents.security import files as private
from semshare_agents.security import name_key as keys
from semshare_agents.security.encryption import OVERHEAD_BYTES, key_name, make_sealer
from semshare_agents.settings import Settings, unknown_variables
from semshare_agents.store import BlockStore, DeviceStore, DiskStore, MemoryStore
from semshare_agents.store.base import BlockInfo

PACKAGES = ("semshare-agents", "torch", "transformers", "sqlalchemy", "alembic", "safetensors")
SPEED_BLOCKS = 16
SLOW_DISK_MB_PER_SECOND = 100.0
MB = 1e6
GIB = 1024**3
NO_KEY = bytes(keys.KEY_BYTES)


class State(StrEnum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: What was looked at.
        state: How it went.
        found: What was found.
        advice: What to do; empty where all is well.
    """

    name: str
    state: State
    found: str
    advice: str = ""


async def examine(settings: Settings, model: bool = True) -> AsyncIterator[Check]:
    """Run all checks, the quick ones first; none changes the memory.

    Args:
        settings: What to examine.
        model: Whether to load the model: without it its checks, the tiers' speeds and the self-test are left out.
    """
    yield _settings(settings)
    yield Check("versions", State.OK, _versions())
    yield await asyncio.to_thread(_permissions, settings)
    yield await asyncio.to_thread(_space, settings)
    yield await asyncio.to_thread(_encryption, settings)
    yield await _schema(settings)
    if not model:
        return
    try:
        loaded = await asyncio.to_thread(load, settings.model, settings.home, settings.device, settings.dtype)
    except SemShareError as e:
        advice = "see the message; `semshare models pull` fetches the default model"
        yield Check("model", State.FAILED, str(e), advice)
        return
    yield _model(loaded)
    if loaded.support.rows is None:
        return
    for check in await asyncio.to_thread(_speeds, settings, loaded):
        yield check
    yield await asyncio.to_thread(_measured, settings, loaded)
    yield await _self_test(settings, loaded)


def _settings(settings: Settings) -> Check:
    changed = {n: v for n, v in settings if n in settings.model_fields_set and n != "database_url"}
    words = [f"{name}={value}" for name, value in changed.items()]
    found = ", ".join([f"home={settings.home}", *(w for w in words if not w.startswith("home="))])
    unknown = unknown_variables()
    if not unknown:
        return Check("settings", State.OK, found)
    advice = "; ".join(f"{nearest} in its place?" if nearest else f"unset {name}" for name, nearest in unknown.items())
    return Check("settings", State.WARNING, f"{found}; no setting: {', '.join(unknown)}", advice)


def _versions() -> str:
    return ", ".join(
        [f"python {platform.python_version()}", *(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES)]
    )


def _permissions(settings: Settings) -> Check:
    """Whether the folders can be written, and by the owner alone."""
    open_to_others: dict[str, str] = {}
    for folder in (settings.home, settings.kv_dir):
        if not folder.exists():
            continue
        try:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-"):
                pass
        except OSError as e:
            advice = "change its owner or mode, or give another home or store_dir"
            return Check("permissions", State.FAILED, f"{folder} cannot be written: {e.strerror}", advice)
        lax = list(private.open_to_others(folder))
        if lax:
            open_to_others[str(folder)] = f"{len(lax)} under {folder}, the first {lax[0]}"
    if open_to_others:
        found = f"files or folders that other users of this machine may look into: {'; '.join(open_to_others.values())}"
        return Check("permissions", State.WARNING, found, f"chmod -R go= {' '.join(open_to_others)}")
    return Check("permissions", State.OK, "the folders are writable, and all in them is the owner's alone")


def _space(settings: Settings) -> Check:
    """Whether the budgets fit what is free, counting what the memory itself takes as free."""
    folder = next(p for p in (settings.kv_dir, *settings.kv_dir.parents) if p.exists())
    kept = sum(path.stat().st_size for path in settings.kv_dir.glob("*/*.safetensors"))
    disk, ram = shutil.disk_usage(folder).free, psutil.virtual_memory().available
    found = (
        f"disk {disk / GIB:.1f} GiB free, {kept / GIB:.1f} of {settings.disk_bytes / GIB:.1f} GiB used; "
        f"RAM {ram / GIB:.1f} GiB free, budget {settings.memory_bytes / GIB:.1f} GiB"
    )
    advice = []
    if settings.disk_bytes > disk + kept:
        advice.append(f"set disk_bytes to at most {int(0.9 * (disk + kept))}")
    if settings.memory_bytes > ram:
        advice.append(f"set memory_bytes to at most {int(0.5 * ram)}")
    return Check("free space", State.WARNING if advice else State.OK, found, "; ".join(advice))


def _encryption(settings: Settings) -> Check:
    """Whether files are encrypted, and with which keys; texts in the registry are as new files."""
    try:
        sealer = make_sealer(settings.encryption_keys)
    except SemShareError as e:
        return Check("encryption", State.FAILED, str(e), "see the message")
    files = Counter(key_name(_beginning(path)) for path in settings.kv_dir.glob("*/*.safetensors"))
    names, plain = sealer.key_names, files.pop("", 0)
    lost = {name: count for name, count in files.items() if name not in names}
    found = f"on, key {names[0]} encrypts, {len(names) - 1} more only read" if names else "off"
    found += f"; {sum(files.values()):,} encrypted files, {plain:,} plain ones"
    if lost:
        found += f"; {sum(lost.values()):,} of keys that are not given: {', '.join(sorted(lost))}"
        return Check("encryption", State.WARNING, found, "they count as misses: add their keys to encryption_keys")
    if names and plain:
        return Check(
            "encryption", State.WARNING, found, "plain files stay until evicted; `semshare forget` removes them"
        )
    return Check("encryption", State.OK, found)


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(OVERHEAD_BYTES)
    except OSError:
        return b""


async def _schema(settings: Settings) -> Check:
    """Whether the registry answers and is of this version; a new one is not made."""
    start = time.perf_counter()
    try:
        if not await schema.current(settings.registry_url, settings.database_timeout_seconds):
            return Check("registry", State.OK, "none yet; the first turn makes it")
        kept = settings.names_key is not None or (settings.home / keys.NAMES_FILE).exists()
        names_key = await asyncio.to_thread(keys.names_key, settings.home, settings.names_key) if kept else NO_KEY
        registry = await Registry.open(
            settings.registry_url,
            timeout_seconds=settings.database_timeout_seconds,
            names_key=names_key,
            pools=settings.pools,
        )
    except SemShareError as e:
        return Check(
            "registry", State.FAILED, str(e), "see the message; `semshare db upgrade` upgrades an older schema"
        )
    try:
        took = time.perf_counter() - start
        figures, abandoned = await registry.statistics(), await registry.abandoned()
        unnamed = await registry.tenants_of_other_keys()
    finally:
        await registry.close()
    turns = sum(row["turns"] for row in figures["turns"].values())
    found = (
        f"{registry.dialect}, schema version {SCHEMA_VERSION}, opened in {took * 1000:.0f} ms; "
        f"{turns:,} turns, {figures['blocks']:,} blocks"
    )
    if unnamed:
        found += f"; the names of {len(unnamed)} tenants are of another key, nothing stored for them is found"
        advice = f"bring back {settings.home / keys.NAMES_FILE}, or the settings names_key and pools, as they were"
        return Check("registry", State.WARNING, found, advice)
    if abandoned:
        found += f", {len(abandoned)} of them of processes that ended"
        return Check("registry", State.WARNING, found, "`semshare verify --fix` forgets them")
    return Check("registry", State.OK, found)


def _model(loaded: LoadedModel) -> Check:
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


def _speeds(settings: Settings, loaded: LoadedModel) -> list[Check]:
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


def _speed(name: str, store: BlockStore, kv: KV, fingerprint: str) -> Check:
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


def _measured(settings: Settings, loaded: LoadedModel) -> Check:
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


TEST_TEXT = " ".join(f"Item {n} of the list lies in drawer {n * 7 % 31}." for n in range(12))


async def _self_test(settings: Settings, loaded: LoadedModel) -> Check:
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
        state, advice = _of_another_answer(settings.kv_codec, loaded.embeddings.dtype)
        return Check("self-test", state, f"{found}; another answer than the cold run's", advice)
    return Check("self-test", State.OK, f"{found}; the same answer")


def _of_another_answer(kv_codec: str, dtype: torch.dtype) -> tuple[State, str]:
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


def worst(checks: list[Check]) -> State:
    """The worst state of all."""
    order = list(State)
    return max((check.state for check in checks), key=order.index, default=State.OK)
