"""How close an answer with reuse is to the cold one: its text, and its logits along a given continuation."""

from __future__ import annotations

import numpy as np
import torch

from semshare_agents.model.generate import Sampler
from semshare_agents.model.run import Run
from semshare_agents.observe.drift import agreement, kl_mean
from semshare_agents.reuse.certain import LATER_SPREADS, uncertain
from semshare_agents.turn import Pipeline
from semshare_agents.values import Ints, Sampling

__all__ = ["agreement", "decoded_logits", "forced_logits", "kl_mean", "rouge_l"]


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L F-measure over lower-cased words (Lin, 2004); 1.0 for two empty texts."""
    a, b = text.lower().split(), reference.lower().split()
    if not a or not b:
        return float(a == b)
    row = np.zeros(len(b) + 1, np.int64)
    for word in a:
        before = row.copy()
        for j, other in enumerate(b, start=1):
            row[j] = before[j - 1] + 1 if word == other else max(before[j], row[j - 1])
    common = int(row[-1])
    return 2 * common / (len(a) + len(b)) if common else 0.0


def forced_logits(run: Run, first: torch.Tensor, prompt_tokens: int, continuation: Ints) -> torch.Tensor:
    """Logits along a given continuation.

    Args:
        run: Holds the prompt's KV.
        first: Logits of the prompt's last token, shape `(vocabulary,)`.
        prompt_tokens: Length of the prompt.
        continuation: Tokens to force, shape `(tokens,)`.

    Returns:
        `(tokens, vocabulary)`: the distributions each token was drawn from.
    """
    fed = continuation[:-1]
    if not len(fed):
        return first[None]
    if run.by_rows is not None:
        rows = np.arange(prompt_tokens, prompt_tokens + len(fed))
        later = run.by_rows.forward(fed, rows, logits=len(fed))
        return torch.cat([first[None], later])
    return torch.stack([first, *(run.step(int(token)) for token in fed)])


def decoded_logits(pipeline: Pipeline, run: Run, first: torch.Tensor, continuation: Ints) -> torch.Tensor:
    """Logits along a given continuation, decoded step by step with all that a turn's steps carry, near ties included.

    Args:
        pipeline: Whose steps they are.
        run: Holds the prompt's KV.
        first: Logits of the prompt's last token, shape `(vocabulary,)`.
        continuation: Tokens to force, shape `(tokens,)`.

    Returns:
        `(tokens, vocabulary)`: the distributions each token was drawn from.
    """
    greedy = Sampler(Sampling(), np.zeros(0, np.int64), first.device)
    found = [first]
    for token in continuation[:-1]:
        logits = run.compute(pipeline.next_step(run, int(token)))[-1]
        if run.by_rows is not None and uncertain(run, greedy, logits, LATER_SPREADS):
            logits = run.compute(run.by_rows.rest())[-1]
        found.append(logits)
    return torch.stack(found)
