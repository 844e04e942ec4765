"""Processes forked from one that has the package loaded: a test that needs several waits for its imports once a run."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

CONTEXT: ForkServerContext = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tests.stress.soaker", "tests.integration.test_migrations", "semshare_agents.cli.main", "semshare_agents.llm"]
)
