"""A PostgreSQL server of one's own, for tests and benchmarks: on loopback, in a temporary folder, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semshare_agents.errors import ConfigurationError

START_SECONDS = 60.0
QUICK = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")
"""Settings for data that need not outlive the machine."""


@dataclass(frozen=True)
class Server:
    """A running server that trusts everybody on this machine.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        binaries: Folder of `psql`, `pg_dump` and the like.
        pid: Its main process.
    """

    port: int
    binaries: Path
    pid: int

    def run(self, statement: str, database: str = "postgres") -> str:
        """What `psql` answers to a statement or a script.

        Raises:
            RuntimeError: it fails.
        """
        command = [str(self.binaries / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(database)]
        done = subprocess.run(command, input=statement, capture_output=True, text=True, cwd="/")
        if done.returncode:
            raise RuntimeError(f"psql: {done.stderr.strip()}")
        return done.stdout.strip()

    def dsn(self, database: str) -> str:
        """A database as libpq names it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def database(self, name: str) -> str:
        """Make an empty database.

        Returns:
            Its URL, as the setting `database_url` takes it.
        """
        self.run(f'CREATE DATABASE "{name}"')
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/{name}"

    def drop(self, name: str) -> None:
        """Remove a database, also one that is in use."""
        self.run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextmanager
def server(*settings: str) -> Iterator[Server]:
    """A server for the length of a `with` block.

    Args:
        settings: `name=value` pairs of its configuration, for example those of `QUICK`.

    Raises:
        ConfigurationError: the server's programs are not installed.
        RuntimeError: it does not start.
    """
    binaries = _binaries()
    user = _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="semshare-pg-"))
    try:
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        who: dict[str, Any] = {"cwd": folder}
        if user is not None:
            who |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        make = [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        done = subprocess.run([*make, "--no-locale", "--no-sync"], capture_output=True, text=True, **who)
        if done.returncode:
            raise RuntimeError(f"initdb: {done.stderr.strip()}")
        port = _free_port()
        options = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", *settings]
        command = [
            str(binaries / "postgres"),
            "-D",
            str(folder / "data"),
            *(word for o in options for word in ("-c", o)),
        ]
        with (folder / "log").open("wb") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(command, stdout=log, stderr=log, **who)
        try:
            started = Server(port, binaries, process.pid)
            _wait(started, process, folder / "log")
            yield started
        finally:
            process.send_signal(signal.SIGINT)  # do not wait for clients
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(started: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with suppress(RuntimeError):
            started.run("SELECT 1")
            return
        time.sleep(0.1)
    raise RuntimeError(f"PostgreSQL does not start: {log.read_text(errors='replace')[-2000:]}")


def _binaries() -> Path:
    """The newest installed server; Debian keeps them off the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    found = versions[-1] if versions else shutil.which("initdb")
    if found is None:
        raise ConfigurationError(
            "PostgreSQL's server is not installed: `apt-get install postgresql`, or put initdb on PATH"
        )
    return Path(found).resolve().parent


def _unprivileged() -> pwd.struct_passwd | None:
    """Who runs the server; None for the caller. The server refuses to run as root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
