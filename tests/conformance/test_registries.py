from __future__ import annotations

from pathlib import Path

import pytest

from semshare_agents.testing import RegistryConformance


class TestSqlite(RegistryConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite+aiosqlite:///{tmp_path / 'registry.db'}"


class TestPostgresql(RegistryConformance):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url
