"""What the question names, and ill-matched tokens near the prompt's end."""

from __future__ import annotations

import numpy as np

from semshare_agents.reuse.strategies.base import Candidates, Choice, SelectionStrategy

QUESTION_PART = 0.5
"""Most of the budget that goes to passages which share words with the question."""
EARLY_WEIGHT = 0.05
"""What the distance of the first candidate counts beside that of the last one, about; between them it grows squared."""


class Question(SelectionStrategy):
    """Half of the rows for whole passages that share rare words with the question, the rest by distance times place.

    An answer looks at few passages: where the question names them, computing them whole is worth more than any choice
    of single tokens. Beyond that, late tokens are attended to most, and what they read of earlier ones is in them.
    """

    name = "question"

    def choose(self, candidates: Candidates, share: float, layers: int) -> Choice:
        """See `SelectionStrategy.choose`."""
        budget = round(share * len(candidates))
        likeliest = np.argsort(-candidates.asked, kind="stable")[: round(QUESTION_PART * budget)]
        picked = np.zeros(len(candidates), np.bool_)
        picked[likeliest[candidates.asked[likeliest] > 0]] = True
        place = EARLY_WEIGHT + np.linspace(0.0, 1.0, len(candidates)) ** 2
        drift = np.where(picked, -1.0, candidates.distance * place)
        picked[np.argsort(-drift, kind="stable")[: budget - int(picked.sum())]] = True
        return Choice(candidates.rows[picked])
