"""What is done along the axes of KV, against plain indices."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semshare_agents.kv import layout, packing
from semshare_agents.kv.layout import (
    KVLayout,
    beside_tokens,
    fill,
    gather,
    gather_heads,
    heads_of,
    keys_and_values,
    keys_of,
    layer_of,
    put,
    scatter,
    take,
    tokens_of,
)
from semshare_agents.kv.retained import RetainedLayer

LAYOUT = KVLayout(layers=3, kv_heads=2, head_dim=5, dtype=torch.float32)


def made(tokens: int) -> torch.Tensor:
    """KV in which every number says where it is."""
    shape = (3, 2, 2, tokens, 5)
    return torch.arange(float(np.prod(shape))).view(shape)


def test_a_layout_says_shape_and_bytes() -> None:
    assert LAYOUT.shape(7) == (3, 2, 2, 7, 5)
    assert LAYOUT.token_bytes * 7 == made(7).nbytes
    empty = KVLayout(3, 2, 5, torch.bfloat16).empty(7, torch.device("cpu"))
    assert (empty.shape, empty.dtype) == (LAYOUT.shape(7), torch.bfloat16)


def test_the_layout_of_what_a_library_caches() -> None:
    part = torch.zeros(1, 2, 9, 5)
    assert KVLayout.of([(part, part)] * 3, torch.float32) == LAYOUT
    assert KVLayout.of([(part, part), (part, part[..., :4])], torch.float32) is None
    assert KVLayout.of([(part, part), (part[0], part)], torch.float32) is None
    assert KVLayout.of([(None, None)], torch.float32) is None
    assert KVLayout.of([], torch.float32) is None


@given(start=st.integers(0, 8), length=st.integers(0, 8), at=st.integers(0, 12))
def test_parts_are_taken_and_put(start: int, length: int, at: int) -> None:
    kv, buffer = made(16), torch.zeros(3, 2, 2, 20, 5)
    part = take(kv, start, start + length)
    assert tokens_of(part) == length
    assert torch.equal(part, kv[:, :, :, start : start + length])
    assert part.untyped_storage().data_ptr() == kv.untyped_storage().data_ptr()
    expected = buffer.clone()
    expected[:, :, :, at : at + length] = part
    placed = put(buffer, at, part)
    assert torch.equal(buffer, expected)
    placed.fill_(-1.0)
    assert bool((buffer[:, :, :, at : at + length] == -1).all())


@pytest.mark.parametrize(("start", "end"), [(0, 17), (17, 18), (15, 17)])
def test_what_is_not_there_is_not_taken(start: int, end: int) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        take(made(16), start, end)
    with pytest.raises((RuntimeError, IndexError)):
        put(made(16), start, made(end - start))


@given(where=st.lists(st.integers(0, 15), min_size=1, unique=True))
def test_positions_are_gathered_scattered_and_filled(where: list[int]) -> None:
    kv, index = made(16), torch.tensor(where)
    part = gather(kv, index)
    assert torch.equal(part, kv[:, :, :, index])
    buffer, expected = torch.zeros_like(kv), torch.zeros_like(kv)
    expected[:, :, :, index] = part
    scatter(buffer, index, part)
    assert torch.equal(buffer, expected)
    fill(buffer, index, 0.0)
    assert not bool(buffer.any())


def test_keys_values_and_layers_are_views() -> None:
    kv = made(4)
    keys, values = keys_and_values(kv)
    assert torch.equal(keys, kv[:, 0])
    assert torch.equal(keys_of(kv), keys)
    assert torch.equal(values, kv[:, 1])
    first, second = layer_of(kv, 2)
    assert (first.shape, heads_of(first)) == ((1, 2, 4, 5), 2)
    assert torch.equal(first[0], kv[2, 0])
    assert torch.equal(second[0], kv[2, 1])
    put(second, 1, torch.zeros(1, 2, 1, 5))
    assert not bool(kv[2, 1, :, 1].any())


def test_heads_keep_tokens_of_their_own() -> None:
    part = layer_of(made(8), 1)[0]
    kept = gather_heads(part, torch.tensor([[0, 3, 7], [1, 2, 3]]))
    assert torch.equal(kept[0, 0], part[0, 0, [0, 3, 7]])
    assert torch.equal(kept[0, 1], part[0, 1, [1, 2, 3]])


def test_what_is_left_of_sums_is_one_number_a_token() -> None:
    kv = made(6)
    assert torch.equal(kv.sum(beside_tokens(kv)), kv.sum((0, 1, 2, 4)))
    part = layer_of(kv, 0)[0]
    assert torch.equal(part.sum(beside_tokens(part)), part.sum((0, 1, 3)))


@pytest.mark.parametrize("int8", [False, True])
def test_an_answers_tokens_follow_what_is_retained(int8: bool) -> None:
    kv, fresh = made(8), torch.full((1, 2, 1, 5), 3.0)
    kept = RetainedLayer(kv, 1, torch.tensor([[0, 5], [1, 7]]), 2, int8)
    kv.zero_()
    for more in (1, 2):
        keys, values = kept.append(fresh, -fresh)
        assert keys.shape == values.shape == (1, 2, 2 + more, 5)
        assert torch.equal(keys[:, :, 2:], fresh.expand(1, 2, more, 5))
        assert torch.allclose(keys[0, 0, 1], made(8)[1, 0, 0, 5], rtol=0.01)
        assert torch.allclose(values[0, 1, 0], made(8)[1, 1, 1, 1], rtol=0.01)


AXES = re.compile(
    r"\(layers, 2,|(tokens|capacity), head_dim|\[:, :, :|\.shape\[3\]|index_(select|copy_)\(|\[\w+, [01]\]\["
)


def test_no_other_folder_knows_the_axes() -> None:
    package = Path(layout.__file__).parents[1]
    others = [path for path in package.rglob("*.py") if "kv" not in path.relative_to(package).parts]
    assert len(others) > 100
    assert [str(path) for path in others if AXES.search(path.read_text())] == []


def test_the_old_place_of_packings_warns_and_has_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "semshare_agents.store.packing", raising=False)
    with pytest.warns(DeprecationWarning, match=r"import semshare_agents\.kv\.packing"):
        old = importlib.import_module("semshare_agents.store.packing")
    assert {name: getattr(old, name) for name in old.__all__} == {n: getattr(packing, n) for n in packing.__all__}
    base = importlib.import_module("semshare_agents.store.packing.base")
    assert base.Packing is packing.Packing
