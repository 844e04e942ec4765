"""Encryption at rest: nothing legible in any file, keys by turns, and never garbage."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from semshare_agents.errors import ConfigurationError, DamagedSealError, SealedError
from semshare_agents.operate.audit import audit
from semshare_agents.security.encryption import OVERHEAD_BYTES, Cipher, make_cipher
from semshare_agents.settings import load_settings
from semshare_agents.store.disk import DiskStore
from tests import tiny
from tests.conftest import OpenLLM
from tests.integration.test_forget import traces
from tests.tiny import user

KEY, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4
TEXT = tiny.words(60, 1)


def test_what_is_sealed_opens_in_its_place_alone() -> None:
    cipher = Cipher([bytes(32)])
    sealed = cipher.encrypt(b"text", "here")
    assert len(sealed) == 4 + OVERHEAD_BYTES
    assert cipher.decrypt(sealed, "here") == b"text"
    assert cipher.encrypt(b"text", "here") != sealed
    assert Cipher([bytes([1] * 32), bytes(32)]).decrypt(sealed, "here") == b"text"
    assert Cipher().decrypt(b"never sealed", "here") == b"never sealed"
    assert Cipher().encrypt(b"text", "here") == b"text"
    with pytest.raises(DamagedSealError):
        cipher.decrypt(sealed, "there")
    for other in (Cipher(), Cipher([bytes([1] * 32)])):
        with pytest.raises(SealedError, match="encryption_keys"):
            other.decrypt(sealed, "here")
    for at in range(len(b"semseal1"), len(sealed)):
        flipped = bytearray(sealed)
        flipped[at] ^= 1
        with pytest.raises(SealedError):
            cipher.decrypt(bytes(flipped), "here")
    assert cipher.decrypt_text(cipher.encrypt_text("tëxt \udc00", "here"), "here") == "tëxt \udc00"


@pytest.mark.parametrize("keys", ["", "00", "zz" * 32, f"{KEY},", f"{KEY};{OTHER}"])
def test_malformed_keys_are_refused_and_not_told(keys: str) -> None:
    settings = load_settings(encryption_keys=keys)
    with pytest.raises(ConfigurationError, match="64 hexadecimal digits") as caught:
        make_cipher(settings.encryption_keys)
    assert not keys or keys not in str(caught.value)


def test_the_library_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ConfigurationError, match=r"semshare-agents\[encryption\]"):
        Cipher([bytes(32)])


async def test_no_file_has_text_tokens_or_kv(open_llm: OpenLLM, tmp_path: Path) -> None:
    home = tmp_path / "home"
    llm = await open_llm(encryption_keys=KEY, max_new_tokens=16)
    said = await llm.session("talk").send(TEXT)
    assert len(said.text) == 16
    await llm.flush()
    kv = [llm.pipeline.memory.tiers.fast.store.get(info) for info, _ in await llm.pipeline.memory.registry.blocks()]
    assert list(traces(home, TEXT, said.text)) == []
    content = b"".join(p.read_bytes() for p in home.rglob("*") if p.is_file())
    rows = [row.contiguous().numpy().tobytes() for block in kv for row in block[0, 0, 0]]
    assert len(rows) > 100
    assert not any(row in content for row in rows)
    assert len(list((home / "kv").glob("*/*.safetensors"))) == len(kv)
    await llm.aclose()
    assert list(traces(home, TEXT, said.text)) == []
    again = await open_llm(encryption_keys=KEY)
    assert (await again.session("talk").messages())[1]["content"] == said.text
    assert (await again.generate([user(TEXT)], store=False)).report.reuse_class == "exact"
    assert (
        await audit(again.pipeline.memory.registry, DiskStore(home / "kv", None, Cipher([bytes.fromhex(KEY)])))
    ).problems(alone=False) == 0


@pytest.mark.parametrize("wrong", [OTHER, None])
async def test_another_key_is_a_miss_or_an_error_and_loses_nothing(
    open_llm: OpenLLM, tmp_path: Path, wrong: str | None
) -> None:
    first = await open_llm(encryption_keys=KEY)
    await first.session("talk").send(TEXT)
    await first.aclose()
    files = {p: p.read_bytes() for p in (tmp_path / "home" / "kv").glob("*/*")}
    locked = await open_llm(encryption_keys=wrong)
    with pytest.raises(SealedError, match="encryption_keys"):
        await locked.session("talk").messages()
    cold = await locked.generate([user(TEXT)], store=False)
    assert (cold.report.reuse_class, bool(cold.text)) == ("cold", True)
    with pytest.raises(SealedError):
        await locked.pipeline.memory.registry.turns()
    await locked.aclose()
    assert {p: p.read_bytes() for p in (tmp_path / "home" / "kv").glob("*/*")} == files
    rotated = await open_llm(encryption_keys=f"{OTHER},{KEY}")
    assert (await rotated.generate([user(TEXT)], store=False)).report.reuse_class == "exact"
    assert len(await rotated.session("talk").messages()) == 2


async def test_swapped_files_and_rows_are_refused(open_llm: OpenLLM, tmp_path: Path) -> None:
    home = tmp_path / "home"
    llm = await open_llm(encryption_keys=KEY)
    for tenant in ("a", "b"):
        await llm.session("talk", tenant=tenant).send(TEXT)
    await llm.aclose()
    files = sorted((home / "kv").glob("*/*.safetensors"))
    contents = [p.read_bytes() for p in files]
    for path, content in zip(files, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)
    swapped = await open_llm(encryption_keys=KEY)
    found: Any = (await swapped.generate([user(TEXT)], tenant="a", store=False)).report
    assert (found.reuse_class, found.misses > 0) == ("cold", True)
    with sqlite3.connect(home / "registry.db") as database:
        database.execute("UPDATE turns SET messages = (SELECT messages FROM turns o WHERE o.id != turns.id)")
    database.close()
    with pytest.raises(DamagedSealError):
        await swapped.session("talk", tenant="a").messages()


async def test_a_memory_from_before_encryption_goes_on_and_is_forgotten_with_the_rest(
    open_llm: OpenLLM, tmp_path: Path
) -> None:
    plain = await open_llm()
    talk = plain.session("talk")
    await talk.send(TEXT)
    await plain.aclose()
    sealed = await open_llm(encryption_keys=KEY)
    talk = sealed.session("talk")
    second = await talk.send("and then?")
    assert second.report.reuse_class == "exact"
    assert len(await talk.messages()) == 4
    found = await sealed.forget(turn=second.report.turn_id)
    assert found.turn_ids == (second.report.turn_id,)
    assert len(await talk.messages()) == 2
