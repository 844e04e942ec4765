"""Files and folders that only their owner may look into, whatever the umask."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

FOLDER_MODE = 0o700
FILE_MODE = 0o600


def folder(path: Path) -> Path:
    """Make a folder that is not there yet, with mode 0700; folders above it as the umask says."""
    path.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    return path


def opened(path: Path, flags: int) -> int:
    """A file's descriptor; a new file gets mode 0600. Flags as in `os.open`."""
    return os.open(path, flags | os.O_CREAT, FILE_MODE)


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all; its folder is made where it is not there."""
    folder(path.parent)
    aside = path.with_suffix(f".{time.time_ns()}.tmp")
    with os.fdopen(opened(aside, os.O_WRONLY | os.O_EXCL), "w", encoding="utf-8") as file:
        file.write(text)
    aside.rename(path)


def close_to_others(path: Path) -> None:
    """Take away what others may do with a folder and everything in it."""
    for each in (path, *path.rglob("*")):
        if not each.is_symlink():
            each.chmod(stat.S_IMODE(each.stat().st_mode) & FOLDER_MODE)


def open_to_others(path: Path) -> Iterator[Path]:
    """Folders and files from a path downwards that others may look into, or whose names they may list."""
    for each in (path, *path.rglob("*")):
        try:
            mode = each.lstat().st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISLNK(mode) and mode & 0o077:
            yield each
