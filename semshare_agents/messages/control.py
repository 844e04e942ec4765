"""Control tokens: those of the template act, those in the text of messages stay text.

A tokenizer makes a control token of every place where its name is written. So names in messages are put aside before
the template renders them, one private character each, and what is then written as a name is the template's. Both are
told apart while encoding by a copy of the tokenizer in which control tokens have names that nobody can guess: the
template's are spelled so, and those in messages are plain text to it.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from semshare_agents.errors import InvalidMessagesError
from semshare_agents.values import Ints

ASIDE = 0x100000
"""The first of the private characters; it stands before one of them that was in a message by itself."""
FENCE = "\U0010fffd"
"""Stands around secret names; what is between cannot be guessed."""
FEW_NAMES = 64
"""So many names are looked for one by one: faster than by an expression."""
BRACKETED = re.compile(r"[<\[{(|]\S*[>\]})|]", re.DOTALL)
"""The shape of marks that are added tokens but not special ones."""


def control_names(tokenizer: Any, written: str) -> dict[str, int]:
    """Added tokens that may not come out of a message's text, with their ids.

    Args:
        tokenizer: A transformers tokenizer.
        written: The chat template and all marks of calls and thoughts. An added token that is not special (`<think>`,
            `<tool_response>`) controls a model only where these write it; others (HTML tags, runs of spaces) are text.

    Returns:
        Special tokens, and marks that stand in `written`.
    """
    added = {str(token): (index, token) for index, token in tokenizer.added_tokens_decoder.items()}
    # Tokenizers in Python do not mark what they use as an end or a padding.
    special = set(tokenizer.all_special_tokens)
    return {
        name: index
        for name, (index, token) in added.items()
        if name.strip() and (token.special or name in special or (BRACKETED.fullmatch(name) and name in written))
    }


class ControlTokens:
    """Keeps control tokens in the text of messages from acting.

    Args:
        tokenizer: A transformers tokenizer with a fast backend.
        names: The control tokens' ids by name.
        own: Names that act in an assistant's own text: the model wrote them as tokens.
    """

    def __init__(self, tokenizer: Any, names: Mapping[str, int], own: Iterable[str] = ()):
        self._tokenizer = tokenizer
        self._names = dict(names)
        own = set(own)
        self._aside = {name: chr(ASIDE + 1 + k) for k, name in enumerate(self._names)}
        self._back = {char: name for name, char in self._aside.items()}
        self._private = f"[{chr(ASIDE)}-{chr(ASIDE + len(self._names))}]"
        self._all = _any_of(self._names)
        self._starts = {name[:2]: [n for n in self._names if n.startswith(name[:2])] for name in self._names}
        self._others = re.compile("|".join([self._private, *_sorted([n for n in self._names if n not in own])]))
        self._every = re.compile("|".join([self._private, *_sorted(self._names)]))
        self._lock = threading.Lock()

    def guarded(self, value: Any, own: bool = False) -> Any:
        """A value with the control tokens' names put aside in every text of it.

        Args:
            value: Text, or lists and mappings of texts.
            own: Whether it is an assistant's own text.
        """
        if isinstance(value, str):
            return (self._others if own else self._every).sub(self._put_aside, value)
        if isinstance(value, Mapping):
            return {self.guarded(k, own): self.guarded(v, own) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.guarded(v, own) for v in value]
        return value

    def all_plain(self, values: Iterable[Any]) -> bool:
        """Whether no text of these values has a name or a private character: by one look at all of them."""
        text = "\0".join(_texts(values))
        if len(self._names) > FEW_NAMES:
            return self._every.search(text) is None
        private = not text.isascii() and re.search(self._private, text) is not None
        return not private and not any(
            name in text for start, names in self._starts.items() if start in text for name in names
        )

    def encoded(self, text: str) -> Ints:
        """Token ids of a rendered text, shape `(tokens,)`: names that were put aside are text, others are tokens.

        Raises:
            InvalidMessagesError: the tokenizer has no other way to write such a name than the token.
        """
        if self._is_plain(text):
            return np.asarray(self._tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
        if self._backend is None:
            raise InvalidMessagesError(
                "a message has the name of a control token, and a tokenizer without a fast backend cannot write it as "
                "text: take it out, or set control_tokens=tokens"
            )
        spelled = self._all.sub(lambda m: self._copy.secret[m.group()], text) if self._names else text
        for cut in ("", self._copy.cut):
            ids, forged = self._copy.encode(self._put_back(spelled, cut))
            if not forged:
                return ids
        raise InvalidMessagesError(
            "a message has the name of a control token, and this tokenizer cannot write it as text: take it out"
        )

    def _is_plain(self, text: str) -> bool:
        return not self._normalised and re.search(self._private, text) is None

    @cached_property
    def _normalised(self) -> bool:
        """Whether other spellings become control tokens too, so that no text is plain by its looks."""
        added = self._tokenizer.added_tokens_decoder
        tokens = [added[index] for index in self._names.values()]
        normalises = self._backend is not None and self._backend.normalizer is not None
        return normalises and any(t.normalized for t in tokens)

    @property
    def _backend(self) -> Any:
        """The fast tokenizer behind it; None for one written in Python alone."""
        return getattr(self._tokenizer, "backend_tokenizer", None)

    @property
    def _copy(self) -> _Copy:
        with self._lock:
            return self._made

    @cached_property
    def _made(self) -> _Copy:
        return _Copy(self._backend, self._names)

    def _put_aside(self, match: re.Match[str]) -> str:
        found = match.group()
        return self._aside.get(found) or chr(ASIDE) + found

    def _put_back(self, text: str, cut: str) -> str:
        def back(match: re.Match[str]) -> str:
            found = match.group()
            return found[1] if len(found) == 2 else cut.join(self._back.get(found, found))

        return re.sub(f"{chr(ASIDE)}.|{self._private}", back, text, flags=re.DOTALL)


def _texts(values: Iterable[Any]) -> list[str]:
    """All texts in values, those in lists and mappings included."""
    texts, inner = list[str](), list[Any]()
    for value in values:
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, dict):
            inner += value
            inner += value.values()
        elif isinstance(value, list | tuple):
            inner += value
    return texts + _texts(inner) if inner else texts


class _Copy:
    """A tokenizer whose control tokens have secret names.

    Args:
        backend: The tokenizer.
        names: Control tokens.
    """

    def __init__(self, backend: Tokenizer, names: Mapping[str, int]):
        described = json.loads(backend.to_str())
        nonce = secrets.token_hex(8)
        self.secret = {name: f"{FENCE}{nonce}{k:x}{FENCE}" for k, name in enumerate(names)}
        self.cut = f"{FENCE}{nonce}{FENCE}"
        known = described["added_tokens"]
        added = [{**t, "content": self.secret.get(t["content"], t["content"])} for t in known]
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        added.append({"id": 0, "content": self.cut, **plain})
        described |= {"added_tokens": added, "post_processor": None, "truncation": None, "padding": None}
        self._tokenizer = Tokenizer.from_str(json.dumps(described, ensure_ascii=False))
        self._ids = np.arange(max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1, dtype=np.int64)
        for old, new in zip(known, added, strict=False):
            self._ids[self._tokenizer.token_to_id(new["content"])] = old["id"]
        self._cut = self._tokenizer.token_to_id(self.cut)
        self._marks = np.asarray([self._tokenizer.token_to_id(s) for s in self.secret.values()], np.int64)
        # What stands for unknown characters is a control token that text may well become.
        model = described["model"]
        unknown = {names.get(str(model.get("unk_token"))), model.get("unk_id")}
        self._controls = np.asarray([index for index in names.values() if index not in unknown], np.int64)

    def encode(self, text: str) -> tuple[Ints, bool]:
        """Token ids, and whether plain text among them became a control token all the same."""
        found = np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
        found = found[found != self._cut]
        ids = self._ids[found]
        return ids, bool((np.isin(ids, self._controls) & ~np.isin(found, self._marks)).any())


def _sorted(names: Iterable[str]) -> list[str]:
    return [re.escape(name) for name in sorted(names, key=len, reverse=True)]


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(_sorted(names)))
