"""One PostgreSQL server for a test run, a fresh database for each test."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from semshare_agents.testing.postgres import QUICK, Server, server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A server; where PostgreSQL is not installed the test fails and says what to install."""
    with server(*QUICK) as started:
        yield started


@pytest.fixture
def postgres_url(postgres: Server) -> Iterator[str]:
    """The URL of an empty database, dropped afterwards."""
    name = f"t{uuid4().hex}"
    yield postgres.database(name)
    postgres.drop(name)
