"""Several processes share a disk budget: it holds at every moment, whoever dies."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from semshare_agents.errors import StoreError
from semshare_agents.evict import make_policy
from semshare_agents.security.encryption import Cipher
from semshare_agents.store import BlockInfo, DiskStore, MemoryStore, Tier, Tiers, ledger
from semshare_agents.store.disk import LEDGER
from semshare_agents.store.holds import Leases
from semshare_agents.store.ledger import Ledger
from tests.forks import CONTEXT

BUDGET_BYTES = 20_000
KV = torch.ones(1, 2, 1, 4, 60)


def opened(folder: Path, memory_bytes: int = 0, cipher: Cipher | None = None) -> Tiers:
    leases = Leases()
    disk = Tier(DiskStore(folder, None, cipher), BUDGET_BYTES, make_policy("lru"), leases)
    fast = [Tier(MemoryStore(), memory_bytes, make_policy("lru"), leases)] if memory_bytes else []
    return Tiers([*fast, disk], leases)


def info(number: int) -> BlockInfo:
    return BlockInfo(f"{number:032x}", "f" * 64, 4)


def put(tiers: Tiers, number: int) -> bool:
    return tiers.keep_durable(info(number), KV, 0)


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/*"))


@pytest.mark.parametrize("cipher", [Cipher(), Cipher([bytes(32)])], ids=["plain", "encrypted"])
def test_processes_let_go_what_others_kept(tmp_path: Path, cipher: Cipher, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (opened(tmp_path, cipher=cipher) for _ in range(2))
    most, fsync = [0], os.fsync

    def weighed(file: int) -> None:
        most[0] = max(most[0], on_disk(tmp_path))
        fsync(file)

    monkeypatch.setattr(os, "fsync", weighed)
    for number in range(30):
        assert put(one if number % 3 else two, number)
    # Also while files were written.
    assert BUDGET_BYTES * 0.7 < most[0] <= BUDGET_BYTES
    for tiers in (one, two):
        tiers.tiers[0].look()
        tiers._demote_evicted(tiers.tiers[0])
        kept = {key for key, _ in tiers.tiers[0].store.entries()}
        # The newest stay, whoever stored them, and both know all of them.
        assert kept == {info(number).key for number in range(30 - len(kept), 30)}
        assert {key for key in kept if key in tiers.tiers[0]} == kept
        assert len(tiers.tiers[0]) == len(kept)
        assert len(tiers.load([info(29), info(28)]).kv) == 2
        # What another one let go is a miss and not an error.
        assert list(tiers.load([info(1)]).missing) == [info(1).key]
        tiers.close()


def test_what_another_process_took_is_not_brought_back(tmp_path: Path) -> None:
    one, two = opened(tmp_path, memory_bytes=100_000), opened(tmp_path)
    assert put(one, 0)
    assert one.keep_fast(info(0), KV, 0)
    for number in range(1, 15):
        assert put(two, number)
    assert one.anywhere(info(0).key)
    assert put(one, 15)
    assert not one.anywhere(info(0).key), "its row is gone with its file"
    assert not put(one, 0)
    assert one.taken([info(0).key, info(15).key]) == [info(0).key]
    assert not list(tmp_path.glob(f"*/{info(0).key}*"))
    for tiers in (one, two):
        tiers.close()


def writing(folder: Path, seed: int, seconds: float) -> None:
    tiers, end, number = opened(folder), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        put(tiers, seed * 10**6 + number)
        number += 1
        if number % 5 == 0:
            tiers.forget([info(seed * 10**6 + number - 2).key])
    tiers.close()


@pytest.mark.slow
def test_four_processes_and_one_that_is_killed_keep_to_one_budget(tmp_path: Path) -> None:
    folder = tmp_path / "kv"
    processes = [CONTEXT.Process(target=writing, args=(folder, seed, 2.0)) for seed in range(1, 5)]
    for process in processes:
        process.start()
    while not (folder / LEDGER).is_file():
        time.sleep(0.01)
    looks, most, killed, began = 0, 0, None, time.monotonic()
    with (folder / LEDGER).open("rb") as lock:
        while any(process.is_alive() for process in processes):
            fcntl.flock(lock, fcntl.LOCK_EX)
            most, looks = max(most, on_disk(folder)), looks + 1
            fcntl.flock(lock, fcntl.LOCK_UN)
            # A busy machine gives few looks in that time.
            if killed is None and (looks == 50 or time.monotonic() - began > 1.0):
                os.kill(processes[0].pid or 0, signal.SIGKILL)
                killed = looks
            time.sleep(0.005)
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [-signal.SIGKILL, 0, 0, 0]
    assert killed is not None
    assert looks > killed
    assert BUDGET_BYTES * 0.7 < most <= BUDGET_BYTES
    tiers = opened(folder)
    assert tiers.tiers[0].used_bytes == on_disk(folder)
    assert not list(folder.glob("*/*.tmp"))
    tiers.close()


def dying(folder: Path) -> None:
    os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    put(opened(folder), 7)


@pytest.mark.slow
def test_who_dies_while_writing_leaves_nothing(tmp_path: Path) -> None:
    tiers = opened(tmp_path)
    assert put(tiers, 1)
    process = CONTEXT.Process(target=dying, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.glob("*/*.tmp"))
    assert put(tiers, 2)
    assert not list(tmp_path.glob("*/*.tmp"))
    tiers.close()


class Books:
    """A ledger and how often it counted."""

    def __init__(self, path: Path, truth: dict[str, int]):
        self.counted, self.truth = 0, truth
        self.ledger = Ledger(path, self._count)

    def _count(self) -> dict[str, int]:
        self.counted += 1
        return dict(self.truth)

    def add(self, key: str, size: int) -> None:
        with self.ledger.held():
            self.truth[key] = size
            self.ledger.add(key, size)

    def news(self) -> dict[str, int | None]:
        with self.ledger.held():
            return dict(self.ledger.news())


def garbage(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def other_line(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"many ab\n")


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def gone(path: Path) -> None:
    path.unlink()


def folder_gone(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("damage", [garbage, other_line, shorter, gone, folder_gone])
def test_a_ledger_that_cannot_be_trusted_is_counted_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path, truth = tmp_path / "kv" / "books", {"aa": 1}
    one, two = Books(path, truth), Books(path, truth)
    assert (one.news(), two.news()) == ({"aa": 1}, {"aa": 1})
    one.add("bb", 2)
    assert (two.news(), two.counted) == ({"bb": 2}, 1)
    damage(path)
    truth |= {"cc": 3}
    del truth["aa"]
    assert (two.news(), two.counted) == ({"cc": 3, "aa": None}, 2)
    assert (one.news(), one.counted) == ({"cc": 3, "aa": None}, 1)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_long_journal_is_written_anew_and_everyone_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MOST_LINES", 20)
    truth: dict[str, int] = {}
    one, two = (Books(tmp_path / "books", truth) for _ in range(2))
    known: dict[str, int] = {}
    for number in range(300):
        one.add(f"{number:03d} name", number)
        if number >= 10:
            del truth[f"{number - 10:03d} name"]
            with one.ledger.held():
                one.ledger.remove(f"{number - 10:03d} name")
        if number % 7 == 0:
            for key, size in two.news().items():
                if size is None:
                    known.pop(key, None)
                else:
                    known[key] = size
            assert known == truth
    assert (one.counted, two.counted) == (1, 1)
    assert (tmp_path / "books").stat().st_size < 50 * 20


def test_an_error_while_it_is_held_is_counted_again(tmp_path: Path) -> None:
    books = Books(tmp_path / "books", {"aa": 1})

    def failing() -> None:
        with books.ledger.held(), books.ledger.held():
            books.ledger.add("bb", 100)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert (books.news(), books.counted) == ({"aa": 1, "bb": None}, 2)
    assert (books.news(), books.counted) == ({}, 2)


def test_a_full_disk_leaves_the_ledger_doubtful_and_the_budget_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    one, two = opened(tmp_path), opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StoreError, match="No space"):
            put(one, 0)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_append", lambda self, changes: setattr(self, "_sound", False))
        for number in range(1, 30):
            assert put(one if number % 3 else two, number)
            assert on_disk(tmp_path) <= BUDGET_BYTES
        one.forget([info(29).key])
    assert put(two, 30)
    assert info(29).key not in two.tiers[0]
    for tiers in (one, two):
        tiers.close()


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiers = opened(tmp_path, memory_bytes=100_000)
    assert put(tiers, 1)
    assert tiers.keep_fast(info(1), KV, 0)
    (tmp_path / LEDGER).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda _: (_ for _ in ()).throw(PermissionError(errno.EACCES, "no")))
        with pytest.raises(StoreError, match="ledger"):
            put(tiers, 2)
        assert tiers.tiers[1].failures["write"] == 1
    assert put(tiers, 2)
    assert len(tiers.load([info(1), info(2)]).kv) == 2
    tiers.close()
