"""Checks that need no model: settings, versions, folders, space, encryption, the registry."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from semshare_agents.doctor.check import Check, State
from semshare_agents.errors import SemShareError
from semshare_agents.registry import Registry, schema
from semshare_agents.registry.tables import SCHEMA_VERSION
from semshare_agents.security import files as private
from semshare_agents.security import name_key as keys
from semshare_agents.security.encryption import OVERHEAD_BYTES, key_name, make_cipher
from semshare_agents.settings import Settings, unknown_variables

PACKAGES = ("semshare-agents", "torch", "transformers", "sqlalchemy", "alembic", "safetensors")
GIB = 1024**3
NO_KEY = bytes(keys.KEY_BYTES)


def settings_check(settings: Settings) -> Check:
    """What is set otherwise than by default, and variables that set nothing."""
    changed = {n: v for n, v in settings if n in settings.model_fields_set and n != "database_url"}
    words = [f"{name}={value}" for name, value in changed.items()]
    found = ", ".join([f"home={settings.home}", *(w for w in words if not w.startswith("home="))])
    unknown = unknown_variables()
    if not unknown:
        return Check("settings", State.OK, found)
    advice = "; ".join(f"{nearest} in its place?" if nearest else f"unset {name}" for name, nearest in unknown.items())
    return Check("settings", State.WARNING, f"{found}; no setting: {', '.join(unknown)}", advice)


def versions_check() -> Check:
    """Which versions are installed."""
    packages = (f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return Check("versions", State.OK, ", ".join([f"python {platform.python_version()}", *packages]))


def permissions_check(settings: Settings) -> Check:
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


def space_check(settings: Settings) -> Check:
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


def encryption_check(settings: Settings) -> Check:
    """Whether files are encrypted, and with which keys; texts in the registry are as new files."""
    try:
        cipher = make_cipher(settings.encryption_keys)
    except SemShareError as e:
        return Check("encryption", State.FAILED, str(e), "see the message")
    files = Counter(key_name(_beginning(path)) for path in settings.kv_dir.glob("*/*.safetensors"))
    names, plain = cipher.key_names, files.pop("", 0)
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


async def registry_check(settings: Settings) -> Check:
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
