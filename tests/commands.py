"""Runs commands of `semshare` in this process."""

from __future__ import annotations

import asyncio
from pathlib import Path

from typer.testing import CliRunner

from semshare_agents.cli.main import app


class Commands:
    """Commands in an environment of their own.

    Args:
        env: Variables that they see besides.
    """

    def __init__(self, **env: str):
        self.runner = CliRunner(env=env)

    def run(self, *words: str | Path) -> tuple[int, str]:
        """A command's exit status and output; what it fails with is raised."""
        result = self.runner.invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    async def off_loop(self, *words: str | Path) -> tuple[int, str]:
        """Commands run their own event loop, so not in this one's thread."""
        return await asyncio.to_thread(self.run, *words)
