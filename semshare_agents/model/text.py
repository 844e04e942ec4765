"""Turning tokens into text, and stopping. Loads no torch: what checks options alone needs none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tokenizers.decoders import DecodeStream


class _DecodedTail:
    """Detokenises a growing answer by a tokenizer's own `decode`, for those without a fast backend.

    Text is decoded together with the tokens before it, whose text is then taken away: a token alone may read otherwise.
    Bytes that are no whole letter yet are held back.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._context = self._read = 0

    def step(self, token: int) -> str:
        """Add a token; returns text that is complete."""
        self._tokens.append(token)
        before, now = self._text(self._tokens[self._context : self._read]), self._text(self._tokens[self._context :])
        if len(now) <= len(before) or now.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._context, self._read = self._read, len(self._tokens)
        return now[len(before) :]

    def _text(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


def _detokeniser(tokenizer: Any) -> Callable[[int], str | None]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return _DecodedTail(tokenizer).step
    stream = DecodeStream(skip_special_tokens=True)
    return lambda token: stream.step(backend, token)


class TextStream:
    """Detokenises a growing answer and holds back what may turn out to be a stop string.

    Args:
        tokenizer: A transformers tokenizer.
        stop: Stop strings, of any number of tokens.
        marks: Special tokens that are text all the same, by id.
    """

    def __init__(self, tokenizer: Any, stop: Iterable[str] = (), marks: Mapping[int, str] | None = None):
        self._stop = tuple(stop)
        self._marks = marks or {}
        self._decode = _detokeniser(tokenizer)
        self._pending = ""
        self.text = ""
        self.stopped = False
        self.stop_string = ""
        """The stop string that was met."""

    @property
    def decoded(self) -> int:
        """Characters so far, those included that are held back."""
        return len(self.text) + len(self._pending)

    def push(self, token: int) -> str:
        """Add a token; returns text that is certain to be part of the answer."""
        self._pending += self._decode(token) or ""
        self._pending += self._marks.get(token, "")
        cuts = [(at, s) for s in self._stop if (at := self._pending.find(s)) >= 0]
        if cuts:
            self.stopped = True
            at, self.stop_string = min(cuts)
            self._pending = self._pending[:at]
            return self.finish()
        return self._release(len(self._pending) - self._held())

    def finish(self) -> str:
        """The rest of the text, once no token follows."""
        return self._release(len(self._pending))

    def _release(self, count: int) -> str:
        piece, self._pending = self._pending[:count], self._pending[count:]
        self.text += piece
        return piece

    def _held(self) -> int:
        """Length of the longest end of the pending text that begins a stop string."""
        longest = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(self._pending)), longest, -1):
                if self._pending.endswith(stop[:size]):
                    longest = size
                    break
        return longest
