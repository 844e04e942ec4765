"""What `exact` means in a dtype: the same KV, and the rounding of passes of other shapes.

A cold run computes a prompt's rows in one pass, an exact hit the last of them in a pass of their own. Sums of other
shapes round otherwise. For each dtype, prompts are answered greedily

- cold: one pass over the prompt,
- exact: the cold run's KV, its last rows computed again,
- stock in two: the library's own forward, the prompt in two passes, against the library's own in one.

Of the first token, the KL to the run in one pass; of the answers, how many are equal, and how near the two likeliest
tokens were (difference of logits) where the first of the others parted.

    python benchmarks/rounding.py
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import DynamicCache

from semshare_agents.kv.buffer import BufferPool
from semshare_agents.kv.layout import put, take
from semshare_agents.model.loading import LoadedModel, load
from semshare_agents.model.run import RowRun
from semshare_agents.observe.drift import kl_mean
from semshare_agents.settings import load_settings
from semshare_agents.values import Ints

TOPICS = ("a small railway", "bees in winter", "how bread is baked", "a library fire", "the last ferry", "a lost dog")
WHO, WHAT = ("keeper", "driver", "baker", "sailor"), ("a letter", "two notes", "nothing", "an old song")
TAIL_ROWS = 16


@dataclass(frozen=True)
class Greedy:
    """A greedy answer: its tokens, and the logits before each, `(tokens, vocabulary)`."""

    tokens: list[int]
    logits: torch.Tensor


def prompts(loaded: LoadedModel, lengths: list[int]) -> list[Ints]:
    """Chats about each topic, of so many notes each."""
    made = []
    for topic in TOPICS:
        for lines in lengths:
            text = " ".join(
                f"Note {n} about {topic}: the {WHO[n % 4]} counted {n * 17 % 91} items and wrote {WHAT[n * 7 % 4]}."
                for n in range(lines)
            )
            chat = [{"role": "user", "content": f"{text} Write a short story about it."}]
            encoded = loaded.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
            made.append(np.asarray(encoded["input_ids"], np.int64))
    return made


def answered(run: RowRun, first: torch.Tensor, count: int) -> Greedy:
    """Go on greedily from a prefilled prompt."""
    tokens, logits = [int(first.argmax())], [first.float()]
    while len(tokens) < count:
        logits.append(run.step(tokens[-1]).float())
        tokens.append(int(logits[-1].argmax()))
    return Greedy(tokens, torch.stack(logits))


def by_rows(loaded: LoadedModel, prompt: Ints, count: int) -> tuple[Greedy, Greedy]:
    """Cold, and from its KV with the last rows computed again."""
    rows = loaded.support.rows
    assert rows is not None
    pool = BufferPool(rows.layout, rows.device)
    cold, warm = RowRun(rows, pool, len(prompt) + count), RowRun(rows, pool, len(prompt) + count)
    first = cold.cold(prompt)
    put(warm.buffer, 0, take(cold.buffer, 0, len(prompt)))
    again = warm.prefill(prompt, np.arange(len(prompt) - TAIL_ROWS, len(prompt)), len(prompt))
    answers = answered(cold, first, count), answered(warm, again, count)
    cold.close()
    warm.close()
    return answers


@torch.inference_mode()
def by_stock(loaded: LoadedModel, prompt: Ints, count: int, parts: list[Ints]) -> Greedy:
    """The library's own forward, the prompt in parts."""
    cache, model = DynamicCache(config=loaded.model.config), loaded.model
    for part in parts:
        out = model(input_ids=torch.as_tensor(part)[None], cache=cache, use_cache=True, logits_to_keep=1)
    tokens, logits = [int(out.logits[0, -1].argmax())], [out.logits[0, -1].float()]
    while len(tokens) < count:
        out = model(input_ids=torch.tensor([[tokens[-1]]]), cache=cache, use_cache=True)
        logits.append(out.logits[0, -1].float())
        tokens.append(int(logits[-1].argmax()))
    return Greedy(tokens, torch.stack(logits))


def compared(name: str, pairs: list[tuple[Greedy, Greedy]]) -> str:
    """One line about pairs of answers of which the first was computed in one pass."""
    kls = [kl_mean(a.logits[:1], b.logits[:1]) for a, b in pairs]
    parted = [
        next((i for i, (x, y) in enumerate(zip(a.tokens, b.tokens, strict=True)) if x != y), None) for a, b in pairs
    ]
    gaps = [
        a.logits[at].topk(2).values.diff().abs().item()
        for (a, _), at in zip(pairs, parted, strict=True)
        if at is not None
    ]
    near = f"{np.median(gaps):.3f}, at most {max(gaps):.3f}" if gaps else "-"
    return (
        f"{name}: KL of the first token median {np.median(kls):.1e}, worst {max(kls):.1e}; "
        f"{parted.count(None)} of {len(pairs)} answers equal; logits of the two likeliest where they part: {near}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--home", type=Path, default=None)
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--notes", nargs="*", type=int, default=[4, 16], help="lengths of the prompts")
    parser.add_argument("--max-new-tokens", type=int, default=24)
    given = parser.parse_args()
    settings = load_settings(model=given.model, home=given.home)
    for dtype in given.dtypes:
        loaded = load(settings.model, settings.home, "cpu", dtype)
        ours, stock = [], []
        for prompt in prompts(loaded, given.notes):
            ours.append(by_rows(loaded, prompt, given.max_new_tokens))
            halves = [prompt[:-TAIL_ROWS], prompt[-TAIL_ROWS:]]
            stock.append(tuple(by_stock(loaded, prompt, given.max_new_tokens, parts) for parts in ([prompt], halves)))
        print(compared(f"{dtype}, exact against cold", ours), flush=True)
        print(compared(f"{dtype}, the library in two passes against one", stock), flush=True)


if __name__ == "__main__":
    main()
