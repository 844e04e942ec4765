"""Align: for every prompt position its kind, donor and source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from semshare_agents.match import tokens as lsh
from semshare_agents.match.find import Found
from semshare_agents.match.matchers import Matcher, along_path
from semshare_agents.match.spans import find_spans
from semshare_agents.values import Alignment, Donor, Floats, Ints, Kind, Reason, ReasonCode
from semshare_agents.values.reason import NOTHING_STORED

LEAST_REGION_TOKENS = 96
LEAST_ANCHORS = 8
LEAST_ANCHOR_SHARE = 0.015
"""Anchors a token. Retold conversations had 0.024 and more in a trial, unrelated ones 0.010 and less."""
RANDOM_DISTANCE = 0.5
"""LSH distance of unrelated embeddings: random bits agree half the time."""
REJECT_DISTANCE = 0.47
"""Matches further apart than this are no better than random and are computed."""


def align(prompt: Ints, found: Found, least_tokens: int) -> Alignment:
    """Lay a prompt over what equal text was found for it.

    Args:
        prompt: Token ids, shape `(tokens,)`.
        found: Donors and hits.
        least_tokens: Shorter moved spans are ignored.
    """
    empty = Alignment.empty(len(prompt))
    donors = list(found.donors)
    if found.exact is not None and all(d.turn_id != found.exact.turn_id for d in donors):
        donors.append(found.exact)
    kind, donor, source = empty.kind.copy(), empty.donor.copy(), empty.source.copy()
    if found.exact is not None:
        index = next(i for i, d in enumerate(donors) if d.turn_id == found.exact.turn_id)
        kind[: found.exact_tokens] = Kind.EXACT
        donor[: found.exact_tokens] = index
        source[: found.exact_tokens] = np.arange(found.exact_tokens)
    for span in find_spans(prompt, found.exact_tokens, donors, found.hits, least_tokens):
        here = slice(span.start, span.end)
        kind[here], donor[here] = Kind.MOVED, span.donor
        source[here] = np.arange(span.source, span.source + span.length)
    return replace(empty, kind=kind, donor=donor, source=source, donors=tuple(donors))


def unmatched_regions(alignment: Alignment, question_tokens: int) -> list[tuple[int, int]]:
    """Ranges `(start, end)` of unmatched tokens that are long enough for semantic matching.

    Args:
        alignment: What equal text was found.
        question_tokens: Tokens at the prompt's end that must be taken as they are: another question's KV in the place
            of this one's costs more fidelity than all other semantic matches together.
    """
    free = np.concatenate(([False], alignment.kind == Kind.COMPUTED, [False]))
    free[max(0, len(alignment) - question_tokens) + 1 :] = False
    edges = np.flatnonzero(np.diff(free))
    regions = [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return [(a, b) for a, b in regions if b - a >= LEAST_REGION_TOKENS]


def align_semantic(
    prompt: Ints,
    alignment: Alignment,
    regions: Sequence[tuple[int, int]],
    candidates: Sequence[Donor],
    codes: lsh.TokenCodes,
    threshold: float,
    matcher: Matcher = along_path,
) -> Alignment:
    """Match what is still unmatched to the donor that says it most alike.

    Donor similarity is the paper's `clip(1 - d / d_max, 0, 1)` with `d` the mean LSH distance of the matched tokens and
    `d_max` that of unrelated ones.

    Args:
        prompt: Token ids, shape `(tokens,)`.
        alignment: What equal text was found.
        regions: Unmatched ranges, from `unmatched_regions`.
        candidates: Donors by signature.
        codes: The model's token codes.
        threshold: Least donor similarity.
        matcher: Gives each token of a region its reference token.

    Returns:
        The alignment with semantic matches added; `similarity` is the best donor's even where it is too low.
    """
    if not regions or not candidates:
        return alignment
    donor = max(candidates, key=lambda d: _shared(prompt, regions, d))
    matches = [_match_region(prompt[a:b], a, donor, codes, matcher) for a, b in regions]
    matched = [(region, m) for region, m in zip(regions, matches, strict=True) if m is not None]
    if not matched:
        return alignment
    mean = float(np.mean(np.concatenate([distance for _, (_, distance) in matched])))
    similarity = float(np.clip(1.0 - mean / RANDOM_DISTANCE, 0.0, 1.0))
    if similarity < threshold:
        return replace(alignment, similarity=similarity)
    donors = (*alignment.donors, replace(donor, similarity=similarity))
    kind, who = alignment.kind.copy(), alignment.donor.copy()
    source, far = alignment.source.copy(), alignment.distance.copy()
    for (a, b), (where, distance) in matched:
        usable = (distance < REJECT_DISTANCE) & donor.stored()[where]
        at = np.arange(a, b)[usable]
        kind[at], who[at], source[at], far[at] = Kind.SEMANTIC, len(donors) - 1, where[usable], distance[usable]
    return Alignment(kind, who, source, far, donors, similarity)


def why_unlike(
    alignment: Alignment, regions: Sequence[tuple[int, int]], candidates: Sequence[Donor], threshold: float
) -> Reason:
    """Why nothing of a prompt was matched to text that says much the same.

    Args:
        alignment: What `align_semantic` gave, without semantic matches.
        regions: Unmatched ranges, from `unmatched_regions`.
        candidates: Donors by signature.
        threshold: Least donor similarity.
    """
    if not regions:
        left = f"nothing is left for semantic reuse: before the question no {LEAST_REGION_TOKENS} tokens match nothing"
        return Reason(ReasonCode.NOTHING_LEFT, left)
    if not candidates and not (alignment.kind != Kind.COMPUTED).any():
        return NOTHING_STORED
    if not candidates:
        why = "no stored turn resembles what matches nothing word for word"
    elif not alignment.similarity:
        why = "the likeliest turn has too little in common with what matches nothing word for word"
    elif alignment.similarity < threshold:
        why = f"the most similar turn has similarity {alignment.similarity:.2f}, below the threshold of {threshold:g}"
    else:
        why = "no token of the most similar turn is both stored and near enough"
    return Reason(ReasonCode.NOT_SIMILAR, why)


def _shared(prompt: Ints, regions: Sequence[tuple[int, int]], donor: Donor) -> int:
    return sum(len(lsh.anchors(prompt[a:b], donor.tokens)) for a, b in regions)


def _match_region(
    part: Ints, start: int, donor: Donor, codes: lsh.TokenCodes, matcher: Matcher
) -> tuple[Ints, Floats] | None:
    """Source positions and distances of a region's tokens, or None where the donor has nothing like it."""
    fixed = lsh.anchors(part, donor.tokens)
    if len(fixed) < max(LEAST_ANCHORS, LEAST_ANCHOR_SHARE * len(part)):
        return None
    return matcher(codes, part, start, donor.tokens, fixed)
