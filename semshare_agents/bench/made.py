"""Made-up chats and what commonly changes in them from one turn to the next, as pairs for `semshare bench pairs`.

Everything is drawn from a seed, so that whoever runs the same command measures the same texts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from semshare_agents.errors import ConfigurationError

WORDS_A_TOKEN = 0.72
"""Of these texts, in a vocabulary of 50,000 tokens."""

PEOPLE = (
    "Ada",
    "Bruno",
    "Chiara",
    "Dmitri",
    "Elif",
    "Farah",
    "Goran",
    "Hana",
    "Ivo",
    "Jelena",
    "Kofi",
    "Lena",
    "Milos",
)
PLACES = (
    "the harbour",
    "the old mill",
    "the school",
    "Weaver Street",
    "the north gate",
    "the library",
    "the market hall",
    "platform two",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
THINGS = (
    ("the ferry", "a rowing boat", "the blue cutter", "two life rafts", "the pilot boat", "a torn sail"),
    ("the apple trees", "a bed of leeks", "the glasshouse", "three beehives", "the compost", "a water butt"),
    ("the night train", "a freight wagon", "the signal box", "the dining car", "a snow plough", "the spare engine"),
    ("the bread oven", "a crate of lemons", "the walk-in fridge", "the menu", "two copper pans", "the cellar"),
    ("the login page", "a failing test", "the release notes", "the search index", "the billing job", "an old branch"),
    ("the whale skeleton", "a cracked vase", "the map room", "the coins", "the audio guide", "a loan from Porto"),
)
"""What the talk is about, a subject a line."""
EVENTS = (
    "{who} looked after {thing} at {place} on {day} and needed {n} hours for it.",
    "{who} asked {other} to have {thing} ready before {day}, because {n} visitors are expected at {place}.",
    "On {day} {thing} had to be moved to {place}; {who} paid {n} euros for the transport.",
    "{other} and {who} disagreed about {thing}: one wants it repaired for {n} euros, the other wants it sold.",
    "Nobody could find {thing} until {who} saw it near {place}, {n} steps from the entrance.",
    "{who} wrote down that {thing} was last inspected {n} days ago and that {other} has the papers.",
    "By {day} evening {who} had finished with {thing}, and {other} brought {n} cups of tea from {place}.",
    "A letter about {thing} came to {place} on {day}; {who} has to answer it within {n} days.",
)
QUESTIONS = (
    "What did {who} do, in one or two sentences?",
    "Who had to do with {thing}, and what came of it?",
    "What happened on {day}? Keep it short.",
    "Which numbers should I remember from this?",
    "What should {who} and {other} do next?",
)
REPLIES = (
    "Noted. {who} is the one to ask about {thing}.",
    "I have put that down: {thing}, {day}, {place}.",
    "Understood. I would remind {other} two days before.",
    "That makes {n} in all, as far as I can see.",
)
SYSTEM = "You are the assistant of a small team that works with {thing}. Answer briefly and only from what was said."

Message = dict[str, str]


class Writer:
    """Draws sentences about one subject."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self._things = THINGS[seed % len(THINGS)]

    def filled(self, templates: tuple[str, ...]) -> str:
        """One of some templates with its slots filled."""
        draw = self.random
        who, other = draw.sample(PEOPLE, 2)
        words = {"thing": draw.choice(self._things), "place": draw.choice(PLACES), "day": draw.choice(DAYS)}
        text = draw.choice(templates).format(who=who, other=other, n=draw.randint(3, 90), **words)
        return text[0].upper() + text[1:]

    def text(self, words: int) -> str:
        """About so many words."""
        sentences: list[str] = []
        while sum(len(s.split()) for s in sentences) < words:
            sentences.append(self.filled(EVENTS))
        return " ".join(sentences)

    def talk(self, words: int) -> list[Message]:
        """Questions and answers of about so many words in all, ending with an answer."""
        messages: list[Message] = []
        while sum(len(m["content"].split()) for m in messages) < words:
            said = self.text(self.random.randint(15, 60))
            messages += [_user(f"{said} {self.filled(QUESTIONS)}"), _assistant(self.filled(REPLIES))]
        return messages

    def question(self) -> Message:
        """What is asked last."""
        return _user(self.filled(QUESTIONS))

    def system(self) -> Message:
        """A system prompt."""
        return {"role": "system", "content": self.filled((SYSTEM,))}


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


Pair = tuple[list[Message], list[Message]]


def changed_date(writer: Writer, words: int) -> Pair:
    """The system prompt says what day it is, and it is another one."""
    system, talk, day = writer.system()["content"], writer.talk(words), writer.random.randrange(1, 28)
    first, second = (
        {
            "role": "system",
            "content": f"Today is {DAYS[d % 6]}, {d} March 2026, {d % 12 + 8}:{(d * 7) % 60:02d}. {system}",
        }
        for d in (day, day + 1)
    )
    return [first, *talk, writer.question()], [second, *talk, writer.question()]


def notes_again(writer: Writer, words: int) -> Pair:
    """Notes that a first question was asked about are sent again behind another instruction, with another question."""
    notes = "\n".join(f"- {writer.filled(EVENTS)}" for _ in range(max(3, words // 17)))
    asked = (
        f"{opening}\n\n{notes}\n\n{writer.question()['content']}"
        for opening in ("These are my notes.", "Here is what we know so far about the last days.")
    )
    first, second = asked
    return [writer.system(), _user(first)], [writer.system(), _user(second)]


def trimmed_history(writer: Writer, words: int) -> Pair:
    """The oldest question and its answer are gone."""
    system, oldest, talk = writer.system(), writer.talk(words // 6), writer.talk(words)
    return [system, *oldest, *talk], [system, *talk, writer.question()]


def reordered_documents(writer: Writer, words: int) -> Pair:
    """A search found the same documents in another order."""
    documents = [writer.text(words // 4) for _ in range(4)]
    system, question = writer.system(), writer.question()["content"]

    def prompt(order: list[int], asked: str) -> list[Message]:
        found = "\n\n".join(f"Document: {documents[i]}" for i in order)
        return [system, _user(f"{found}\n\n{asked}")]

    order = writer.random.choice(([1, 0, 2, 3], [2, 3, 0, 1], [3, 0, 1, 2], [0, 2, 1, 3]))
    return prompt([0, 1, 2, 3], question), prompt(order, writer.question()["content"])


def changed_message(writer: Writer, words: int) -> Pair:
    """Early in the history a long result was cleared, as agents do to save room."""
    system, ask, talk = writer.system(), writer.question(), writer.talk(words * 3 // 4)
    result, reply = f"Result of the search: {writer.text(words // 4)}", _assistant(writer.filled(REPLIES))
    start = [system, ask, _assistant("I will look that up."), _user(result), reply]
    cleared = [system, ask, _assistant("I will look that up."), _user("Result of the search: (removed)"), reply]
    return [*start, *talk, writer.question()], [*cleared, *talk, writer.question()]


CHANGES: dict[str, Callable[[Writer, int], Pair]] = {
    "date": changed_date,
    "notes": notes_again,
    "trim": trimmed_history,
    "order": reordered_documents,
    "cleared": changed_message,
}


def made_pairs(tokens: tuple[int, ...], each: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Pairs of every kind of change at each length.

    Args:
        tokens: About how long the prompts are.
        each: Pairs of a kind and length.
        seed: Draws the texts.

    Raises:
        ConfigurationError: a length is too short for a chat, or there are no pairs.
    """
    if each < 1 or not tokens or min(tokens) < 200:
        raise ConfigurationError("made-up pairs need lengths of at least 200 tokens and one pair of each")
    for length in tokens:
        for change, changed in CHANGES.items():
            for number in range(each):
                kind = f"made-{length}-{change}"
                name = f"{kind}-{seed + number}"
                writer = Writer(random.Random(name).randrange(2**31))
                reference, target = changed(writer, round((length - 60) * WORDS_A_TOKEN))
                yield {"id": name, "kind": kind, "reference": reference, "target": target}
