"""The words of a token sequence, and which of them state facts.

Facts are told by the look of a word wherever a language allows it: digits, capitals inside a sentence, symbols of
currencies. Number words, dates, units and polarity are short closed lists.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from semshare_agents.values import Ints

PASSAGE_TOKENS = 48
"""A line longer than this is cut where its next sentence ends."""
STEM_LETTERS = 5

WORD = re.compile(r"\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*|[$€£¥%°]")
SENTENCE_END = re.compile(r"[.!?。！？]['\"”’)\]]*\s*$")
OPENS_SENTENCE = frozenset('.!?:;\n"“”(-–—*>|[]。！？')


def _ordered(words: str) -> list[str]:
    return words.split()


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


UNITS = _ordered(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
TENS = _ordered("twenty thirty forty fifty sixty seventy eighty ninety")
NUMBERS = {word: str(i) for i, word in enumerate(UNITS)} | {word: str(20 + 10 * i) for i, word in enumerate(TENS)}
NUMBERS |= {"once": "1", "twice": "2", "thrice": "3", "dozen": "12", "hundred": "100", "thousand": "1000"}
NUMBERS |= {"first": "1", "third": "3", "fourth": "4", "fifth": "5", "million": "1000000"}
NUMBERS |= {"half": "half", "quarter": "quarter", "double": "double", "both": "both", "single": "single"}
NEGATIONS = _listed(
    "no not never none nobody nothing nowhere neither nor without cannot hardly barely scarcely rarely seldom "
    "nicht kein keine keinen nie niemals ohne ne pas jamais sans nunca jamás sin ningún mai senza niet geen "
    "nooit"
)
POLARITY = _listed(
    "yes true false before after more less most least always only above below under open "
    "closed won lost win lose accepted rejected approved refused allowed forbidden agreed declined increase decrease "
    "increased decreased rose fell gained early late earlier later older younger bigger smaller higher lower cheaper "
    "dearer hot cold alive dead married divorced guilty innocent passed failed male female"
)
DATES = _listed(
    "january february march april may june july august september october november december monday tuesday wednesday "
    "thursday friday saturday sunday mondays tuesdays wednesdays thursdays fridays saturdays sundays weekend weekends "
    "christmas easter"
)
MEASURES = _listed(
    "today tomorrow yesterday tonight morning afternoon evening noon midnight spring summer autumn winter "
    "second seconds minute minutes hour hours day days week weeks month months year years decade decades century "
    "daily weekly monthly yearly euro euros dollar dollars pound pounds cent cents yen franc francs metre metres meter "
    "meters kilometre kilometres kilometer kilometers mile miles foot feet inch inches gram grams kilogram kilograms "
    "kilo kilos ton tons tonne tonnes litre litres liter liters gallon gallons degree degrees percent cm mm km kg mg "
    "ml pm celsius fahrenheit"
)
COMMON = _listed(
    "the a an and or but of to in on at by for with from as is are was were be been being am do does did has have had "
    "it its this that these those there here he she they we you i me my your his her their our us them him so if then "
    "than too very can could will would shall should may might must just also about into out up down who what which "
    "when where why how whose whom answer say sentence please one some any all each"
)
NEGATED = "¬"
VAGUE = frozenset({"one", "once", "first", "second", "half", "both", "single", "double", "quarter"})
"""Number words that mostly say something else."""


@dataclass(frozen=True)
class Word:
    """A word of a text.

    Attributes:
        text: Its normal form: lower case, numbers as digits, negations all alike.
        stem: Its first letters, which most of its inflections share.
        first: Its first token.
        end: Past its last token.
        fact: Whether it states a fact: a number, date, unit or name, a polarity or a negation.
        hard: Whether rewording would leave it as it is: a number, date or name.
        common: Whether it is a function word that says nothing about the topic.
    """

    text: str
    stem: str
    first: int
    end: int
    fact: bool
    hard: bool
    common: bool


class TokenTexts:
    """The text of each token, decoded once.

    Args:
        tokenizer: A transformers tokenizer.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}
        # Decoded behind another token, a token keeps the space that it begins with, whatever the tokenizer's kind.
        self._before = tokenizer.encode("a", add_special_tokens=False)[-1:]
        self._cut = len(self._decode(self._before))

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False))

    def of(self, tokens: Ints) -> list[str]:
        """Text of each token; a part of a character reads as the replacement character."""
        ids = tokens.tolist()
        for token in set(ids) - self._known.keys():
            self._known[token] = self._decode([*self._before, token])[self._cut :]
        return [self._known[token] for token in ids]


@dataclass(frozen=True)
class Text:
    """A token sequence as words and passages.

    Attributes:
        words: All words, ascending.
        starts: First token of each passage and, at the end, the number of tokens; shape `(passages + 1,)`.
        of_passage: For each passage the range of `words` in it, shape `(passages + 1,)`: word indices, as `starts`.
    """

    words: tuple[Word, ...]
    starts: Ints
    of_passage: Ints

    def passage(self, token: int) -> int:
        """The passage that a token lies in."""
        return int(np.searchsorted(self.starts, token, side="right")) - 1

    def inside(self, first: int, end: int) -> tuple[Word, ...]:
        """Words of the passages `first` to `end`, the last one not included."""
        return self.words[int(self.of_passage[first]) : int(self.of_passage[end])]


def topic(words: Iterable[Word]) -> list[Word]:
    """Those words that say what a text is about."""
    return [w for w in words if not w.common and w.text != NEGATED]


def weights(text: Text) -> dict[str, float]:
    """Log inverse passage frequency of each stem."""
    count = len(text.starts) - 1
    seen = Counter(stem for i in range(count) for stem in {w.stem for w in text.inside(i, i + 1)})
    return {stem: math.log((count + 1) / n) for stem, n in seen.items()}


def read(pieces: list[str]) -> Text:
    """Words and passages of a token sequence.

    A passage is a line; a long line is cut at sentence ends. Time is linear in the text.

    Args:
        pieces: Text of each token.
    """
    whole = "".join(pieces)
    offsets = np.cumsum([0, *map(len, pieces)])
    found = list(WORD.finditer(whole))
    first = np.searchsorted(offsets, [m.start() for m in found], side="right") - 1
    last = np.searchsorted(offsets, [m.end() - 1 for m in found], side="right")
    words = tuple(
        _word(m.group(), _opens(whole, m.start()), int(a), int(b)) for m, a, b in zip(found, first, last, strict=True)
    )
    starts = [0]
    for i, piece in enumerate(pieces[:-1]):
        long = i + 1 - starts[-1] >= PASSAGE_TOKENS and "\n" not in pieces[i + 1]
        if "\n" in piece or (long and SENTENCE_END.search(piece)):
            starts.append(i + 1)
    edges = np.asarray([*starts, len(pieces)], np.int64)
    return Text(words, edges, np.searchsorted([w.first for w in words], edges))


def _opens(whole: str, at: int) -> bool:
    """Whether a word begins a sentence, so that its capital says nothing."""
    at -= 1
    while at >= 0 and whole[at] in " \t":
        at -= 1
    return at < 0 or whole[at] in OPENS_SENTENCE


@lru_cache(maxsize=65_536)
def _form(word: str, opens: bool) -> tuple[str, bool, bool, bool]:
    low = word.casefold().replace("’", "'")
    if low[0].isdigit():
        return low.replace(",", ""), True, True, False
    if low in NEGATIONS or low.endswith("n't"):
        return NEGATED, True, False, False
    low = low.removesuffix("'s")
    if low in NUMBERS:
        return NUMBERS[low], low != "one", low not in VAGUE, low == "one"
    hard = low in DATES or not low[0].isalpha()
    name = word[0].isupper() and not opens and low not in COMMON and not low.startswith("i'")
    return low, hard or name or low in POLARITY or low in MEASURES, hard or name, low in COMMON


def _word(word: str, opens: bool, first: int, end: int) -> Word:
    text, fact, hard, common = _form(word, opens)
    return Word(text, text[:STEM_LETTERS], first, end, fact, hard, common)
