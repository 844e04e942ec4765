"""A fake adapter's turn: the prompt as words, what is reused of it, and the answer summed up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from semshare_agents.errors import ConfigurationError, InvalidSchemaError
from semshare_agents.model.tokenise import tokenise_text
from semshare_agents.observe.reader import Reader
from semshare_agents.observe.report import make_report
from semshare_agents.testing.fake.memory import FakeMemory
from semshare_agents.testing.fake.script import CALLS, END, Token, ids, prompt_words, words
from semshare_agents.values import (
    Alignment,
    Generation,
    Ints,
    Kind,
    Plan,
    Reason,
    ReasonCode,
    Report,
    Reuse,
    ToolCall,
    Usage,
)
from semshare_agents.values.reason import REUSE_OFF

if TYPE_CHECKING:
    from semshare_agents.request.counting import PromptCounter
    from semshare_agents.request.output import ResponseSpec
    from semshare_agents.request.request import Request

COLD_SECONDS_A_TOKEN = 0.001
"""What a prefill is said to have cost; reports of reuse then show a gain."""
UNLIKE = Reason(ReasonCode.NOTHING_STORED, "nothing stored begins like it")


@dataclass(frozen=True)
class FakeCall:
    """A call that a fake adapter got.

    Attributes:
        messages: The messages, cleaned.
        options: The options as they were given.
        request: What the adapter makes of both: tenant, session, sampling, tools and the like.
    """

    messages: list[dict[str, Any]]
    options: dict[str, Any]
    request: Request


class _Encoder:
    """The part of a tokenizer that raw prompts and counting need."""

    @staticmethod
    def encode(text: str, **_: Any) -> list[int]:
        return ids(words(text))


class FakeOutput:
    """Makes prompts and checks schemas, as the adapter's own does."""

    @staticmethod
    def prompt(messages: Sequence[dict[str, Any]], response: ResponseSpec) -> Ints:
        """Token ids of a prompt."""
        return np.asarray(ids(prompt_words(messages, response.tools)), np.int64)

    @staticmethod
    def constraint(response: ResponseSpec) -> None:
        """Check that an answer can be held to what is wanted; see `check_grammar`."""
        check_grammar(response)


class FakeReader(Reader):
    """What may be read of a fake adapter; its words have no tokenizer."""

    def counter(self) -> PromptCounter:
        """Counts words."""
        from semshare_agents.request.counting import PromptCounter

        return PromptCounter(_Encoder, self.output)


def prompt_of(request: Request) -> list[int]:
    """A prompt's token ids.

    Raises:
        InvalidMessagesError: a raw prompt is empty or several messages.
    """
    messages = [dict(message) for message in request.messages]
    if request.raw:
        return [int(token) for token in tokenise_text(_Encoder, messages)]
    return ids(prompt_words(messages, request.response.tools))


def check_grammar(response: ResponseSpec) -> None:
    """Check that an answer can be held to what is wanted, as constrained decoding would.

    Raises:
        ConfigurationError: that needs llguidance, which is not installed.
        InvalidSchemaError: a schema is malformed or not supported.
    """
    from semshare_agents.constrain.grammar import answer_grammar

    grammar = answer_grammar(response.schema, response.tools, response.choice, response.parallel, CALLS, {})
    if not grammar:
        return
    try:
        from llguidance import LLMatcher
    except ImportError as e:
        if response.schema is None and response.choice == "auto":
            return
        raise ConfigurationError(
            "JSON schemas and forced tool calls need llguidance: pip install 'semshare-agents[structured]'"
        ) from e
    if problem := LLMatcher.validate_grammar(grammar):
        raise InvalidSchemaError(f"a JSON schema cannot be used: {problem.partition(chr(10))[0]}")


def report_of(memory: FakeMemory, request: Request, prompt: Sequence[int], began: float) -> Report:
    """The report of a turn that reuses the longest prefix which it shares with an earlier one of its tenant.

    Args:
        memory: Past turns.
        request: What is asked for.
        prompt: Its tokens.
        began: When the call began, by `time.perf_counter`.
    """
    checked = time.perf_counter() - began
    alignment, size = Alignment.empty(len(prompt)), len(prompt)
    found = memory.longest_prefix(request.tenant, prompt) if request.reuse.allows(Reuse.EXACT) else None
    # The last row is always computed: the first token is drawn from it.
    exact = 0 if found is None else min(found[1], size - 1)
    if found is not None and exact:
        alignment.kind[:exact], alignment.donor[:exact] = Kind.EXACT, 0
        alignment.source[:exact] = np.arange(exact)
        alignment = replace(alignment, donors=(found[0],))
    reason = None if exact else REUSE_OFF if request.reuse is Reuse.OFF else UNLIKE
    rows = np.arange(exact, size)
    plan = Plan(rows, not exact, reason, predicted_cold_seconds=size * COLD_SECONDS_A_TOKEN, required=rows)
    elapsed = time.perf_counter() - began
    stages = {"tokenise": checked, "find": elapsed - checked}
    return make_report(alignment, plan, stages, elapsed, misses=0, layers=1, candidates=0)


def generation_of(said: Sequence[Token], prompt_tokens: int, report: Report, *, cut: bool, stopped: str) -> Generation:
    """Sum an answer up.

    Args:
        said: Its tokens, without the end token.
        prompt_tokens: Tokens of the prompt.
        report: What was reused.
        cut: Whether it is longer than it may be.
        stopped: The stop string that ended it in the place of the end token; empty for none.
    """
    tokens = [*ids(token.raw for token in said), *([] if cut or stopped else ids([END]))]
    calls = _calls(said)
    reason = "length" if cut else "tool_calls" if calls else "stop"
    usage = Usage(prompt_tokens, len(tokens), report.tokens["exact"])
    text, raw = "".join(token.text for token in said), "".join(token.raw for token in said)
    return Generation(text, tuple(tokens), reason, usage, report, calls, raw, "" if cut else stopped)


def _calls(said: Sequence[Token]) -> tuple[ToolCall, ...]:
    """The calls that were said, the last one as far as it was."""
    made = list[ToolCall]()
    for part in (part for token in said for part in token.calls):
        if part.name:
            made.append(ToolCall(part.id, part.name, ""))
        else:
            made[-1] = replace(made[-1], arguments=made[-1].arguments + part.arguments)
    return tuple(made)
