"""Blocks as files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import get_ident

from semshare_agents.errors import CorruptBlockError, StoreError, StoreNotWritableError
from semshare_agents.kv.layout import KV
from semshare_agents.kv.packing import Packed, Packing, Raw
from semshare_agents.security import files as private
from semshare_agents.security.encryption import OVERHEAD_BYTES, Cipher
from semshare_agents.store import file_format
from semshare_agents.store.base import BlockInfo, BlockStore
from semshare_agents.store.ledger import Ledger

LEDGER = ".ledger"


class DiskStore(BlockStore):
    """Keeps each block in a file of its own: written aside, synced, then renamed into place.

    Processes may share a folder. They take turns in changing it, and a ledger tells each what the others did.

    Args:
        folder: Where the files go; created with mode 0700.
        packing: How blocks are packed; None keeps them as they are. What lies there is read however it is packed.
        cipher: Encrypts files; None for one without keys. Files that are not encrypted are read all the same.

    Raises:
        StoreNotWritableError: the folder cannot be created or written.
    """

    name = "disk"
    durable = True

    def __init__(self, folder: Path, packing: Packing | None = None, cipher: Cipher | None = None):
        self.packing = packing or Raw()
        self._cipher = cipher or Cipher()
        self.folder = folder
        try:
            private.folder(folder)
            with tempfile.TemporaryFile(dir=folder):
                pass
            self._ledger = Ledger(folder / LEDGER, self._count)
        except OSError as e:
            raise StoreNotWritableError(
                f"the KV folder {folder} is not writable ({e.strerror}): give store_dir, or disk_bytes=0 for none"
            ) from e

    def path(self, key: str) -> Path:
        """The file of a block."""
        return self.folder / key[:2] / f"{key}{file_format.SUFFIX}"

    def size_bytes(self, packed: Packed) -> int:
        """See `BlockStore.size_bytes`."""
        return file_format.file_bytes(packed) + (OVERHEAD_BYTES if self._cipher.active else 0)

    def put(self, info: BlockInfo, kv: KV | Packed) -> int:
        """See `BlockStore.put`."""
        path = self.path(info.key)
        aside = path.with_suffix(f".{os.getpid()}-{get_ident()}.tmp")
        try:
            with suppress(FileNotFoundError):
                return path.stat().st_size
            content = self._cipher.encrypt(file_format.encode(info, self.packed(kv)), file_format.place(info))
            with self._ledger.held():
                private.folder(path.parent)
                with open(private.opened(aside, os.O_WRONLY | os.O_TRUNC), "wb") as f:
                    f.write(content)
                    f.flush()
                    os.fsync(f.fileno())
                aside.rename(path)
                self._ledger.add(info.key, len(content))
                _sync_folder(path.parent)
        except OSError as e:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise StoreError(f"block {info.key} cannot be written to {self.folder}: {e.strerror}") from e
        return len(content)

    @contextmanager
    def held(self) -> Iterator[None]:
        """See `BlockStore.held`."""
        try:
            with self._ledger.held():
                yield
        except OSError as e:
            raise StoreError(f"the ledger of {self.folder} cannot be kept: {e.strerror}") from e

    def news(self) -> Mapping[str, int | None]:
        """See `BlockStore.news`."""
        return self._ledger.news()

    def _count(self) -> dict[str, int]:
        """The bytes of every block, oldest first; what interrupted writes left aside goes, since nobody writes now."""
        for path in self.temporary_files():
            path.unlink(missing_ok=True)
        return dict(self._files())

    def get_packed(self, info: BlockInfo) -> Packed | None:
        """See `BlockStore.get_packed`; the parts are mapped from the file."""
        try:
            return file_format.decode(self.path(info.key), info, self._cipher)
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:
        """See `BlockStore.delete`."""
        try:
            with self._ledger.held():
                self.path(key).unlink(missing_ok=True)
                self._ledger.remove(key)
        except OSError as e:
            raise StoreError(f"block {key} cannot be removed from {self.folder}: {e.strerror}") from e

    def entries(self) -> Iterator[tuple[str, int]]:
        """See `BlockStore.entries`."""
        try:
            yield from self._files()
        except OSError as e:
            raise StoreError(f"{self.folder} cannot be listed: {e.strerror}") from e

    def _files(self) -> Iterator[tuple[str, int]]:
        """See `entries`; a folder that cannot be read is an error and not an empty one."""
        files = []
        for folder in [entry.path for entry in os.scandir(self.folder) if entry.is_dir()]:
            for file in os.scandir(folder):
                key = file.name.removesuffix(file_format.SUFFIX)
                if key == file.name or key[:2] != os.path.basename(folder):
                    continue
                with suppress(FileNotFoundError):  # another process may evict meanwhile
                    stat = file.stat()
                    files.append((stat.st_mtime_ns, key, stat.st_size))
        for _, key, size in sorted(files):
            yield key, size

    def temporary_files(self) -> list[Path]:
        """Files that an interrupted write left aside."""
        return sorted(self.folder.glob("*/*.tmp"))

    def misplaced(self) -> list[Path]:
        """Block files in a folder where nobody looks for them."""
        files = self.folder.rglob(f"*{file_format.SUFFIX}")
        return sorted(path for path in files if path != self.path(path.name.removesuffix(file_format.SUFFIX)))

    def move_home(self, stray: Path) -> bool:
        """Move a stray to where its name belongs.

        Returns:
            Whether it went there; False where a file is there already.

        Raises:
            StoreError: it cannot be moved.
        """
        path = self.path(stray.name.removesuffix(file_format.SUFFIX))
        try:
            if path.exists():
                return False
            with self._ledger.held():
                private.folder(path.parent)
                stray.rename(path)
                self._ledger.add(path.name.removesuffix(file_format.SUFFIX), path.stat().st_size)
                _sync_folder(path.parent)
        except OSError as e:
            raise StoreError(f"{stray} cannot be moved to {path}: {e.strerror}") from e
        return True

    def check(self, info: BlockInfo) -> str:
        """What is wrong with a block's file; empty where nothing is."""
        try:
            return "" if self.get_packed(info) is not None else "its file is gone"
        except CorruptBlockError as e:
            return str(e)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
