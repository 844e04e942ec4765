"""Past texts of all tenants, as the registry has them, and what steps with drafts cost."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Protocol

from semshare_agents.concurrency import threads
from semshare_agents.drafts.past import PastText
from semshare_agents.drafts.price import StepPrice
from semshare_agents.errors import RegistryError
from semshare_agents.values import Ints, Scope

log = logging.getLogger(__name__)

MOST_BYTES = 64 * 1024**2
"""Bytes of all tenants' texts; those of who was away longest go first, and are read again when they are back."""
READ_TOKENS = 1_000_000
"""Tokens of a tenant's newest turns that are read at once; turns of a chat share most of them."""

Key = tuple[str, str, int]


class Turns(Protocol):
    """Reads past turns; the registry does."""

    async def newer_tokens(self, scope: Scope, after: int, most_tokens: int) -> list[tuple[int, Ints]]:
        """A scope's own turns after one, the newest ones within a bound, oldest first, with their tokens."""
        ...


class Drafts:
    """What drafts come from. All methods belong on the event loop's thread.

    A tenant's text is read from the registry when a turn needs it, and after every turn; what the registry forgets goes
    at once in this process, and in others with the next turn of anybody, as the KV does.

    Args:
        turns: Past turns.
        price: What steps take.
        most_bytes: Bound of all texts.
    """

    def __init__(self, turns: Turns, price: StepPrice, most_bytes: int = MOST_BYTES):
        self.price = price
        self._turns = turns
        self._most_bytes = most_bytes
        self._texts: OrderedDict[Key, PastText] = OrderedDict()
        self._reading: dict[PastText, asyncio.Task[None]] = {}
        self._forgets = 0

    def past(self, scope: Scope) -> PastText:
        """The text of a scope's own past turns, as far as it is read; the rest is read from now on."""
        if scope.forgets > self._forgets:
            self._forgets = scope.forgets
            self._drop(list(self._texts))
        if not scope.id:
            return PastText()  # a tenant of whom nothing is stored
        key = scope.tenant, scope.fingerprint, scope.id
        text = self._texts.setdefault(key, PastText())
        self._texts.move_to_end(key)
        if text not in self._reading:
            self._reading[text] = asyncio.create_task(self._read(scope, text))
            self._reading[text].add_done_callback(lambda _: self._reading.pop(text))
        return text

    def forget(self, tenant: str) -> None:
        """Give up what is known of a tenant: some of it was forgotten. What stays is read again."""
        self._drop([key for key in self._texts if key[0] == tenant])

    async def settle(self) -> None:
        """Wait until what is being read is there."""
        while self._reading:
            await asyncio.wait(list(self._reading.values()))

    async def aclose(self) -> None:
        """Give up everything."""
        self._drop(list(self._texts))
        await self.settle()

    async def _read(self, scope: Scope, text: PastText) -> None:
        try:
            while found := await self._turns.newer_tokens(scope, text.newest, READ_TOKENS):
                await threads.store(_add, text, found)
                if text.forgotten:
                    return
        except RegistryError as e:
            log.warning("drafts do without past turns: %s", e)
        while len(self._texts) > 1 and sum(each.nbytes for each in self._texts.values()) > self._most_bytes:
            self._drop([next(iter(self._texts))])

    def _drop(self, keys: list[Key]) -> None:
        for key in keys:
            self._texts.pop(key).forget()


def _add(text: PastText, turns: list[tuple[int, Ints]]) -> None:
    for turn_id, tokens in turns:
        text.add(turn_id, tokens)
