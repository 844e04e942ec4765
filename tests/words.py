"""A tokenizer whose tokens are words with the space before them: tests read it as text."""

from __future__ import annotations

import re

import numpy as np

from semshare_agents.values import Ints

_IDS: dict[str, int] = {}
_TEXTS: list[str] = []


def tokens_of(text: str) -> Ints:
    """Token ids of a text, shape `(tokens,)`; equal words have equal ids."""
    ids = []
    for piece in re.findall(r" ?[\w']+|\s|[^\w\s]", text):
        if piece not in _IDS:
            _IDS[piece] = len(_TEXTS)
            _TEXTS.append(piece)
        ids.append(_IDS[piece])
    return np.asarray(ids, np.int64)


class WordTokenizer:
    """As much of a transformers tokenizer as `TokenTexts` needs."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [int(i) for i in tokens_of(text)]

    def decode(self, tokens: list[int], clean_up_tokenization_spaces: bool = False) -> str:
        return "".join(_TEXTS[token] for token in tokens)
