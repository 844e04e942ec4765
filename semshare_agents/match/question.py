"""Which passages of a prompt its question names: those that share rare words with it."""

from __future__ import annotations

import numpy as np

from semshare_agents.match.words import TokenTexts, read, topic, weights
from semshare_agents.values import Floats, Ints


def asked(prompt: Ints, question_tokens: int, texts: TokenTexts) -> Floats:
    """What each token's passage has in common with the question: the summed weights of the stems that both have.

    A stem weighs the more the fewer passages have it (log inverse passage frequency). Time is linear in the prompt.

    Args:
        prompt: Token ids, shape `(tokens,)`.
        question_tokens: Tokens at the prompt's end that hold the question.
        texts: The tokens' texts.

    Returns:
        Shape `(tokens,)`, 0 from the question on.
    """
    text = read(texts.of(prompt))
    question = text.passage(max(0, len(prompt) - question_tokens))
    weight = weights(text)
    wanted = {w.stem for w in topic(text.inside(question, len(text.starts) - 1))}
    out = np.zeros(len(prompt), np.float32)
    for index in range(question):
        shared = wanted & {w.stem for w in topic(text.inside(index, index + 1))}
        out[text.starts[index] : text.starts[index + 1]] = sum(weight[stem] for stem in shared)
    return out
