"""A constraint that leaves an answer free until a call begins in it, and holds the call to its grammar from there on.

Text, thoughts and code blocks are not part of any grammar: what is no call is drawn as it would be without tools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from semshare_agents.constrain.constraint import Grammatical

if TYPE_CHECKING:
    import torch


class Text(Protocol):
    """Turns tokens into text; `semshare_agents.model.text.TextStream` is one."""

    def push(self, token: int) -> str:
        """Add a token; returns what is new of the text."""
        ...


class Free(Protocol):
    """Finds where a call begins; `semshare_agents.tools.drafts.FreeText` is one."""

    @property
    def rest(self) -> str:
        """What follows a call's trigger."""
        ...

    def push(self, text: str) -> tuple[str, bool]:
        """Go on; the second value says whether a call begins."""
        ...

    def ended(self) -> None:
        """What seemed to be a call is none."""
        ...


class UntilCalled:
    """See `Constraint`.

    Args:
        text: Turns tokens into text.
        free: Finds where a call begins.
        grammars: Make fresh constraints for what follows the trigger; the first one that allows it is used.
        encode: Token ids of a text.
    """

    def __init__(
        self,
        text: Text,
        free: Free,
        grammars: Iterable[Callable[[], Grammatical]],
        encode: Callable[[str], Sequence[int]],
    ):
        self._text = text
        self._free = free
        self._grammars = tuple(grammars)
        self._encode = encode
        self._held: Grammatical | None = None

    @property
    def complete(self) -> bool:
        """See `Constraint.complete`."""
        return self._held is not None and self._held.complete

    def narrow(self, logits: torch.Tensor) -> torch.Tensor:
        """See `Constraint.narrow`."""
        return logits if self._held is None else self._held.narrow(logits)

    def accept(self, token: int) -> None:
        """See `Constraint.accept`."""
        if self._held is not None:
            self._held.accept(token)
            return
        _, called = self._free.push(self._text.push(token))
        while called and self._held is None:
            rest = self._free.rest
            self._held = self._holding(rest)
            if self._held is None:
                # Nothing that a tool could be called with: it is text, in which a call may still begin.
                self._free.ended()
                _, called = self._free.push(rest)

    def possible(self, tokens: Sequence[int]) -> int:
        """See `Constraint.possible`: in free text, all."""
        return len(tokens) if self._held is None else self._held.possible(tokens)

    def _holding(self, rest: str) -> Grammatical | None:
        begun = self._encode(rest) if rest else ()
        for made in self._grammars:
            held = made()
            if held.began(begun):
                return held
        return None
