"""How likely tokens are, and what single tokens read as."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any

import torch

from semshare_agents.values import Ints, TokenLogprob

REMEMBERED_TOKENS = 65_536
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""How vocabularies of whole letters name a single byte."""


class Likelihoods:
    """Tells how likely tokens are by the model's own distribution.

    Args:
        tokenizer: A transformers tokenizer.
        likeliest: So many of the likeliest tokens are told of each place.
    """

    def __init__(self, tokenizer: Any, likeliest: int):
        self._likeliest = likeliest
        self._names = names_of(tokenizer)

    @torch.inference_mode()
    def of(self, logits: torch.Tensor, token: int, start: int) -> TokenLogprob:
        """How likely a token is.

        Args:
            logits: The model's, shape `(vocabulary,)`.
            token: The token.
            start: Where its text begins.
        """
        return self.each(logits[None], [token], [start])[0]

    @torch.inference_mode()
    def each(self, logits: torch.Tensor, tokens: list[int], starts: list[int]) -> list[TokenLogprob]:
        """How likely several tokens are.

        Args:
            logits: The model's before each token, shape `(tokens, vocabulary)`.
            tokens: The tokens.
            starts: Where the text of each begins.
        """
        logprobs = logits.float().log_softmax(-1)
        ids = torch.as_tensor(tokens, device=logits.device)[:, None]
        own = logprobs.gather(1, ids)[:, 0].tolist()
        values, likeliest = logprobs.topk(min(self._likeliest, logprobs.shape[-1]), dim=-1)
        found = []
        for i, token in enumerate(tokens):
            pairs = zip(likeliest[i].tolist(), values[i].tolist(), strict=True)
            top = tuple(TokenLogprob(other, *self._names.of(other), logprob) for other, logprob in pairs)
            found.append(TokenLogprob(token, *self._names.of(token), own[i], starts[i], top))
        return found

    def first(self, token: int) -> TokenLogprob:
        """A prompt's first token, before which nothing stands."""
        return TokenLogprob(token, *self._names.of(token), math.nan)

    def starts(self, tokens: Ints) -> list[int]:
        """Where the text of each of a prompt's tokens begins, in characters of their texts one after the other."""
        starts, at = [], 0
        for token in tokens.tolist():
            starts.append(at)
            at += len(self._names.of(token)[0])
        return starts


class TokenNames:
    """Texts and bytes of single tokens.

    Args:
        tokenizer: A transformers tokenizer.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        self._letters = _byte_letters() if "ByteLevel" in repr(decoder) else {}
        before = tokenizer.encode("a", add_special_tokens=False)
        self._before = before[-1:]
        """A token before which another reads as it does inside a text: alone, some lose their space."""
        self._read = tokenizer.decode(self._before)
        self.of = lru_cache(REMEMBERED_TOKENS)(self._of)
        """Text and bytes of a token."""

    def _of(self, token: int) -> tuple[str, bytes]:
        text = self._tokenizer.decode([*self._before, token]).removeprefix(self._read)
        name = str(self._tokenizer.convert_ids_to_tokens(token) or "")
        if (byte := BYTE_TOKEN.fullmatch(name)) is not None:
            return text, bytes([int(byte[1], 16)])
        if self._letters and "\N{REPLACEMENT CHARACTER}" in text and all(letter in self._letters for letter in name):
            return text, bytes(self._letters[letter] for letter in name)
        return text, text.encode("utf-8", "replace")


@lru_cache(4)
def names_of(tokenizer: Any) -> TokenNames:
    """Texts and bytes of a tokenizer's tokens."""
    return TokenNames(tokenizer)


def _byte_letters() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for (GPT-2's table)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
