"""Decoding on kept KV: on all of it, to the bit the full run; on a part, what attention over that part alone gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semshare_agents.errors import ConfigurationError
from semshare_agents.kv.buffer import BufferPool
from semshare_agents.model.rows import ForwardStopped, RowModel
from semshare_agents.model.run import RowRun
from semshare_agents.retain import POLICIES, Retention, layer_shares, retained_positions
from semshare_agents.retain.observer import TailObserver
from semshare_agents.retain.run import RetainedRun
from tests import tiny

TOKENS = 120
ANSWER = (7, 30, 12, 99)


def prefilled(family: str) -> tuple[RowModel, RowRun, torch.Tensor]:
    """A full run over a random prompt, and the attention of its last rows."""
    rows = tiny.loaded(family).support.rows
    assert rows is not None
    ids = np.random.default_rng(3).integers(4, tiny.VOCABULARY, TOKENS)
    run = RowRun(rows, BufferPool(rows.layout, rows.device), TOKENS + len(ANSWER))
    run.cold(ids)
    watch = TailObserver(TOKENS - 16)
    tail = np.arange(TOKENS - 16, TOKENS)
    rows.forward(ids[tail], tail, run.buffer, observer=watch)
    return rows, run, watch.attention()


@pytest.mark.parametrize("family", list(tiny.REUSABLE))
@pytest.mark.parametrize("policy", POLICIES)
def test_a_share_of_one_is_the_full_run_to_the_bit(family: str, policy: str) -> None:
    rows, run, attention = prefilled(family)
    kept = retained_positions(Retention(policy, 1.0), attention)
    assert all((where == torch.arange(TOKENS)).all() for where in kept)
    retained = RetainedRun(rows, run.buffer, kept, TOKENS, len(ANSWER))
    for token in ANSWER:
        assert torch.equal(retained.step(token), run.step(token))


@pytest.mark.parametrize("family", list(tiny.REUSABLE))
def test_only_what_was_kept_is_read(family: str) -> None:
    rows, run, attention = prefilled(family)
    kept = retained_positions(Retention("decay", 0.5, recent=8), attention)
    lengths = {where.shape[1] for where in kept}
    assert len(lengths) > 1

    again = RetainedRun(rows, run.buffer, kept, TOKENS, len(ANSWER))
    dropped = run.buffer.clone()
    for layer, where in enumerate(kept):
        for head in range(where.shape[0]):
            gone = np.setdiff1d(np.arange(TOKENS), where[head].numpy())
            dropped[layer, :, head, gone] = float("nan")
    clean = RetainedRun(rows, dropped, kept, TOKENS, len(ANSWER))
    run.buffer.fill_(float("nan"))
    for token in ANSWER:
        found = again.step(token)
        assert torch.isfinite(found).all()
        assert torch.equal(found, clean.step(token))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "smollm3-nope"])
def test_eight_bits_drift_little_and_take_less(family: str) -> None:
    rows, run, attention = prefilled(family)
    kept = retained_positions(Retention("constant", 1.0), attention)
    wide, narrow = (RetainedRun(rows, run.buffer, kept, TOKENS, len(ANSWER), int8) for int8 in (False, True))
    assert narrow.nbytes < 0.5 * wide.nbytes
    for token in ANSWER:
        expected, found = wide.step(token), narrow.step(token)
        assert (found - expected).abs().mean() < 0.05 * expected.std()


def test_the_watch_sees_the_stock_attention() -> None:
    model = tiny.build("llama")
    model.set_attn_implementation("eager")
    ids = np.random.default_rng(3).integers(4, tiny.VOCABULARY, TOKENS)
    stock = model(torch.as_tensor(ids)[None], output_attentions=True).attentions
    _, _, attention = prefilled("llama")
    for layer, weights in enumerate(stock):
        expected = weights[0, :, -16:].reshape(2, 2, 16, TOKENS).mean((1, 2))
        assert torch.allclose(attention[layer], expected, atol=1e-5)


def test_a_stopped_run_ends_early() -> None:
    rows, run, attention = prefilled("llama")
    retained = RetainedRun(rows, run.buffer, retained_positions(Retention(), attention), TOKENS, 4)
    retained.stop.set()
    with pytest.raises(ForwardStopped):
        retained.step(5)
    with pytest.raises(RuntimeError, match="RowRun"):
        retained.cold(np.asarray([1]))


@settings(max_examples=150, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    share=st.floats(0.01, 1.0),
    sinks=st.integers(0, 6),
    recent=st.integers(1, 80),
    tokens=st.integers(1, 300),
    layers=st.integers(1, 6),
    seed=st.integers(0, 100),
)
def test_sinks_and_the_recent_window_stay_and_the_mean_share_holds(
    policy: str, share: float, sinks: int, recent: int, tokens: int, layers: int, seed: int
) -> None:
    scores = torch.rand(layers, 2, tokens, generator=torch.Generator().manual_seed(seed)).pow(8)
    attention = scores / scores.sum(-1, keepdim=True)
    retention = Retention(policy, share, sinks, recent)
    shares = layer_shares(retention, attention)
    assert np.mean(shares) == pytest.approx(share, abs=1e-6)
    assert all(0 < s <= 1 for s in shares)
    for where, wanted in zip(retained_positions(retention, attention), shares, strict=True):
        assert (where.diff(dim=1) > 0).all()
        assert where.shape[1] == min(tokens, max(int(np.ceil(wanted * tokens - 1e-6)), sinks + recent))
        protected = {*range(min(sinks, tokens)), *range(max(0, tokens - recent), tokens)}
        for head in where.tolist():
            assert protected <= set(head)


@pytest.mark.parametrize(
    "wrong", [{"policy": "luck"}, {"share": 0.0}, {"share": 1.1}, {"share": float("nan")}, {"sinks": -1}, {"recent": 0}]
)
def test_what_cannot_be_kept_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        Retention(**wrong)  # type: ignore[arg-type]
