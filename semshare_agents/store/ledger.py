"""Which blocks a folder holds, for all the processes that share it."""

from __future__ import annotations

import fcntl
import os
import secrets
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock

from semshare_agents.security import files as private

SOUND, DOUBTFUL = b"=", b"!"
ID_DIGITS = 16
HEADER_BYTES = 1 + ID_DIGITS + 1
MOST_LINES = 4000
"""Lines more than two a block, after which the file is written anew."""


class Ledger:
    """A journal of the blocks that come and go, in a file that is locked while they do.

    Whoever takes the lock first reads what others wrote since it last had it. So every process knows all blocks, and
    holds their sum to its budget. While the lock is held the file says that it is not to be trusted: after a process
    that died then, or could not write it, the next one counts the folder. So does each process when it begins.

    The file is a header, which changes when all is written anew, and a line a change: `BYTES KEY`, or `- KEY` for a
    block that is gone.

    Args:
        path: The file; made with mode 0600.
        count: The bytes of every block in the folder. Called while nobody else changes anything there.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path, count: Callable[[], dict[str, int]]):
        self._path = path
        self._count = count
        self._lock = RLock()
        self._held = False
        self._sound = True
        self._header = b""
        self._end = 0
        self._lines = 0
        self._sizes: dict[str, int] = {}
        self._news: dict[str, int | None] = {}
        self._open()

    def _open(self) -> None:
        private.folder(self._path.parent)
        self._file = private.opened(self._path, os.O_RDWR)
        self._close = weakref.finalize(self, os.close, self._file)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep all others, threads and processes, from changing what the folder has; may be nested in one thread.

        Raises:
            OSError: the file cannot be locked or marked, or the folder not be counted.
        """
        with self._lock:
            outermost = not self._held
            if outermost:
                self._take()
            try:
                yield
            except BaseException:
                self._sound = False
                raise
            finally:
                if outermost:
                    self._give()

    def add(self, key: str, size_bytes: int) -> None:
        """A block came; only inside of `held`."""
        assert self._held
        self._news.pop(key, None)
        if self._sizes.get(key) != size_bytes:
            self._sizes[key] = size_bytes
            self._append([(key, size_bytes)])

    def remove(self, key: str) -> None:
        """A block went; only inside of `held`."""
        assert self._held
        self._news.pop(key, None)
        if self._sizes.pop(key, None) is not None:
            self._append([(key, None)])

    def news(self) -> Mapping[str, int | None]:
        """What others changed since this was last asked: bytes by key, None for blocks that are gone."""
        assert self._held
        news, self._news = self._news, {}
        return news

    def _take(self) -> None:
        try:
            length = self._lock_file()
            self._sound = True
            self._catch_up(length)
        except BaseException:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            raise
        self._held = True

    def _give(self) -> None:
        try:
            if self._sound and self._lines > MOST_LINES + 2 * len(self._sizes):
                self._write_anew()
            if self._sound:
                self._write(SOUND, 0)
        finally:
            self._held = False
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _lock_file(self) -> int:
        """Lock the file that the path names now, whoever deleted the one before; its length in bytes."""
        while True:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            mine = os.fstat(self._file)
            with suppress(FileNotFoundError):
                if os.path.samestat(mine, self._path.stat()):
                    return mine.st_size
            close = self._close
            self._open()
            close()

    def _catch_up(self, length: int) -> None:
        header = os.pread(self._file, HEADER_BYTES, 0)
        known = header == self._header
        start = self._end if known else HEADER_BYTES
        try:
            if not self._header or not header.startswith(SOUND) or length < start:
                raise ValueError("not to be trusted")
            changes = _changes(os.pread(self._file, length - start, start))
        except ValueError:
            self._replace(self._count())
            self._write_anew()
            return
        if known:
            self._apply(changes)
        else:
            self._replace({key: size for key, size in dict(changes).items() if size is not None})
        self._header, self._end = header, length
        self._lines = len(changes) + (self._lines if known else 0)
        if os.pwrite(self._file, DOUBTFUL, 0) != 1:
            raise OSError("the file cannot be marked")

    def _apply(self, changes: Iterable[tuple[str, int | None]]) -> None:
        for key, size in changes:
            self._news[key] = size
            if size is None:
                self._sizes.pop(key, None)
            else:
                self._sizes[key] = size

    def _replace(self, sizes: dict[str, int]) -> None:
        self._news |= dict.fromkeys(self._sizes.keys() - sizes.keys())
        self._news |= {key: size for key, size in sizes.items() if self._sizes.get(key) != size}
        self._sizes = sizes

    def _write_anew(self) -> None:
        self._header = SOUND + secrets.token_hex(ID_DIGITS // 2).encode() + b"\n"
        os.ftruncate(self._file, 0)
        self._write(DOUBTFUL + self._header[1:], 0)
        self._end, self._lines = HEADER_BYTES, 0
        self._append(self._sizes.items())

    def _append(self, changes: Iterable[tuple[str, int | None]]) -> None:
        lines = [b"%s %s\n" % (b"-" if size is None else b"%d" % size, os.fsencode(key)) for key, size in changes]
        content = b"".join(lines)
        self._write(content, self._end)
        self._end += len(content)
        self._lines += len(lines)

    def _write(self, content: bytes, at: int) -> None:
        """Write to the file. Where it cannot be written it stays doubtful, and everyone counts."""
        try:
            self._sound &= os.pwrite(self._file, content, at) == len(content)
        except OSError:
            self._sound = False


def _changes(content: bytes) -> list[tuple[str, int | None]]:
    """The lines of a journal.

    Raises:
        ValueError: these are none.
    """
    *lines, rest = content.split(b"\n")
    if rest:
        raise ValueError("the last line is not whole")
    found: list[tuple[str, int | None]] = []
    for line in lines:
        size, _, key = line.partition(b" ")
        found.append((os.fsdecode(key), None if size == b"-" else int(size)))
    return found
