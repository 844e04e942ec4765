"""Noise floors: how far two cold runs of one prompt are apart when nothing is reused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from semshare_agents.bench.cold import Cold
from semshare_agents.bench.fidelity import forced_logits
from semshare_agents.errors import ConfigurationError
from semshare_agents.model.run import RowRun
from semshare_agents.turn import Pipeline
from semshare_agents.values import Ints


def two_pass_logits(pipeline: Pipeline, prompt: Ints, cold: Cold) -> torch.Tensor:
    """A cold run by our own row path, first half before second half; belongs on the compute thread.

    Nothing is reused and nothing left out: what parts it from the stock run is the order of float32 sums alone.

    Returns:
        Logits along the cold answer, `(tokens, vocabulary)`.

    Raises:
        ConfigurationError: the model cannot compute chosen rows.
    """
    run, first = _two_passes(pipeline, prompt, len(cold.tokens))
    try:
        return forced_logits(run, first, len(prompt), cold.tokens)
    finally:
        run.close()


def two_pass_answer(pipeline: Pipeline, prompt: Ints, max_new_tokens: int) -> str:
    """The greedy answer of the run that `two_pass_logits` describes."""
    run, logits = _two_passes(pipeline, prompt, max_new_tokens)
    try:
        tokens = [int(logits.argmax())]
        while len(tokens) < max_new_tokens and tokens[-1] not in pipeline.model.end_tokens:
            tokens.append(int(run.step(tokens[-1]).argmax()))
    finally:
        run.close()
    text: str = pipeline.model.tokenizer.decode(tokens, skip_special_tokens=True)
    return text


def _two_passes(pipeline: Pipeline, prompt: Ints, room_tokens: int) -> tuple[RowRun, torch.Tensor]:
    if pipeline.model.support.rows is None:
        raise ConfigurationError(f"this model's KV cannot be reused: {pipeline.model.support.reason}")
    run, half = pipeline.loader.runs.by_rows(len(prompt) + room_tokens), len(prompt) // 2
    if half:
        run.forward(prompt[:half], np.arange(half))
    return run, run.prefill(prompt, np.arange(half, len(prompt)), len(prompt))


def in_bfloat16(pipeline: Pipeline) -> Any:
    """A copy of the model in bfloat16, with the attention it was loaded with."""
    return copy.deepcopy(pipeline.model.model).to(torch.bfloat16)


@torch.inference_mode()
def stock_logits(model: Any, prompt: Ints, cold: Cold) -> torch.Tensor:
    """A cold run of another model, prompt and answer in one stock forward; `(tokens, vocabulary)`, float32."""
    ids = torch.as_tensor(np.concatenate((prompt, cold.tokens[:-1])), device=model.device)[None]
    logits: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=len(cold.tokens)).logits[0]
    return logits.float()
