"""An answer, whole and in the parts in which it is streamed."""

from __future__ import annotations

from dataclasses import dataclass, field

from semshare_agents.values.report import Report


@dataclass(frozen=True)
class Usage:
    """Token counts of a turn.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens generated, the end token included.
        cached_tokens: Prompt tokens whose KV was reused exactly.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class ToolCall:
    """A model's call of a tool.

    Attributes:
        id: Tells the calls of a conversation apart; the tool's message names it.
        name: The tool.
        arguments: JSON text; a part of it where the call is not whole.
        whole: Whether the call is complete; one that the answer's end cut off must not be run.
    """

    id: str
    name: str
    arguments: str
    whole: bool = True


@dataclass(frozen=True)
class CallPart:
    """What is new of a tool call while it is streamed: first its id and name, then its arguments.

    Attributes:
        index: Which of the answer's calls.
        id: Its id, empty but for the first part.
        name: The tool, empty but for the first part.
        arguments: What its JSON text goes on with.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token was, by the model's own distribution: before penalties, temperature and constraints.

    Attributes:
        token: Its id.
        text: What it reads as; bytes that are no whole letter alone read as a replacement mark.
        data: The bytes that it stands for.
        logprob: Natural logarithm of its probability; NaN for a prompt's first token, before which nothing stands.
        start: Where its text begins in the answer, or in the prompt, in characters.
        top: The likeliest tokens of its place, likeliest first; `top` of these is empty.
    """

    token: int
    text: str
    data: bytes
    logprob: float
    start: int = 0
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Generation:
    """An answer.

    Attributes:
        thoughts: What the model thought before it spoke, where `split_thoughts` is asked for; else that is in `text`.
        text: The answer, without stop strings, special tokens and tool calls.
        tokens: Generated token ids, the end token included.
        finish_reason: `stop` (end token or stop string), `tool_calls` (the same, after calls) or `length`.
        usage: Token counts.
        report: What was reused.
        tool_calls: The tools that the model calls.
        raw: The answer as it was written, tool calls included; a history that holds it is reused exactly.
        stop_string: The stop string that ended it; empty for none.
        choice: Which of several answers to one prompt it is, from 0.
        logprobs: How likely its tokens were, where that is asked for; without the end token and stop strings.
        prompt_logprobs: How likely the prompt's were.
    """

    thoughts: str = field(default="", kw_only=True)
    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    usage: Usage
    report: Report
    tool_calls: tuple[ToolCall, ...] = ()
    raw: str = ""
    stop_string: str = ""
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A part of a streamed answer: text, tool calls or both; the last one has the whole `generation`.

    Attributes:
        text: What is new of the text.
        generation: The whole answer, with its last piece.
        tool_calls: What is new of calls.
        choice: Which of several answers to one prompt goes on, from 0; one ends before the next begins.
        logprobs: How likely the tokens were that became certain since the last piece, where that is asked for.
    """

    thoughts: str = field(default="", kw_only=True)
    """What is new of the thoughts; see `Generation.thoughts`."""
    text: str
    generation: Generation | None = None
    tool_calls: tuple[CallPart, ...] = ()
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
