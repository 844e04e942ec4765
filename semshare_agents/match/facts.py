"""Facts that differ between a prompt and the donors it was matched to.

KV of a donor that says nearly the same may hold another number, name, date or polarity, and so may the KV of all that
follows it there: later tokens attend to what a fact was, and a question's own KV holds what it once asked about. This
module finds prompt tokens whose KV may know another fact than the prompt. Doubtful KV is a miss, never an answer.

1. **Compared.** Each passage (a line, or a sentence of a long one) is laid beside the donor text that its tokens were
   matched to. It is *changed* where a fact word (`semshare_agents.match.words`) is on one side only, where the facts
   of like wording stand in another order, and where like wording has another word at all.
2. **Widened.** A changed passage is invalidated as a whole, as are the question and passages that mention, in rare
   words, what a changed passage is about.
3. **Asked for.** Rewording hides changes that no comparison of words can see, so passages that share rare words with
   the question, or have the kind of fact it asks for, are invalidated in any semantic match.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from semshare_agents.match.words import NEGATED, Text, TokenTexts, Word, read, topic, weights
from semshare_agents.values import Alignment, Ints, Kind, Reason, ReasonCode

LIKE_WORDING = 0.5
"""Share of common words from which two passages are one passage edited rather than two that resemble each other."""
SAME_WORDING = 0.8
"""The same from which the order of facts is that of who did what to whom, and not that of a retelling."""
RARE_SHARE = 0.06
"""A word is rare that is in no more than this share of the passages, or in two."""
BRIDGE_TOKENS = 96
"""The most donor text that an unmatched passage between two matches is compared with."""
MOVED_PART = 0.25
"""Part of the shares that word-for-word matches are given: their own text is right, only its context changed."""
KIND_BONUS = 1.0
"""What the kind of fact asked for is worth beside a word in common, whose worth is its log inverse frequency."""


@dataclass(frozen=True)
class FactCheck:
    """How much is computed for the sake of facts.

    Attributes:
        wary: Whether like wording is changed by any other word and any other order.
        denials: Whether loose wording is changed by another count of negations, whatever is asked; for a question
            that wants a yes or a no it always is.
        mention_share: Share of the prompt that passages which mention a changed one may take.
        question_share: Share of the prompt that passages which the question asks for may take.
        most_changed: Share of the prompt in changed passages above which semantic matches are refused.
    """

    wary: bool = True
    denials: bool = True
    mention_share: float = 0.15
    question_share: float = 0.3
    most_changed: float = 0.6


FACT_CHECKS: dict[str, FactCheck | None] = {
    "strict": FactCheck(most_changed=0.0),
    "balanced": FactCheck(wary=False, denials=False, mention_share=0.1, question_share=0.2, most_changed=0.0),
    "fast": None,
}
"""Protection by name, most first. `strict` and `balanced` refuse semantic matches as soon as one passage is changed:
what follows an old fact knows it, and computing the passages that say so is not enough to keep every answer fresh."""


@dataclass(frozen=True)
class Invalidated:
    """What must not be served from a donor.

    Attributes:
        tokens: Doubtful prompt positions, ascending, shape `(invalidated,)`.
        changed: Share of the prompt in passages whose facts differ, in [0, 1].
    """

    tokens: Ints
    changed: float


def facts_checked(
    prompt: Ints, alignment: Alignment, question_tokens: int, texts: TokenTexts, check: FactCheck
) -> Alignment:
    """An alignment that marks what is invalidated, and that has no semantic matches where too much is.

    Args:
        prompt: Token ids, shape `(tokens,)`.
        alignment: What was matched.
        question_tokens: Tokens at the prompt's end that hold the question.
        texts: The tokens' texts.
        check: How much protection.
    """
    doubt = find_invalidated(prompt, alignment, question_tokens, texts, check)
    semantic = alignment.kind == Kind.SEMANTIC
    if doubt.changed > check.most_changed and semantic.any():
        kind, donor, source = alignment.kind.copy(), alignment.donor.copy(), alignment.source.copy()
        kind[semantic], donor[semantic], source[semantic] = Kind.COMPUTED, -1, -1
        why = f"facts or wording differ from the most similar turn in {doubt.changed:.0%} of the prompt"
        refused = Reason(ReasonCode.FACTS, why)
        alignment = replace(alignment, kind=kind, donor=donor, source=source, refused=refused)
    return replace(alignment, invalidated=doubt.tokens)


def find_invalidated(
    prompt: Ints, alignment: Alignment, question_tokens: int, texts: TokenTexts, check: FactCheck
) -> Invalidated:
    """Prompt tokens whose matched KV may know another fact; arguments as in `facts_checked`.

    Time is linear in the prompt and its donors.
    """
    tokens = len(prompt)
    reused = (alignment.kind == Kind.MOVED) | (alignment.kind == Kind.SEMANTIC)
    mask = np.zeros(tokens, np.bool_)
    if not reused.any() or _one_text(alignment):
        return Invalidated(np.zeros(0, np.int64), 0.0)
    text = read(texts.of(prompt))
    asked = text.passage(max(0, tokens - question_tokens))
    question = text.inside(asked, len(text.starts) - 1)
    changed = _changed(prompt, text, alignment, texts, replace(check, denials=check.denials or _yes_or_no(question)))
    semantic = bool((alignment.kind == Kind.SEMANTIC).any())
    for index in changed:
        mask[text.starts[index] : text.starts[index + 1]] = True
    share = float(mask.mean())
    if changed or semantic:
        spread = _Spread(text, reused, mask)
        part = 1.0 if semantic else MOVED_PART
        weight = weights(text)
        if changed:
            mask[int(text.starts[asked]) :] = True
            about = {w.stem for i in changed for w in topic(text.inside(i, i + 1)) if _is_rare(w.stem, weight)}
            spread.take(range(changed[0] + 1, asked), about, weight, part * check.mention_share)
        wanted = {w.stem for w in topic(question)}
        begin = 0 if semantic else changed[0]
        spread.take(range(begin, asked), wanted, weight, part * check.question_share, _kind_asked(question))
    return Invalidated(np.flatnonzero(mask & reused), share)


def _one_text(alignment: Alignment) -> bool:
    """Whether all that is matched is one equal span, so that nothing was replaced inside of it."""
    at = np.flatnonzero(alignment.kind != Kind.COMPUTED)
    one_place = np.ptp(alignment.source[at] - at) == 0 and np.ptp(alignment.donor[at]) == 0
    equal = bool((alignment.kind[at] != Kind.SEMANTIC).all())
    return bool(one_place and equal and at[-1] - at[0] + 1 == len(at))


# --- passages against their donor's


def _changed(prompt: Ints, text: Text, alignment: Alignment, texts: TokenTexts, check: FactCheck) -> list[int]:
    """Passages whose facts differ from those of the donor text they were matched to."""
    others: dict[int, Text] = {}
    usual = _usual(text)
    changed = []
    for index in range(len(text.starts) - 1):
        a, b = int(text.starts[index]), int(text.starts[index + 1])
        place = _beside(alignment, a, b)
        if place is None:
            continue
        donor, low, high, surely_low, surely_high = place
        tokens = alignment.donors[donor].tokens
        if low >= 0 and high - low + 1 == b - a and np.array_equal(tokens[low : high + 1], prompt[a:b]):
            continue
        if donor not in others:
            others[donor] = read(texts.of(tokens))
        other = others[donor]
        low = max(low, int(other.starts[other.passage(surely_low)]))
        high = min(high, int(other.starts[other.passage(surely_high) + 1]) - 1)
        loose = usual if (alignment.kind[a:b] == Kind.SEMANTIC).any() else None
        if _differs(text.inside(index, index + 1), other, low, high, check, loose):
            changed.append(index)
    return changed


def _beside(alignment: Alignment, a: int, b: int) -> tuple[int, int, int, int, int] | None:
    """The donor text beside the passage `[a, b)`; None where the passage is exact or wholly new.

    Returns:
        The donor, the first and last position that may be beside the passage, the first and last that surely are.
    """
    kinds = alignment.kind[a:b]
    if (kinds == Kind.EXACT).all():
        return None
    at = a + np.flatnonzero(kinds != Kind.COMPUTED)
    if not len(at):
        return _bridge(alignment, a, b)
    donor = int(np.bincount(alignment.donor[at]).argmax())
    mine = at[alignment.donor[at] == donor]
    sources = np.sort(alignment.source[mine])
    if (alignment.kind[mine] == Kind.SEMANTIC).any():
        # A path of matches may run a token or two into its neighbours.
        slack = len(sources) // 10
        sources = sources[slack : len(sources) - slack]
    low, high = int(sources[0]), int(sources[-1])
    if high - low > 4 * (b - a) + BRIDGE_TOKENS:
        return None
    # What precedes the first match and follows the last one in equal measure is beside it, too.
    return donor, low - int(mine[0] - a), high + int(b - 1 - mine[-1]), low, high


def _bridge(alignment: Alignment, a: int, b: int) -> tuple[int, int, int, int, int] | None:
    """What a donor has between the matches before and after an unmatched passage."""
    matched = alignment.kind != Kind.COMPUTED
    before, after = np.flatnonzero(matched[:a])[-1:], b + np.flatnonzero(matched[b:])[:1]
    if not len(before) or not len(after):
        return None
    i, j = int(before[0]), int(after[0])
    donor = int(alignment.donor[j])
    tokens = alignment.donors[donor].tokens
    if alignment.donor[i] != donor and not (alignment.kind[i] == Kind.EXACT and alignment.source[j] > i):
        return None
    low, high = int(alignment.source[i]) + 1, int(alignment.source[j]) - 1
    return (donor, low, high, low, high) if 0 <= high - low < BRIDGE_TOKENS and high < len(tokens) else None


def _differs(mine: Sequence[Word], other: Text, low: int, high: int, check: FactCheck, usual: set[str] | None) -> bool:
    """Whether a passage's facts differ from those of the donor text `[low, high]`.

    What the prompt says must be in the donor's passages around that text, and what the text says in the prompt: so
    passages that are cut differently agree.

    Args:
        mine: Words of the passage.
        other: The donor's text.
        low: First donor position beside the passage.
        high: Last donor position beside the passage.
        check: How much protection.
        usual: Words so frequent that loose wording adds and drops them at will, as it does with the names of those
            who speak; None where unlike wording is no match at all.
    """
    near = [w for w in other.inside(other.passage(low), other.passage(high) + 1) if low <= w.first <= high]
    wide = other.inside(other.passage(low), other.passage(high) + 1)
    alike = _alike(mine, near)
    if alike < LIKE_WORDING:
        if usual is None:
            return False
        denied = check.denials and _negations(mine) != _negations(near)
        told, were = ([w for w in words if w.hard and w.text not in usual] for words in (mine, near))
        return denied or _missing(told, wide) or _missing(were, mine)
    if _negations(mine) > _negations(wide) or _negations(near) > _negations(mine):
        return True
    told, were = ([w for w in words if w.fact or check.wary] for words in (mine, near))
    if _missing(told, wide) or _missing([w for w in were if w.hard or check.wary], mine):
        return True
    return (check.wary or alike >= SAME_WORDING) and _in_order(told, near) != _in_order(were, mine)


def _usual(text: Text) -> set[str]:
    """Words that are in many passages."""
    count = len(text.starts) - 1
    seen = Counter(word for i in range(count) for word in {w.text for w in text.inside(i, i + 1)})
    return {word for word, n in seen.items() if n > max(2, 2 * RARE_SHARE * count)}


def _alike(a: Sequence[Word], b: Sequence[Word]) -> float:
    common = Counter(w.text for w in a) & Counter(w.text for w in b)
    return sum(common.values()) / max(len(a), len(b), 1)


def _negations(words: Sequence[Word]) -> int:
    return sum(w.text == NEGATED for w in words)


def _missing(these: Sequence[Word], those: Sequence[Word]) -> bool:
    """Whether a word of `these` is not among `those`."""
    there = {w.text for w in those}
    return any(w.text not in there for w in these)


def _in_order(these: Sequence[Word], those: Sequence[Word]) -> list[str]:
    there = {w.text for w in those}
    return [w.text for w in these if w.text in there]


# --- what depends on it


def _is_rare(stem: str, weight: dict[str, float]) -> bool:
    """Whether a stem is in few passages."""
    passages = math.exp(max(weight.values()))
    return passages / math.exp(weight[stem]) <= max(2.5, RARE_SHARE * passages)


COUNTED = frozenset({"many", "much", "long", "often", "far", "old", "big", "tall", "heavy", "cost", "percent", "1"})
ASKING = frozenset({"who", "whom", "whose", "what", "which", "when", "where", "why", "how"})
DATED = frozenset({"when", "day", "date", "month", "year", "week", "time"})


def _yes_or_no(question: Sequence[Word]) -> bool:
    """Whether a question wants a yes or a no: it has no question word."""
    return not ASKING & {w.text for w in question}


def _kind_asked(question: Sequence[Word]) -> str:
    """`number` where a number or a date is asked for, `name` for a person, empty for anything else."""
    said = {w.text for w in question}
    if ("how" in said and said & COUNTED) or "when" in said or ({"which", "what"} & said and said & DATED):
        return "number"
    return "name" if said & {"who", "whose", "whom", "name", "named", "called"} else ""


class _Spread:
    """Marks passages that share words with something, those that share most first, within a share of the prompt."""

    def __init__(self, text: Text, reused: NDArray[np.bool_], mask: NDArray[np.bool_]):
        self._text, self._reused, self._mask = text, reused, mask

    def take(
        self, passages: Iterable[int], stems: set[str], weight: dict[str, float], share: float, kind: str = ""
    ) -> None:
        """Mark passages.

        Args:
            passages: Those that may be marked.
            stems: What they should share.
            weight: What each stem is worth.
            share: Share of the prompt that may be marked now.
            kind: See `_kind_asked`.
        """
        text, scored = self._text, []
        for index in passages:
            words = text.inside(index, index + 1)
            score = sum(weight[stem] for stem in stems & {w.stem for w in words})
            if kind and any(w.fact and (w.text[0].isdigit() == (kind == "number")) for w in words):
                score += KIND_BONUS * bool(score)
            if score > 0:
                scored.append((-score, index))
        budget = share * len(self._mask)
        for _, index in sorted(scored):
            here = slice(int(text.starts[index]), int(text.starts[index + 1]))
            cost = int((self._reused[here] & ~self._mask[here]).sum())
            if cost <= budget:
                self._mask[here] = True
                budget -= cost
