"""Drafts of one answer: proposed before a step, verified by what is drawn after it.

A token is drawn from each row as it would be without drafts. Where it is the drafted one, the row that follows is
computed already; where it is not, the rest of the draft is nothing. So the answer is the same, whatever is drafted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import takewhile

import torch

from semshare_agents.concurrency import threads
from semshare_agents.drafts import Drafts, LiveText, Match
from semshare_agents.drafts.length import Acceptance, draft_length
from semshare_agents.errors import SemShareError
from semshare_agents.model.run import DEFERRED_STEP_ROWS, Step
from semshare_agents.reuse.certain import uncertain
from semshare_agents.timing.delays import Timed
from semshare_agents.turn.decode import Answer, Decoder
from semshare_agents.turn.state import NOWHERE, Prefilled

MOST_DRAFTED = 31
"""Tokens drafted in one step: 32 rows with the one that was drawn."""


class Drafting:
    """Proposes and verifies; `draw` belongs on the engine's thread, all else on the event loop's.

    Args:
        drafts: Where drafts come from; None for no drafts.
        prefilled: The turn.
        answer: What grows.
        end_tokens: What ends it; nothing is computed after these.

    Attributes:
        row: What the next token is drawn from, `(vocabulary,)`, where it is computed already; else None.
    """

    def __init__(self, drafts: Drafts | None, prefilled: Prefilled, answer: Answer, end_tokens: Collection[int]):
        self._drafts = drafts if prefilled.run.by_rows is not None else None
        self._prefilled = prefilled
        self._answer = answer
        self.row: torch.Tensor | None = None
        self._end_tokens = end_tokens
        self._acceptance = Acceptance()
        self._read = 0
        self._match: Match | None = None
        """What the last look-up found; its first token was drafted or would have been."""
        self._drafted: Sequence[int] = ()
        """Of the last step, what is not verified yet."""
        self._logits: torch.Tensor | None = None
        self._failed: SemShareError | None = None
        self._verified = 0
        """How many of the last step's drafted tokens were drawn."""
        if self._drafts is not None:
            self._live = LiveText(prefilled.prompt, prefilled.asked.room_tokens)
            self._past = None if prefilled.scope is NOWHERE else self._drafts.past(prefilled.scope)

    def draw(self, decoder: Decoder, logits: torch.Tensor, spreads: float) -> list[str]:
        """Draw a token, and those after it whose rows were drafted right; returns text that became certain with each.

        Args:
            decoder: Lets the answer grow.
            logits: What the first is drawn from, shape `(vocabulary,)`.
            spreads: From which lead on, in the run's spreads, later ones are taken as they are.

        Raises:
            InvalidSchemaError: the answer cannot be held to its constraint.
        """
        if self._failed is not None:
            raise self._failed
        pieces, sampler = [decoder.draw(logits)], self._prefilled.asked.sampler
        self.row = self._verified_row()
        try:
            while self.row is not None and not uncertain(self._prefilled.run, sampler, self.row, spreads):
                pieces.append(decoder.draw(self.row))
                self.row = self._verified_row()
        except SemShareError as e:
            self._failed = e  # what was drawn before is handed out before
        return pieces

    def _verified_row(self) -> torch.Tensor | None:
        """The row after the token drawn last, where it was drafted and the answer goes on."""
        if self._answer.finish_reason:
            return None
        token, match, at = self._answer.tokens[-1], self._match, self._verified
        if match is not None and at < len(match.tokens):
            self._acceptance.saw(match.length + at, bool(match.tokens[at] == token))
        if not self._drafted or self._drafted[0] != token or self._logits is None:
            self._discard()
            return None
        rows = self._prefilled.run.by_rows
        assert rows is not None
        rows.accept()
        self._answer.accepted_tokens += 1
        self._drafted, self._verified = self._drafted[1:], at + 1
        return self._logits[-1 - len(self._drafted)]

    def settled(self, as_computed: bool) -> None:
        """The row that is drawn from next was computed again where `as_computed` is false: later ones saw other KV."""
        if not as_computed:
            self._discard()

    def _discard(self) -> None:
        self._drafted, self._logits, self._match = (), None, None

    async def proposed(self, repair_rows: int) -> Sequence[int]:
        """What the next step carries beside the token drawn last.

        Args:
            repair_rows: Rows behind the exact frontier that a step carries for each token.
        """
        if self._drafts is None:
            return ()
        for token in self._answer.tokens[self._read :]:
            self._live.append(token)
        self._read = len(self._answer.tokens)
        self._match = await threads.work(self._looked_up)
        self._verified = 0
        if self._match is None:
            return ()
        length = self._length(self._match, min(self._most(repair_rows), len(self._match.tokens)), repair_rows)
        drafted: list[int] = self._match.tokens[:length].tolist()
        drafted = list(takewhile(lambda token: token not in self._end_tokens, drafted))
        return drafted[: self._prefilled.asked.sampler.possible(drafted)] if drafted else ()

    def computed(self, step: Step, took: Timed[torch.Tensor]) -> torch.Tensor:
        """A step was computed; returns what the next token is drawn from, `(vocabulary,)`."""
        logits = took.result
        if self._drafts is not None:
            if not took.shared:  # else it tells nothing of what these rows take
                self._drafts.price.saw(len(step.rows), step.length - 1, took.seconds)
            self._drafted, self._logits = step.token_ids[len(step.rows) - step.logits + 1 :].tolist(), logits
            self._answer.drafted_tokens += len(self._drafted)
        return logits[-step.logits]

    def _looked_up(self) -> Match | None:
        """The longer one of what the conversation and past turns have; the conversation's where both are as long."""
        live = self._live.longest(MOST_DRAFTED)
        past = None if self._past is None else self._past.longest(self._live.context, MOST_DRAFTED)
        return max((live, past), key=lambda match: 0 if match is None else match.length)

    def _most(self, repair_rows: int) -> int:
        """How many tokens may be drafted: none whose row could not be drawn from, or that repair would fall behind."""
        rows, room = self._prefilled.run.by_rows, self._prefilled.asked.room_tokens
        most = min(MOST_DRAFTED, room - len(self._answer.tokens) - 1)
        if rows is None or len(rows.deferred):
            return 0
        if rows.exact < rows.length:
            # Every token brings its part of the repair, so that none is drawn sooner than it would be.
            limit = 0 if rows.hurried else DEFERRED_STEP_ROWS // max(repair_rows, 1) - 1
            most = min(most, limit)
        return max(0, most)

    def _length(self, match: Match, most: int, repair_rows: int) -> int:
        assert self._drafts is not None
        price, rows = self._drafts.price, 1 + repair_rows
        if price.doubtful(rows):
            return 0  # what drafts are worth is not known without it
        seconds = price.after(self._prefilled.run.length)
        return draft_length(match.length, most, self._acceptance, lambda drafted: seconds((1 + drafted) * rows))
