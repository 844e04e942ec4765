"""The reuse map covers the prompt, says of every token what the alignment says, and survives being stored."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from semshare_agents.values import Alignment, Donor, Kind
from semshare_agents.values.reuse_map import SEMANTIC_JUMP, packed, spans_of, unpacked

TURNS = (11, 7, 30)
rows = st.lists(st.tuples(st.sampled_from(list(Kind)), st.integers(0, 2), st.integers(0, 60)), min_size=0, max_size=60)


def alignment_of(drawn: list[tuple[Kind, int, int]]) -> Alignment:
    used = [kind is not Kind.COMPUTED for kind, _, _ in drawn]
    return Alignment(
        kind=np.asarray([k for k, _, _ in drawn], np.uint8),
        donor=np.asarray([d if u else -1 for u, (_, d, _) in zip(used, drawn, strict=True)], np.int64),
        source=np.asarray([s if u else -1 for u, (_, _, s) in zip(used, drawn, strict=True)], np.int64),
        distance=np.full(len(drawn), 0.25, np.float32),
        donors=tuple(Donor(i, np.zeros(61, np.int64), (), 61) for i in TURNS),
    )


@given(rows)
def test_every_token_is_told_once_and_truly(drawn: list[tuple[Kind, int, int]]) -> None:
    alignment = alignment_of(drawn)
    spans = spans_of(alignment, alignment.kind)
    at = 0
    for span in spans:
        assert span.start == at
        for i in range(at, at + span.length):
            kind, donor, source = drawn[i]
            assert span.kind is kind
            if kind is Kind.COMPUTED:
                assert span.donor_turn is None
                continue
            assert span.donor_turn == TURNS[donor]
            assert span.donor_start is not None
            slack = SEMANTIC_JUMP * (i - at) if kind is Kind.SEMANTIC else 0
            assert abs(span.donor_start + (i - at) - source) <= slack
        at += span.length
    assert at == len(drawn)


@given(rows)
def test_stored_and_read_again(drawn: list[tuple[Kind, int, int]]) -> None:
    spans = spans_of(alignment_of(drawn), alignment_of(drawn).kind)
    assert unpacked(json.loads(json.dumps(packed(spans)))) == spans


def test_rows_computed_again_count_as_computed() -> None:
    alignment = alignment_of([(Kind.EXACT, 0, i) for i in range(8)])
    kinds = alignment.kind.copy()
    kinds[6:] = Kind.COMPUTED
    assert packed(spans_of(alignment, kinds)) == [[6, 1, 11, 0], [2, 0]]
