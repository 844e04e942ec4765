"""Turns on the stock model: each step is what the library's own `generate` would compute."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from semshare_agents.errors import UnsupportedModelError
from semshare_agents.model.caching import takes
from semshare_agents.model.rows import ForwardStopped, RowModel
from semshare_agents.model.run import Run
from semshare_agents.values import Ints

LOOP_ARGUMENTS = ("logits_processor", "stopping_criteria", "generation_config", "synced_gpus", "streamer")
"""What `generate` hands to a decoding loop beside the model's own arguments."""
TRIED_TOKENS = 12
TRIED_STEPS = 2
TRIED_LONG_TOKENS = 130
"""For models that give back no cache: some of them hash long prompts with numbers drawn anew each time."""
TRIED_PAST_TOKENS = 512
"""Longest window that is crossed when the model is loaded."""
TOLERANCE = 0.03
"""Above what rounding does in any dtype, below what a lost past does."""


class StockRun(Run):
    """A run on the stock forward with the library's own cache.

    `generate` prepares what its loop starts from (cache, position ids, encoder outputs), and each step goes through the
    two functions of the model that this loop calls. What a model type changes there (positions that it wants to be
    told, a prefill that starts again where its rotations change, a state instead of a cache) so holds here too.

    Args:
        model: The transformers model.
        rows: The row model that switches its attention; None where nothing does.
    """

    def __init__(self, model: Any, rows: RowModel | None = None):
        super().__init__()
        self._model = model
        self._stock = nullcontext if rows is None else rows.stock
        self._ids = torch.zeros(1, 0, dtype=torch.long)
        self._state: dict[str, Any] = {}
        self.cached = False
        """Whether the model gave back a cache."""

    @torch.inference_mode()
    def cold(self, prompt: Ints) -> torch.Tensor:
        """See `Run.cold`."""
        ids = torch.as_tensor(prompt, device=self._model.device)[None]
        with self._stock():
            self._ids, self._state = _prepared(self._model, ids)
            return self._forward(is_first_iteration=True)

    @torch.inference_mode()
    def step(self, token: int, repair_rows: int = 0) -> torch.Tensor:
        """See `Run.step`."""
        self._ids = torch.cat([self._ids, self._ids.new_tensor([[token]])], dim=1)
        with self._stock():
            return self._forward(next_sequence_length=1 if self._state["use_cache"] else None)

    def _forward(self, **which: Any) -> torch.Tensor:
        if self.stop.is_set():
            raise ForwardStopped
        model = self._model
        try:
            out = model(**model.prepare_inputs_for_generation(self._ids, **which, **self._state), return_dict=True)
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as e:
            raise UnsupportedModelError(
                f"the library's own generation fails with {self._ids.shape[1]} tokens ({type(e).__name__}: {e})"
            ) from e
        self.cached = "cache" in out
        self._state = model._update_model_kwargs_for_generation(
            out, self._state, is_encoder_decoder=model.config.is_encoder_decoder
        )
        logits: torch.Tensor = out.logits[0, -1]
        return logits

    def close(self) -> None:
        """See `Run.close`."""
        self._state = {}


def _prepared(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """What `generate` would begin its loop with: token ids, `(1, tokens)`, and the arguments of the model."""

    def instead_of_the_loop(_: Any, input_ids: torch.Tensor, **given: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        return input_ids, {name: value for name, value in given.items() if name not in LOOP_ARGUMENTS}

    # Every token is seen, also one that is the model's padding elsewhere.
    seen = {"attention_mask": torch.ones_like(ids)} if takes(model, "attention_mask") else {}
    begun: tuple[torch.Tensor, dict[str, Any]] = model.generate(
        ids,
        custom_generate=instead_of_the_loop,
        use_cache=True,
        do_sample=False,
        num_beams=1,
        num_return_sequences=1,
        max_new_tokens=1,
        # Said for the library's sake, which would warn; only batches are padded.
        pad_token_id=0,
        **seen,
    )
    return begun


def refusal(model: Any, rows: RowModel | None = None, past: int | None = None) -> str:
    """Why no turn can run on a stock model; empty where they can.

    Tried on a few tokens: a prefill and steps have to run, two turns side by side may not disturb each other, and the
    steps of a model that gives back no cache have to go on from its past all the same, alike each time.

    Args:
        model: The transformers model.
        rows: The row model that switches its attention; None where nothing does.
        past: A length past which a prompt is tried too, where that is cheap.
    """
    vocabulary = model.config.get_text_config().vocab_size
    draw = np.random.default_rng(0)
    tokens, others, long = (draw.integers(0, vocabulary, n) for n in (TRIED_TOKENS, TRIED_TOKENS, TRIED_LONG_TOKENS))
    split = TRIED_TOKENS - TRIED_STEPS
    try:
        run, other = StockRun(model, rows), StockRun(model, rows)
        run.cold(tokens[:split])
        alone = [run.step(int(token)) for token in tokens[split:]]
        run.cold(tokens[:split])
        other.cold(others)
        beside = [run.step(int(token)) for token in tokens[split:]]
        if not run.cached and _far(alone[-1], other.cold(tokens)):
            return (
                "its steps do not go on from what a pass over the whole text computes, so it is no causal language "
                "model as it is: load it as a decoder where it can be one (`is_decoder: true` in config.json)"
            )
        if not run.cached and _far(run.cold(long), other.cold(long)):
            return "it answers the same prompt differently each time"
        if past is not None and past < TRIED_PAST_TOKENS:
            run.cold(draw.integers(0, vocabulary, past + TRIED_TOKENS))
            run.step(0)
    except UnsupportedModelError as e:
        return str(e)
    except Exception as e:
        return f"the library's own generation fails with it ({type(e).__name__}: {e})"
    if any(_far(a, b) for a, b in zip(alone, beside, strict=True)):
        return "it keeps its state in the model itself, so that turns side by side would mix"
    return ""


def _far(a: torch.Tensor, b: torch.Tensor) -> bool:
    return not bool((a.float() - b.float()).abs().mean() <= TOLERANCE * b.float().abs().mean())
