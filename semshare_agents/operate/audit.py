"""Audit: registry rows against KV files, both ways.

The oracle of every crash test: after whatever happened, an audit with repair leaves a memory in which each row has a
sound file and each file a row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from semshare_agents.memory.blocks import Blocks
from semshare_agents.registry import Registry
from semshare_agents.store.base import BlockInfo
from semshare_agents.store.disk import DiskStore

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        rows: Registered blocks that every process may use.
        files: Block files.
        gone: Keys of rows whose file is not there.
        damaged: Keys of rows whose file is not the block they name, with what is wrong.
        orphans: Keys of files that no row names.
        temporary_files: Files that interrupted writes left aside.
        held: Keys of rows that say: only in the RAM of another process.
        misplaced: Block files in a folder where nobody looks for them.
        unused: Keys of rows that no turn refers to.
        broken_links: Rows that link a turn or block that is not there.
        unerased: Acts of forgetting that were interrupted before the files were written anew.
    """

    rows: int
    files: int
    gone: tuple[str, ...] = ()
    damaged: tuple[tuple[str, str], ...] = ()
    orphans: tuple[str, ...] = ()
    temporary_files: tuple[Path, ...] = ()
    held: tuple[str, ...] = ()
    misplaced: tuple[Path, ...] = ()
    unused: tuple[str, ...] = ()
    broken_links: int = 0
    unerased: int = 0

    def problems(self, alone: bool) -> int:
        """How much is wrong.

        Args:
            alone: Whether no other process runs: then nobody holds what `held` names.
        """
        lists = (self.gone, self.damaged, self.orphans, self.temporary_files, self.misplaced, self.unused)
        wrong = sum(map(len, lists)) + self.broken_links + self.unerased
        return wrong + (len(self.held) if alone else 0)


async def audit(registry: Registry, store: DiskStore, tell: Tell = lambda done, total: None) -> Audit:
    """Compare rows and files; changes nothing.

    Args:
        registry: The rows.
        store: The files.
        tell: Called with `(done, total)` as files are read.

    Raises:
        RegistryError: the database fails.
        StoreError: a file cannot be read for reasons other than damage.
    """
    files = set(await asyncio.to_thread(_keys, store))
    temporary_files = await asyncio.to_thread(store.temporary_files)
    misplaced = await asyncio.to_thread(store.misplaced)
    held = set(await registry.foreign())
    rows = [info for info, durable in await registry.blocks() if durable]
    gone: list[str] = []
    damaged: list[tuple[str, str]] = []
    for number, info in enumerate(rows, start=1):
        problem, there = await asyncio.to_thread(_problem, store, info)
        if problem and there:
            damaged.append((info.key, problem))
        elif problem:
            gone.append(info.key)
        tell(number, len(rows))
    # Whoever else is at work may have evicted or registered blocks meanwhile; what the rows say last counts.
    named = {info.key for info, _ in await registry.blocks()}
    known = named | held | {info.key for info in rows} | set(await registry.foreign())
    orphans = await asyncio.to_thread(lambda: sorted(k for k in files - known if store.path(k).exists()))
    return Audit(
        rows=len(rows),
        files=len(files),
        gone=tuple(key for key in gone if key in named),
        damaged=tuple((key, problem) for key, problem in damaged if key in named),
        orphans=tuple(orphans),
        temporary_files=tuple(temporary_files),
        held=tuple(sorted(held)),
        misplaced=tuple(misplaced),
        unused=tuple(await registry.unused()),
        broken_links=await registry.broken_links(),
        unerased=await registry.unerased(),
    )


async def repair(registry: Registry, store: DiskStore, found: Audit) -> None:
    """Put right what an audit found; only while no other process uses the memory.

    Turns keep their text: what is lost is KV that could not have been served anyway. A row of a process that ended
    becomes everybody's where its file was finished; whether that file is sound is for the next audit to say.

    Args:
        registry: The rows.
        store: The files.
        found: The findings.

    Raises:
        RegistryError: the database fails.
        StoreError: a file cannot be removed.
    """
    blocks = Blocks(registry, partial(_delete, store))
    # A stray may be what a row misses. Whether it is sound is for the next audit to say.
    home = await asyncio.to_thread(_move_home, store, found)
    on_disk = await asyncio.to_thread(lambda: {key for key in found.held if store.path(key).exists()})
    await registry.made_durable(sorted(on_disk))
    lost = [key for key in found.held if key not in on_disk]
    await blocks.drop(lost, "evict", "was in the memory of a process that ended")
    await blocks.drop([key for key in found.gone if key not in home], "miss", "its file is gone")
    await registry.drop_broken_links()
    await blocks.drop(found.unused, "evict", "no turn uses it")
    await blocks.drop([key for key, _ in found.damaged], "miss", "its file was damaged")
    await blocks.delete(found.orphans)
    await asyncio.to_thread(_unlink, found.temporary_files)
    if found.unerased:
        await registry.erase()


def _keys(store: DiskStore) -> list[str]:
    return [key for key, _ in store.entries()]


def _problem(store: DiskStore, info: BlockInfo) -> tuple[str, bool]:
    """What is wrong with a row's file, and whether the file is there."""
    problem = store.check(info)
    return problem, bool(problem) and store.path(info.key).exists()


def _move_home(store: DiskStore, found: Audit) -> set[str]:
    """Move misplaced that rows miss to where they belong, delete the others; the keys of those moved."""
    wanted, moved = {*found.gone, *found.held}, set()
    for path in found.misplaced:
        key = path.stem
        if key in wanted and store.move_home(path):
            moved.add(key)
        else:
            path.unlink(missing_ok=True)
    return moved


def _delete(store: DiskStore, keys: Sequence[str]) -> None:
    for key in keys:
        store.delete(key)


def _unlink(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
