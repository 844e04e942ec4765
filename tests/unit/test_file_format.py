"""The block file format: whatever is wrong with a file, it is never served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from semshare_agents.errors import CorruptBlockError, StoreError, StoreNotWritableError
from semshare_agents.kv.packing import PACKINGS, Packing, Raw
from semshare_agents.store import BlockInfo, DiskStore, file_format

INFO = BlockInfo("abkey", "f" * 64, 8)


def kv(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 2, 3, 8, 4, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written = tmp_path / "block.safetensors"
    written.write_bytes(file_format.encode(INFO, Raw().pack(kv())))
    return written


def test_round_trip(path: Path) -> None:
    assert torch.equal(file_format.decode(path, INFO).parts["kv"], kv())


def test_every_flipped_byte_is_noticed(path: Path) -> None:
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(content[:8], "little")
    places = {*range(0, header, 7), *rng.integers(header, len(content), 60).tolist(), len(content) - 1}
    served = []
    for at in sorted(places):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = file_format.decode(path, INFO)
        except CorruptBlockError:
            continue
        served.append(at)
        assert torch.equal(found.parts["kv"], kv())
    # Only bytes that carry no meaning (padding spaces of the header) may pass.
    assert all(content[at : at + 1] == b" " for at in served)


@pytest.mark.parametrize("left", [0, 4, 8, 60, 400, -1, -200])
def test_truncated_files_are_corrupt(path: Path, left: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:left])
    with pytest.raises(CorruptBlockError):
        file_format.decode(path, INFO)


def test_longer_files_are_corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 16)
    with pytest.raises(CorruptBlockError):
        file_format.decode(path, INFO)


@pytest.mark.parametrize("wrong", [{"key": "abother"}, {"fingerprint": "e" * 64}, {"tokens": 7}, {"tokens": 9}])
def test_another_blocks_file_is_corrupt(path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(CorruptBlockError):
        file_format.decode(path, replace(INFO, **wrong))


def test_other_safetensors_files_are_corrupt(path: Path) -> None:
    path.write_bytes(save({"kv": kv()}))
    with pytest.raises(CorruptBlockError, match="format"):
        file_format.decode(path, INFO)
    path.write_bytes(save({"weights": kv()}, {"format": file_format.FORMAT}))
    with pytest.raises(CorruptBlockError):
        file_format.decode(path, INFO)


def test_equal_bytes_of_another_type_or_shape_are_corrupt(path: Path) -> None:
    honest = file_format.encode(INFO, Raw().pack(kv()))
    as_ints = honest.replace(b'"F32"', b'"I32"')
    assert as_ints != honest
    path.write_bytes(as_ints)
    with pytest.raises(CorruptBlockError):
        file_format.decode(path, INFO)
    reshaped = honest.replace(b"[2,2,3,8,4]", b"[2,3,2,8,4]")
    assert reshaped != honest
    path.write_bytes(reshaped)
    with pytest.raises(CorruptBlockError):
        file_format.decode(path, INFO)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_format.decode(tmp_path / "none", INFO)


def test_files_swapped_on_disk_are_corrupt(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    other = replace(INFO, key="cdkey")
    store.put(INFO, kv(1))
    store.put(other, kv(2))
    one, two = store.path(INFO.key).read_bytes(), store.path(other.key).read_bytes()
    store.path(INFO.key).write_bytes(two)
    store.path(other.key).write_bytes(one)
    for info in (INFO, other):
        with pytest.raises(CorruptBlockError):
            store.get(info)
        assert "another block" in store.check(info)


def test_files_are_private_and_no_aside_file_stays(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "kv")
    store.put(INFO, kv())
    assert store.path(INFO.key).stat().st_mode & 0o077 == 0
    assert (tmp_path / "kv").stat().st_mode & 0o077 == 0
    assert store.temporary_files() == []
    assert store.check(INFO) == ""
    store.delete(INFO.key)
    assert store.check(INFO) == "its file is gone"


def test_an_interrupted_write_is_not_an_entry(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    (tmp_path / "ab").mkdir()
    aside = tmp_path / "ab" / "abkey.1.tmp"
    aside.write_bytes(b"half")
    assert list(store.entries()) == []
    assert store.temporary_files() == [aside]
    assert store.get(INFO) is None


def test_a_folder_in_the_way_is_a_store_error(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    (tmp_path / "ab").write_text("in the way")
    with pytest.raises(StoreError):
        store.put(INFO, kv())


def test_a_folder_that_cannot_be_made_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreNotWritableError, match="disk_bytes=0"):
        DiskStore(tmp_path / "file" / "kv")


def test_entries_come_oldest_first(tmp_path: Path) -> None:
    import os

    store = DiskStore(tmp_path)
    for i, key in enumerate(("zz1", "aa2", "mm3")):
        store.put(replace(INFO, key=key), kv(i))
        os.utime(store.path(key), ns=(i, i))
    assert [key for key, _ in store.entries()] == ["zz1", "aa2", "mm3"]


def test_a_file_takes_no_more_than_its_tier_accounts_for(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    kv = torch.randn(3, 2, 2, 5, 8)
    assert store.put(BlockInfo("f" * 32, "0" * 64, 5), kv) <= store.size_bytes(store.packed(kv))


@pytest.mark.parametrize("packing", PACKINGS.values())
@pytest.mark.parametrize("change", [{"version": 99}, {"packing": "int1"}])
def test_packings_of_the_future_are_refused_by_name(
    tmp_path: Path, packing: type[Packing], change: dict[str, object]
) -> None:
    store = DiskStore(tmp_path, packing())
    store.put(INFO, replace(store.packed(kv()), **change))
    with pytest.raises(CorruptBlockError, match="this version reads"):
        store.get(INFO)
    assert str(next(iter(change.values()))) in store.check(INFO)


@pytest.mark.parametrize("packing", PACKINGS.values())
def test_a_file_is_read_by_the_packing_it_names(tmp_path: Path, packing: type[Packing]) -> None:
    DiskStore(tmp_path, packing()).put(INFO, kv())
    found = DiskStore(tmp_path).get(INFO)
    assert found is not None
    assert torch.equal(found, packing().unpack(packing().pack(kv())))


@pytest.mark.parametrize("packing", PACKINGS.values())
def test_packed_files_take_no_more_than_accounted_for(tmp_path: Path, packing: type[Packing]) -> None:
    store = DiskStore(tmp_path, packing())
    for tokens in (1, 5, 64):
        packed = store.packed(torch.randn(3, 2, 2, tokens, 8))
        assert store.put(BlockInfo(f"aa{tokens}", "0" * 64, tokens), packed) <= store.size_bytes(packed)
