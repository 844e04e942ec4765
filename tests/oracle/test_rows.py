"""Rows computed through the scattering cache against the stock forward."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from semshare_agents.kv.buffer import BufferPool
from semshare_agents.model.caching import cache_name
from semshare_agents.model.rows import ForwardStopped, RowModel, Rows
from semshare_agents.model.run import DEFERRED_STEP_ROWS, RowRun
from semshare_agents.reuse.schedule import narrowing
from semshare_agents.values import Plan
from tests import tiny

TOKENS = 150
DTYPES = [torch.float32, torch.bfloat16]
LARGEST = {torch.float32: 5e-5, torch.bfloat16: 0.08}
MEAN = {torch.float32: 2e-6, torch.bfloat16: 0.02}


@pytest.fixture(params=list(tiny.REUSABLE))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def prompt(seed: int = 0, tokens: int = TOKENS) -> np.ndarray:
    return np.random.default_rng(seed).integers(4, tiny.VOCABULARY, tokens)


@torch.inference_mode()
def stock(model: Any, ids: np.ndarray, offset: int = 0) -> tuple[torch.Tensor, DynamicCache]:
    """The library's own forward with its own cache: logits `(tokens, vocabulary)` and KV."""
    cache = DynamicCache()
    positions = torch.arange(offset, offset + len(ids))[None]
    name = {cache_name(model): cache}
    out = model(input_ids=torch.as_tensor(ids)[None], position_ids=positions, use_cache=True, **name)
    return out.logits[0], cache


def row_model(family: str, dtype: torch.dtype) -> RowModel:
    rows = tiny.loaded(family, dtype).support.rows
    assert rows is not None
    return rows


def assert_close(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    scale = expected.float().abs().max()
    gap = (found.float() - expected.float()).abs() / scale
    assert torch.isfinite(found).all()
    assert gap.max() < LARGEST[dtype]
    assert gap.mean() < MEAN[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_rows_equal_the_stock_forward(family: str, dtype: torch.dtype) -> None:
    rows, ids = row_model(family, dtype), prompt()
    expected, cache = stock(rows.model, ids)
    buffer = BufferPool(rows.layout, rows.device).acquire(len(ids))
    found = rows.forward(ids, np.arange(len(ids)), buffer, logits=len(ids))
    assert_close(found, expected, dtype)
    for layer, kept in enumerate(cache.layers):
        assert_close(buffer[layer, 0, :, : len(ids)], kept.keys[0], dtype)
        assert_close(buffer[layer, 1, :, : len(ids)], kept.values[0], dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_corrupted_rows_computed_again_restore_logits_and_kv(family: str, dtype: torch.dtype) -> None:
    rows, ids = row_model(family, dtype), prompt(1)
    expected, cache = stock(rows.model, ids)
    buffer = BufferPool(rows.layout, rows.device).acquire(len(ids))
    rows.forward(ids, np.arange(len(ids)), buffer)
    rng = np.random.default_rng(2)
    broken = np.unique(np.concatenate(([0, 5, 6, 7, TOKENS - 1], rng.integers(0, TOKENS, 30))))
    buffer[:, :, :, torch.as_tensor(broken)] = float("nan")
    found = rows.forward(ids[broken], broken, buffer, logits=len(broken))
    assert_close(found, expected[broken], dtype)
    for layer, kept in enumerate(cache.layers):
        assert_close(buffer[layer, 0, :, : len(ids)], kept.keys[0], dtype)
        assert_close(buffer[layer, 1, :, : len(ids)], kept.values[0], dtype)


def test_corrupted_rows_left_alone_do_change_the_logits(family: str) -> None:
    rows, ids = row_model(family, torch.float32), prompt(1)
    expected, _ = stock(rows.model, ids)
    buffer = BufferPool(rows.layout, rows.device).acquire(len(ids))
    rows.forward(ids, np.arange(len(ids)), buffer)
    buffer[:, 1, :, 10:100] *= -1
    found = rows.forward(ids[-1:], np.asarray([TOKENS - 1]), buffer)
    assert (found[-1] - expected[-1]).abs().max() > 1e-2 * expected[-1].abs().max()


def test_rows_one_at_a_time_equal_the_stock_forward(family: str) -> None:
    rows, ids = row_model(family, torch.float32), prompt(3, 20)
    expected, _ = stock(rows.model, ids)
    buffer = BufferPool(rows.layout, rows.device).acquire(len(ids))
    buffer.fill_(float("nan"))
    for at in range(len(ids)):
        found = rows.forward(ids[at : at + 1], np.asarray([at]), buffer)
        assert_close(found[-1], expected[at], torch.float32)


def test_many_row_groups_equal_the_stock_forward() -> None:
    rows, ids = row_model("llama", torch.float32), prompt(4, 1400)
    expected, _ = stock(rows.model, ids)
    buffer = BufferPool(rows.layout, rows.device).acquire(len(ids))
    rows.forward(ids, np.arange(len(ids)), buffer)
    broken = np.concatenate(([3], np.arange(100, 250, 2), [770], np.arange(1390, 1400)))
    buffer[:, :, :, torch.as_tensor(broken)] = float("nan")
    assert len(rows.run_rows(broken).groups) > 3
    found = rows.forward(ids[broken], broken, buffer, logits=len(broken))
    assert_close(found, expected[broken], torch.float32)


def test_late_rows_are_computed_by_the_next_steps() -> None:
    rows, ids = row_model("llama", torch.float32), prompt(5, 300)
    expected, cache = stock(rows.model, ids)
    late = np.sort(np.random.default_rng(6).permutation(np.arange(5, 290))[: DEFERRED_STEP_ROWS + 8])
    run, prefilled = RowRun(rows, BufferPool(rows.layout, rows.device), len(ids)), len(ids) - 3
    run.prefill(ids[:prefilled], np.arange(prefilled), 0)
    broken = torch.as_tensor(late)
    run.buffer[:, :, :, broken[:DEFERRED_STEP_ROWS]] *= -1
    run.deferred = late
    assert_close(run.step(int(ids[-3]), repair_rows=5), expected[-3], torch.float32)
    assert run.exact == 0  # late rows go first
    run.buffer[:, :, :, broken[DEFERRED_STEP_ROWS:]] *= -1
    assert_close(run.step(int(ids[-2]), repair_rows=5), expected[-2], torch.float32)
    for layer, kept in enumerate(cache.layers):
        assert_close(run.buffer[layer, 0, :, : len(ids) - 1], kept.keys[0, :, :-1], torch.float32)
    assert_close(run.step(int(ids[-1]), repair_rows=5), expected[-1], torch.float32)
    assert run.exact == 5


@pytest.mark.parametrize("exact", [0, 100, 296])
def test_a_finished_run_is_a_cold_one(exact: int) -> None:
    """From wherever its KV is wrong on; where all is right the last row alone is computed again."""
    rows, ids = row_model("llama", torch.float32), prompt(5, 300)
    expected, cache = stock(rows.model, ids)
    run, prefilled = RowRun(rows, BufferPool(rows.layout, rows.device), len(ids)), len(ids) - 4
    run.prefill(ids[:prefilled], np.arange(prefilled), exact)
    run.buffer[:, :, :, exact:prefilled] *= -1
    run.deferred = np.arange(exact, exact + 3)
    for token in ids[prefilled:-1]:
        run.step(int(token))
    run.exact = min(run.exact, exact)
    assert_close(run.compute(run.rest())[-1], expected[-2], torch.float32)
    assert run.exact == run.length == len(ids) - 1
    assert not len(run.deferred)
    assert_close(run.step(int(ids[-1])), expected[-1], torch.float32)
    for layer, kept in enumerate(cache.layers):
        assert_close(run.buffer[layer, 0, :, : len(ids)], kept.keys[0], torch.float32)
        assert_close(run.buffer[layer, 1, :, : len(ids)], kept.values[0], torch.float32)


def farthest(family: str) -> int:
    """How far a family's keys may move: longrope turns all keys of longer sequences."""
    return tiny.WINDOW_TOKENS - 100 if family == "phi3-longrope" else 1000


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("move", [(0, 700), (700, 0), (3, 40)], ids=str)
def test_moved_keys_equal_keys_projected_at_the_new_position(
    family: str, dtype: torch.dtype, move: tuple[int, int]
) -> None:
    support, ids = tiny.loaded(family, dtype).support, prompt(5, 60)
    assert support.rows is not None
    assert support.mover is not None
    move = (min(move[0], farthest(family)), min(move[1], farthest(family)))
    _, before = stock(support.rows.model, ids, move[0])
    _, after = stock(support.rows.model, ids, move[1])
    keys = torch.stack([layer.keys[0] for layer in before.layers])
    here = np.arange(len(ids))
    support.mover.move(keys, here + move[0], here + move[1])
    for layer, kept in enumerate(after.layers):
        assert_close(keys[layer], kept.keys[0], dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_first_layer_keys_move_each_token_by_its_own_distance(family: str, dtype: torch.dtype) -> None:
    support, ids = tiny.loaded(family, dtype).support, prompt(6, 50)
    assert support.rows is not None
    assert support.mover is not None
    source, target = (np.sort(np.random.default_rng(s).permutation(farthest(family))[:50]) for s in (1, 2))

    def first_keys(positions: np.ndarray) -> torch.Tensor:
        cache = DynamicCache()
        with torch.inference_mode():
            where = torch.as_tensor(positions)[None]
            name = {cache_name(support.rows.model): cache}
            support.rows.model(input_ids=torch.as_tensor(ids)[None], position_ids=where, **name)
        return torch.stack([layer.keys[0] for layer in cache.layers])

    keys = first_keys(source)
    support.mover.move(keys, source, target)
    assert_close(keys[0], first_keys(target)[0], dtype)


def test_a_key_left_at_its_old_position_is_a_different_key(family: str) -> None:
    support, ids = tiny.loaded(family).support, prompt(5, 40)
    assert support.rows is not None
    assert support.mover is not None
    _, before = stock(support.rows.model, ids)
    _, after = stock(support.rows.model, ids, 100)
    for layer, table in enumerate(support.mover.layer_tables):
        gap = (before.layers[layer].keys - after.layers[layer].keys).abs().max() / after.layers[layer].keys.abs().max()
        assert (gap > 0.05) == (table >= 0)


def test_layers_without_positions_are_left_alone() -> None:
    mover = tiny.loaded("smollm3-nope").support.mover
    assert mover is not None
    assert -1 in mover.layer_tables
    assert 0 in mover.layer_tables


def test_partial_rotary_rotates_half_of_a_head() -> None:
    mover = tiny.loaded("phi3-partial").support.mover
    assert mover is not None
    assert {t.rotary_dim for t in mover.tables} == {8}


def layered(rows: np.ndarray, required: np.ndarray, shares: tuple[float, ...]) -> Plan:
    return Plan(rows, cold=False, layer_shares=shares, check_layer=1, required=required)


def test_narrowing_that_keeps_all_rows_equals_the_stock_forward(family: str) -> None:
    rows, ids = row_model(family, torch.float32), prompt(7)
    expected, _ = stock(rows.model, ids)
    everything = np.arange(len(ids))
    buffer = BufferPool(rows.layout, rows.device).acquire(len(ids))
    buffer.normal_()
    plan = layered(everything, everything[-4:], (1.0,) * len(rows.layers))
    found = rows.narrowed(Rows(ids, everything, buffer, len(ids)), narrowing(plan), plan.check_layer)
    assert_close(found, expected, torch.float32)


def test_narrowing_over_true_kv_leaves_the_last_logits_as_they_are(family: str) -> None:
    rows, ids = row_model(family, torch.float32), prompt(8)
    expected, _ = stock(rows.model, ids)
    everything = np.arange(len(ids))
    buffer = BufferPool(rows.layout, rows.device).acquire(len(ids))
    rows.forward(ids, everything, buffer)
    deep = len(rows.layers) - 2
    plan = layered(everything, everything[-4:], (1.0, 1.0, *np.linspace(0.4, 0.1, deep).tolist()))
    found = rows.narrowed(Rows(ids, everything, buffer), narrowing(plan), plan.check_layer)
    assert_close(found[-1], expected[-1], torch.float32)


def test_narrowing_keeps_the_rows_that_deviate_most() -> None:
    rows, ids = row_model("llama", torch.float32), prompt(9)
    everything = np.arange(len(ids))
    buffer = BufferPool(rows.layout, rows.device).acquire(len(ids))
    rows.forward(ids, everything, buffer)
    wrong = np.asarray([20, 33, 34, 90])
    buffer[1:, 1, :, torch.as_tensor(wrong)] += 5.0
    plan = layered(everything, everything[-6:], (1.0, 1.0, 4 / (TOKENS - 6)))
    chosen: list[np.ndarray] = []
    narrow = narrowing(plan)
    assert narrow is not None

    def watched(layer: int, deviation: torch.Tensor) -> torch.Tensor | None:
        kept = narrow(layer, deviation)
        assert kept is not None
        chosen.append(kept.numpy())
        return kept

    rows.narrowed(Rows(ids, everything, buffer), watched, 1)
    assert chosen[0].tolist() == [*wrong.tolist(), *range(TOKENS - 6, TOKENS)]


def test_a_stopped_pass_ends_before_its_next_layer() -> None:
    from threading import Event

    rows, ids = row_model("llama", torch.float32), prompt(10, 20)
    stop = Event()
    stop.set()
    with pytest.raises(ForwardStopped):
        rows.forward(ids, np.arange(20), BufferPool(rows.layout, rows.device).acquire(20), stop=stop)


def test_the_model_keeps_its_own_attention_after_a_pass() -> None:
    rows, ids = row_model("llama", torch.float32), prompt(11, 20)
    before = rows.model.config._attn_implementation
    rows.forward(ids, np.arange(20), BufferPool(rows.layout, rows.device).acquire(20))
    assert rows.model.config._attn_implementation == before != "semshare_rows"


def test_buffers_are_used_again_and_too_many_are_dropped() -> None:
    rows = row_model("llama", torch.float32)
    pool = BufferPool(rows.layout, rows.device, keep=1)
    small, large = pool.acquire(100), pool.acquire(600)
    assert (small.shape[3], large.shape[3]) == (512, 1024)
    pool.release(small)
    pool.release(large)
    assert pool.acquire(50).data_ptr() == large.data_ptr()
    assert pool.acquire(50).shape[3] == 512


def test_two_threads_may_share_a_model() -> None:
    rows, ids = row_model("llama", torch.float32), prompt()
    expected, _ = stock(rows.model, ids)

    def compute(number: int) -> torch.Tensor:
        where = np.arange(len(ids))
        if number % 2:
            return rows.forward(ids, where, BufferPool(rows.layout, rows.device).acquire(len(ids)), logits=len(ids))
        with rows.stock() as model:
            return stock(model, ids)[0]

    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(compute, range(40)):
            assert_close(found, expected, torch.float32)
