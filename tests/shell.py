"""Runs the lines of a documented shell block, in a home of its own and on a tiny model.

`semshare` runs in a process forked from one that has the package loaded; everything else runs in bash, where `pip`
checks that what it is told to install is this package with extras that it has. A server is asked for its health, then
ended.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from packaging.requirements import Requirement

from tests.forks import CONTEXT

ROOT = Path(__file__).parents[1]
SECONDS = 120
ENDED = (0, -signal.SIGTERM)
"""A server that was told to end says so."""
ABSOLUTE = re.compile(r"(?<=[\s\"'])/(?=(?:etc|backup)/)")


def semshare(words: list[str], env: dict[str, str], folder: str, said: str) -> None:
    """The command, in a process of its own."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    answers = os.open("answers", os.O_RDONLY)
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for target, source in enumerate((answers, out, out)):
        os.dup2(source, target)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    sys.argv = words
    from semshare_agents.cli.main import main

    main()


class Shell:
    """A user's shell.

    Args:
        folder: Becomes the user's home folder and the root of absolute paths; not there yet.
        model: Folder of the model.
        port: Where a server will listen.
    """

    def __init__(self, folder: Path, model: Path, port: int):
        for name in ("bin", "etc/semshare", "backup"):
            (folder / name).mkdir(parents=True)
        (folder / "answers").write_text("y\n")
        self.folder = folder
        self._url = f"http://127.0.0.1:{port}"
        tool = folder / "bin" / "pip"
        tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.shell "$@"\n')
        tool.chmod(0o700)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SEMSHARE_")},
            "HOME": str(folder),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'integrations'}",
            "SEMSHARE_MODEL": str(model),
            "SEMSHARE_SERVER_PORT": str(port),
        }

    def run(self, line: str) -> str:
        """Run a line.

        Returns:
            What it said.

        Raises:
            AssertionError: it failed.
        """
        line = ABSOLUTE.sub(f"{self.folder}/", line)
        words = shlex.split(line, comments=True)
        status, said = self._semshare(words) if words[0] == "semshare" else self._bash(line)
        assert status in ENDED, f"{line}\nended with status {status}\n{said[-3000:]}"
        return said

    def _bash(self, line: str) -> tuple[int, str]:
        seen = self.folder / "environment"
        done = subprocess.run(
            ["bash", "-e", "-c", f"{line}\nenv -0 > {seen}"],
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode == 0:
            self.env = dict(pair.split("=", 1) for pair in seen.read_text().split("\0") if pair)
        return done.returncode, done.stdout + done.stderr

    def _semshare(self, words: list[str]) -> tuple[int, str]:
        said = self.folder / "said"
        words = [word.replace("~", str(self.folder), 1) if word.startswith("~/") else word for word in words]
        process = CONTEXT.Process(target=semshare, args=(words, self.env, str(self.folder), str(said)))
        process.start()
        if words[1] == "serve":
            self._wait_until_healthy()
            assert process.pid is not None
            os.kill(process.pid, signal.SIGTERM)
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
        assert process.exitcode is not None
        return process.exitcode, said.read_text()

    def _wait_until_healthy(self) -> None:
        late = time.monotonic() + SECONDS
        while time.monotonic() < late:
            with suppress(urllib.error.URLError), urllib.request.urlopen(f"{self._url}/health", timeout=5):
                return
            time.sleep(0.1)


def checked_install(words: list[str]) -> str:
    """What is wrong with the arguments of a `pip install`; empty where all is well."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if len(words) != 2 or words[0] != "install":
        return f"not a plain `pip install NAME`: {words}"
    requirement = Requirement(words[1])
    unknown = requirement.extras - set(told["optional-dependencies"])
    return f"no extra {unknown}" if unknown else "" if requirement.name == told["name"] else f"not {told['name']}"


if __name__ == "__main__":
    sys.exit(checked_install(sys.argv[1:]) or 0)
