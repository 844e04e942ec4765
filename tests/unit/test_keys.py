"""The key of names, and that only the owner may look into what a memory writes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from pydantic import SecretStr

from semshare_agents.errors import ConfigurationError
from semshare_agents.security import files as private
from semshare_agents.security.name_key import names_key
from semshare_agents.settings import load_settings


def test_a_key_is_made_once_for_the_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = names_key(tmp_path / "home", None)
    finally:
        os.umask(before)
    path = tmp_path / "home" / "names.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]
    assert len(made) == 32
    assert names_key(tmp_path / "home", None) == made
    assert names_key(tmp_path / "other", None) != made


def test_a_given_key_needs_no_file_and_is_the_same_everywhere(tmp_path: Path) -> None:
    given = names_key(tmp_path / "a", SecretStr("shared"))
    assert given == names_key(tmp_path / "b", SecretStr("shared")) != names_key(tmp_path / "a", SecretStr("Shared"))
    assert len(given) == 32
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "zz", "00" * 31, "00" * 33])
def test_a_damaged_key_file_is_an_error_that_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "names.key").write_text(content)
    with pytest.raises(ConfigurationError, match="bring it back from a copy"):
        names_key(tmp_path, None)


def test_a_key_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMSHARE_NAMES_KEY", "very secret")
    assert "very secret" not in repr(load_settings())


def test_laxer_modes_are_found_and_closed(tmp_path: Path) -> None:
    lax = tmp_path / "lax"
    (lax / "in").mkdir(parents=True, mode=0o755)
    (lax / "in" / "file").touch(0o644)
    (lax / "link").symlink_to(lax / "in" / "file")
    for path, mode in ((lax, 0o700), (lax / "in", 0o750), (lax / "in" / "file", 0o604)):
        path.chmod(mode)
    assert sorted(private.open_to_others(lax)) == [lax / "in", lax / "in" / "file"]
    private.close_to_others(lax)
    assert list(private.open_to_others(lax)) == []


@pytest.mark.parametrize("pools", [{"a": ["x"], "b": ["x"]}, {"": ["x"]}, {"a": ["x", "x"]}])
def test_a_tenant_is_in_one_pool(pools: dict[str, list[str]]) -> None:
    with pytest.raises(ConfigurationError, match="one pool"):
        load_settings(pools=pools)
