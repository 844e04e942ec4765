"""Pairs whose reference and target agree but for one fact, for `semshare bench pairs`.

usage: python benchmarks/edited_facts.py OUT [--cases 48] [--seed 0]

Each case is a file of notes made from templates, with one fact changed between reference and target, and a question
that asks for it. The ways of changing a fact take turns: a number, an amount, a date, a name, a negation, a unit, a
number word, two entities swapped, a fact said in two places, a fact in the very first and in the very last line, a
question in words of its own, another question than the reference had, and a text that is reworded besides.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def listed(words: str, between: str | None = None) -> list[str]:
    return words.split(between)


PEOPLE = listed(
    "Amelia Bruno Celeste Dmitri Edwina Farouk Greta Hiroshi Imogen Jonas Katya Leopold Mirela Nadim Oriana"
)
TOWNS = listed("Ashford Bergen Cadiz Dresden Evora Fremantle Galway Hobart Izmir Jaipur Kassel Lugano Malmo Nantes")
THINGS = listed("telescope,harpsichord,sailing boat,greenhouse,weather station,printing press,kiln,wind turbine", ",")
COLOURS = listed("crimson turquoise amber violet emerald silver")
MONTHS = listed("January March April June July September November December")
NUMBERS = listed("three five seven nine eleven fourteen nineteen forty")
DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

FILLERS = (
    "{a} said that the meeting in {t} went well and that the minutes would follow.",
    "The weather in {t} stayed dry for most of the week, which helped the builders.",
    "{a} and {b} had lunch together and talked about old times.",
    "A new coffee machine was put into the kitchen on the {n}th floor.",
    "{a} will be away for a while; {b} answers letters in the meantime.",
    "Nobody objected when {b} proposed to paint the hallway {c}.",
    "The train to {t} was late again, so {a} took the bus instead.",
    "{b} asked for better chairs, because the old ones hurt the back.",
    "Two boxes of paper were ordered, and {a} signed for them.",
    "{a} keeps the keys of the archive and likes to be asked in good time.",
    "The window towards the yard was repaired by a firm from {t}.",
    "{b} wrote a short poem about the {c} curtains, and all of us laughed.",
)


@dataclass(frozen=True)
class Case:
    """One changed fact.

    Attributes:
        way: What is changed.
        old: The reference's sentence with the fact.
        new: The target's.
        question: What asks for it.
        stale: The old fact.
        fresh: The new fact.
        place: Where the sentence stands: `first`, `middle` or `last`.
        again: Old and new sentence that repeat the fact elsewhere.
    """

    way: str
    old: str
    new: str
    question: str
    stale: str
    fresh: str
    place: str = "middle"
    again: tuple[str, str] | None = None


def _two(rng: random.Random, words: list[str]) -> tuple[str, str]:
    first, second = rng.sample(words, 2)
    return first, second


def number(rng: random.Random) -> Case:
    a, b = rng.sample(range(12, 98), 2)
    who, thing = rng.choice(PEOPLE), rng.choice(THINGS)
    text = "The {thing} of {who} weighs {n} kilograms and stands in the cellar."
    return _filled("number", text, f"How many kilograms does the {thing} of {who} weigh?", a, b, thing=thing, who=who)


def amount(rng: random.Random) -> Case:
    a, b = (f"{rng.randint(2, 9)},{rng.randint(100, 999)}" for _ in range(2))
    who = rng.choice(PEOPLE)
    return _filled(
        "amount", "{who} agreed to pay {n} euros for the repair.", f"How many euros will {who} pay?", a, b, who=who
    )


def date(rng: random.Random) -> Case:
    (a, b), day = _two(rng, MONTHS), rng.randint(1, 28)
    who, town = rng.choice(PEOPLE), rng.choice(TOWNS)
    text = "{who} moves to {town} on {day} {n} and takes the dog along."
    return _filled("date", text, f"In which month does {who} move to {town}?", a, b, who=who, town=town, day=day)


def name(rng: random.Random) -> Case:
    a, b = _two(rng, PEOPLE)
    thing = rng.choice(THINGS)
    return _filled("name", "The new {thing} belongs to {n}.", f"Who owns the new {thing}?", a, b, thing=thing)


def negation(rng: random.Random) -> Case:
    who, town = rng.choice(PEOPLE), rng.choice(TOWNS)
    old, new = (f"{who} {verb} visited {town} before." for verb in ("has", "has never"))
    return Case("negation", old, new, f"Has {who} visited {town} before? Say yes or no.", "Yes", "No")


def unit(rng: random.Random) -> Case:
    count, (a, b) = rng.randint(3, 90), rng.sample(["days", "weeks", "months", "hours"], 2)
    who, thing = rng.choice(PEOPLE), rng.choice(THINGS)
    text = "{who} built the {thing} in {count} {n} with simple tools."
    question = f"How long did {who} take to build the {thing}?"
    return _filled("unit", text, question, a, b, who=who, thing=thing, count=count)


def number_word(rng: random.Random) -> Case:
    a, b = _two(rng, NUMBERS)
    who = rng.choice(PEOPLE)
    return _filled(
        "number word", "{who} has {n} cousins in Canada.", f"How many cousins does {who} have?", a, b, who=who
    )


def swapped(rng: random.Random) -> Case:
    a, b = _two(rng, PEOPLE)
    thing = rng.choice(THINGS)
    old, new = (f"{x} sold the {thing} to {y} without any quarrel." for x, y in ((a, b), (b, a)))
    return Case("swapped", old, new, f"Who sold the {thing}?", a, b)


def twice(rng: random.Random) -> Case:
    a, b = _two(rng, TOWNS)
    who = rng.choice(PEOPLE)
    old, new = (f"The headquarters of the club are in {x}." for x in (a, b))
    again = tuple(f"{who} drove to the headquarters in {x} to fetch the flags." for x in (a, b))
    return Case("twice", old, new, "In which town are the headquarters of the club?", a, b, again=(again[0], again[1]))


def first(rng: random.Random) -> Case:
    a, b = _two(rng, DAYS)
    text = "These notes were written on a {n} by the secretary."
    return _filled("first line", text, "On which day of the week were these notes written?", a, b, place="first")


def last(rng: random.Random) -> Case:
    a, b = _two(rng, COLOURS)
    who = rng.choice(PEOPLE)
    text = "At the end {who} handed over a {n} envelope."
    return _filled("last line", text, f"Which colour was the envelope of {who}?", a, b, place="last", who=who)


def own_words(rng: random.Random) -> Case:
    a, b = _two(rng, COLOURS)
    who = rng.choice(PEOPLE)
    text = "{who} bought a {n} bicycle for the way to work."
    return _filled("own words", text, f"What does the vehicle on which {who} commutes look like?", a, b, who=who)


def _filled(way: str, text: str, question: str, a: object, b: object, place: str = "middle", **others: object) -> Case:
    old, new = (text.format(n=x, **others) for x in (a, b))
    return Case(way, old, new, question, str(a), str(b), place)


WAYS: tuple[Callable[[random.Random], Case], ...] = (
    number,
    amount,
    date,
    name,
    negation,
    unit,
    number_word,
    swapped,
    twice,
    first,
    last,
    own_words,
)
VARIANTS = ("same question", "other question", "reworded")


def pair(index: int, seed: int) -> dict[str, object]:
    """The pair of an index: ways and variants take turns, everything else is drawn."""
    rng = random.Random(f"{seed}/{index}")
    case, variant = WAYS[index % len(WAYS)](rng), VARIANTS[index // len(WAYS) % len(VARIANTS)]
    lines = _notes(rng, 44, case)
    at = {"first": 0, "last": len(lines), "middle": rng.randint(len(lines) // 4, 3 * len(lines) // 4)}[case.place]
    sides = []
    for sentence, again, fact in (
        (case.old, case.again and case.again[0], case.stale),
        (case.new, case.again and case.again[1], case.fresh),
    ):
        assert fact in (*sentence.split(), "Yes", "No") or fact in sentence
        text = [*lines[:at], sentence, *lines[at:]]
        if again:
            text.insert(len(text) - 4, again)
        sides.append(text)
    if variant == "reworded":
        sides[1] = [_reworded(line) for line in sides[1]]
    ask = f"{case.question} Answer in one sentence."
    before = ask if variant == "same question" else "What is said about the coffee machine? Answer in one sentence."
    return {
        "id": f"{case.way.replace(' ', '-')}-{index}",
        "kind": f"edited {variant}",
        "reference": _messages(sides[0], before),
        "target": _messages(sides[1], ask),
        "answer": case.fresh,
        "stale_answer": case.stale,
    }


def _notes(rng: random.Random, count: int, case: Case) -> list[str]:
    """Lines around the fact; the names in it occur in some of them too, its old and new value in none."""
    people = [p for p in PEOPLE if p not in (case.stale, case.fresh)]
    towns = [t for t in TOWNS if t not in (case.stale, case.fresh)]
    colours = [c for c in COLOURS if c not in (case.stale, case.fresh)]
    lines = []
    for i in range(count):
        a, b = rng.sample(people, 2)
        filler = FILLERS[i % len(FILLERS)] if i < len(FILLERS) else rng.choice(FILLERS)
        lines.append(filler.format(a=a, b=b, t=rng.choice(towns), n=rng.randint(4, 9), c=rng.choice(colours)))
    rng.shuffle(lines)
    return lines


SYNONYMS = (
    ("stayed dry", "remained dry"),
    ("went well", "was a success"),
    ("had lunch together", "ate lunch side by side"),
    ("talked about", "chatted about"),
    ("was put into", "now stands in"),
    ("in the meantime", "until then"),
    ("proposed to paint", "suggested painting"),
    ("was late again", "had a delay once more"),
    ("asked for better", "wished for better"),
    ("because", "since"),
    ("were ordered", "have been ordered"),
    ("likes to be asked in good time", "wants to be asked early"),
    ("was repaired", "has been mended"),
    ("wrote a short poem", "made a little poem"),
    ("all of us laughed", "everybody laughed"),
    ("so ", "and therefore "),
)


def _reworded(line: str) -> str:
    for old, new in SYNONYMS:
        line = line.replace(f" {old}", f" {new}")
    return line


def _messages(lines: list[str], question: str) -> list[dict[str, str]]:
    system = "You answer questions about the notes of a small society."
    text = "\n".join(lines)
    return [{"role": "system", "content": system}, {"role": "user", "content": f"{text}\n\n{question}"}]


def main() -> None:
    """Write the pairs, one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pairs = [pair(index, options.seed) for index in range(options.cases)]
    options.out.write_text("".join(json.dumps(p, ensure_ascii=False) + "\n" for p in pairs), encoding="utf-8")


if __name__ == "__main__":
    main()
