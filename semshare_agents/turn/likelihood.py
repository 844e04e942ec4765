"""A prompt computed in full, with how likely each of its tokens was."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from semshare_agents.engine import Engine, Within
from semshare_agents.model.likelihoods import Likelihoods
from semshare_agents.model.run import Run
from semshare_agents.values import Ints, TokenLogprob

ROWS = 128
"""Rows of which all logits are held at once: those of a long prompt would not fit into memory."""


async def likely_prompt(
    engine: Engine, run: Run, prompt: Ints, likelihoods: Likelihoods, within: Within
) -> tuple[torch.Tensor, tuple[TokenLogprob, ...]]:
    """Compute all of a prompt.

    Args:
        engine: The way onto the model.
        run: Where to.
        prompt: Token ids, shape `(tokens,)`.
        likelihoods: Tells how likely tokens are.
        within: Entered around what is computed.

    Returns:
        The last row's logits, `(vocabulary,)`, and how likely each token was.
    """
    found, starts = [likelihoods.first(int(prompt[0]))], likelihoods.starts(prompt)
    # A run that computes no chosen rows gives the last row's logits alone: it goes token by token.
    size = 1 if run.by_rows is None else ROWS
    for start in range(0, len(prompt), size):
        end = min(start + size, len(prompt))
        logits = await _computed(engine, run, prompt, start, end, within)
        told = prompt[start + 1 : end + 1].tolist()
        each = partial(likelihoods.each, logits[: len(told)], told, starts[start + 1 : end + 1])
        found += await engine.call(each, run, within) if told else []
    return logits[-1], tuple(found)


async def _computed(engine: Engine, run: Run, prompt: Ints, start: int, end: int, within: Within) -> torch.Tensor:
    rows = run.by_rows
    if rows is not None:
        step = replace(rows.part(prompt[:end], np.arange(start, end), end), logits=end - start)
    else:
        step = run.next(int(prompt[start])) if start else run.whole(prompt[:1])
    return (await engine.compute(step, within)).result
