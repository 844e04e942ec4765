"""Chats of an agent for `semshare bench serve`, and what its prompts look like from one turn to the next.

Prompts have to be the same whatever is measured. Therefore answers are scripted, and tools and their results are text,
in the system prompt and in the user's messages: how a server writes `tools` into a prompt is its own affair.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import groupby
from pathlib import Path

from semshare_agents.bench.agent import CALLS, SYSTEM, TOOLS
from semshare_agents.bench.made import WORDS_A_TOKEN, Message, Writer
from semshare_agents.bench.window import read_lines
from semshare_agents.errors import ConfigurationError

CLEARED = "(result cleared to save room)"
OPENED = datetime(2026, 3, 5, 9)


class Mode(StrEnum):
    """What changes from one turn to the next."""

    APPEND = "append"
    """The last answer and a question come behind what was said."""
    CLOCK = "clock"
    """The system prompt also begins with the time."""
    WINDOW = "window"
    """For what comes, the oldest goes: as many messages in every turn."""
    TOOLS = "tools"
    """The tools stand in another order, and one more of the oldest results is cleared."""

    @classmethod
    def parse(cls, value: object) -> Mode:
        """The member named by `value`.

        Raises:
            ConfigurationError: `value` is none of the words.
        """
        try:
            return cls(str(value))
        except ValueError:
            raise ConfigurationError(f"mode must be one of {', '.join(cls)}; got {value!r}") from None


@dataclass(frozen=True)
class ChatOptions:
    """Which chats are replayed.

    Attributes:
        mode: What changes from turn to turn.
        sessions: Chats that go on at once.
        turns: Questions asked in each.
        history: Messages that a chat begins with, without the system prompt; even.
        answer: Tokens of an answer.
        seed: Draws the texts and the order of tools.

    Raises:
        ConfigurationError: a number makes no chat.
    """

    mode: Mode = Mode.APPEND
    sessions: int = 4
    turns: int = 3
    history: int = 24
    answer: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sessions", "turns", "answer"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.history < 0 or self.history % 2:
            raise ConfigurationError(
                f"history must be an even number of messages, questions and their answers; got {self.history}"
            )

    @property
    def rounds(self) -> int:
        """Rounds that a chat needs."""
        return self.history // 2 + self.turns


@dataclass(frozen=True)
class Round:
    """What is asked, by the user or with a tool's result (role `tool`), and the answer to it."""

    asked: tuple[Message, ...]
    answer: str

    @property
    def has_result(self) -> bool:
        """Whether a tool's result is in it."""
        return any(message["role"] == "tool" for message in self.asked)

    def cleared(self) -> Round:
        """The same with a placeholder for results."""
        asked = ({**m, "content": CLEARED} if m["role"] == "tool" else m for m in self.asked)
        return replace(self, asked=tuple(asked))

    def question(self) -> Message:
        """As one message that every server and every chat template takes."""
        return {"role": "user", "content": "\n".join(map(_text, self.asked))}

    def messages(self) -> list[Message]:
        """The question and the answer."""
        return [self.question(), {"role": "assistant", "content": self.answer}]


def _text(message: Message) -> str:
    return f"Result of the tool:\n{message['content']}" if message["role"] == "tool" else message["content"]


@dataclass(frozen=True)
class Chat:
    """A session's script.

    Attributes:
        system: The system prompt, without time and tools; may be empty.
        tools: What the system prompt says of each tool.
        rounds: What is said.
    """

    system: str
    tools: tuple[str, ...]
    rounds: tuple[Round, ...]


# --- scripts


def made_chats(options: ChatOptions) -> list[Chat]:
    """Chats of an agent that looks up notes, drawn from the seed; all have one system prompt, as one agent's have.

    Every other round brings a tool's result. A prompt of 24 messages has about 2,800 tokens.
    """
    return [Chat(SYSTEM, TOOLS, tuple(_made_rounds(options, number))) for number in range(options.sessions)]


def _made_rounds(options: ChatOptions, session: int) -> Iterable[Round]:
    writer = Writer(random.Random(f"chat-{options.seed}-{session}").randrange(2**31))
    words = max(1, round(options.answer * WORDS_A_TOKEN))
    for number in range(options.rounds):
        if number % 2:
            result = writer.text(writer.random.randint(80, 160))
            yield Round(({"role": "tool", "content": result},), writer.text(words))
        else:
            asked = f"{writer.text(writer.random.randint(15, 40))} {writer.question()['content']}"
            yield Round(({"role": "user", "content": asked},), writer.filled(CALLS))


def read_chats(file: Path, options: ChatOptions) -> list[Chat]:
    """The parts of a recorded conversation, one after the other, as chats of their own.

    Args:
        file: As `bench window` reads it; messages of role `tool` are tools' results.
        options: How many chats, and how long they are.

    Raises:
        ConfigurationError: the file cannot be read, has other roles or too few rounds, or in mode `tools` no results.
    """
    system, lines = read_lines(file)
    rounds, needed = _rounds_of(file, lines), options.sessions * options.rounds
    if len(rounds) < needed:
        raise ConfigurationError(
            f"{file} has {len(rounds)} questions with answers; {options.sessions} sessions of {options.history} "
            f"messages and {options.turns} turns need {needed}"
        )
    told = "\n".join(message["content"] for message in system)
    # The format has no tools.
    tools = TOOLS if options.mode is Mode.TOOLS else ()
    parts = [tuple(rounds[at : at + options.rounds]) for at in range(0, needed, options.rounds)]
    for number, part in enumerate(parts):
        if options.mode is Mode.TOOLS and not any(r.has_result for r in part[: -options.turns]):
            raise ConfigurationError(
                f"mode tools clears tools' results, messages of role tool, and {file} has none in the history of "
                f"session {number}"
            )
    return [Chat(told, tools, part) for part in parts]


def _rounds_of(file: Path, lines: Sequence[tuple[str, str]]) -> list[Round]:
    """Whole rounds: what is asked, as far as it is answered."""
    unknown = {role for role, _ in lines} - {"user", "assistant", "tool"}
    if unknown:
        raise ConfigurationError(
            f"{file} has messages of role {', '.join(sorted(map(str, unknown)))}; known: system, user, assistant, tool"
        )
    rounds: list[Round] = []
    asked: list[Message] = []
    for role, group in groupby(lines, key=lambda line: line[0]):
        content = "\n".join(text for _, text in group)
        if role != "assistant":
            asked.append({"role": role, "content": content})
        elif asked:
            rounds.append(Round(tuple(asked), content))
            asked = []
    return rounds


# --- prompts


def prompts(chat: Chat, options: ChatOptions, session: int) -> list[list[Message]]:
    """A session's prompts, one a turn; each ends with a question that is not answered yet.

    Args:
        chat: Its script.
        options: What changes from turn to turn.
        session: Its number: no two sessions have their turns at the same second, or their tools in the same order.
    """
    made = []
    for turn in range(options.turns):
        *before, last = chat.rounds[: options.history // 2 + turn + 1]
        if options.mode is Mode.WINDOW:
            before = before[turn:]
        if options.mode is Mode.TOOLS:
            before = _cleared(before, turn)
        system = _system(chat, options, session, turn)
        messages = [message for part in before for message in part.messages()]
        made.append([*system, *messages, last.question()])
    return made


def _system(chat: Chat, options: ChatOptions, session: int, turn: int) -> list[Message]:
    parts, tools = [chat.system], list(chat.tools)
    if options.mode is Mode.CLOCK:
        now = OPENED + timedelta(minutes=7 * session, seconds=41 * turn)
        parts.insert(0, f"It is {now:%A, %d %B %Y, %H:%M:%S}.")
    if options.mode is Mode.TOOLS:
        random.Random(f"tools-{options.seed}-{session}-{turn}").shuffle(tools)
    if tools:
        parts.append("\n".join(["Your tools:", *tools]))
    text = "\n\n".join(filter(None, parts))
    return [{"role": "system", "content": text}] if text else []


def _cleared(rounds: Sequence[Round], count: int) -> list[Round]:
    """The oldest `count` of the rounds with results without them."""
    left, made = count, []
    for part in rounds:
        clear = part.has_result and left > 0
        left -= clear
        made.append(part.cleared() if clear else part)
    return made
