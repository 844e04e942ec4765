"""Several answers to one prompt."""

from __future__ import annotations

from dataclasses import replace

from semshare_agents.request.request import Request
from semshare_agents.turn.state import Asked, Prefilled


def again(request: Request) -> Request:
    """The request of the next answer, drawn with a seed of its own where there is one.

    It is not stored: nobody knows which answer is gone on from, and the prompt is stored with the first.
    """
    seed = request.sampling.seed
    sampling = request.sampling if seed is None else replace(request.sampling, seed=seed + 1)
    return replace(request, sampling=sampling, store=False, choices=1)


def rewound(prefilled: Prefilled) -> bool:
    """Take a run back to the prompt's end; false where it cannot go back, and is closed."""
    run, prompt = prefilled.run.by_rows, prefilled.prompt
    if run is None:
        prefilled.run.close()
        return False
    run.continue_from(prompt, min(run.exact, len(prompt)))
    return True


def once_more(prefilled: Prefilled, asked: Asked) -> Prefilled:
    """A prompt whose KV is complete, for another answer."""
    matched = prefilled.filled.matched
    admitted = replace(matched.admitted, request=asked.request, probed=())
    filled = replace(prefilled.filled, matched=replace(matched, asked=asked, admitted=admitted))
    return Prefilled(filled, prefilled.run, prefilled.report, prefilled.clock, prefilled.turn, begun=True)
