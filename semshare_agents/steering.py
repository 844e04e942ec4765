"""What an answer may be: tools in the prompt, the constraint on what is drawn, and the calls in what was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from semshare_agents.constrain.constraint import Constrainer, Constraint, installed
from semshare_agents.constrain.grammar import answer_grammar
from semshare_agents.errors import InvalidSchemaError, InvalidToolsError
from semshare_agents.tools import ToolFormat, format_of
from semshare_agents.tools.calls import CallStream
from semshare_agents.tools.checking import AUTO, NONE, Tools, clean_choice, clean_tools
from semshare_agents.tools.prompt import PROBE_TOOL, Chat, ToolPrompt


@dataclass(frozen=True)
class Wanted:
    """What an answer is held to.

    Attributes:
        tools: Tools that may be called, in OpenAI's form.
        choice: `auto`, `required` or the name of the tool that must be called.
        parallel: Whether there may be several calls.
        schema: JSON schema of an answer without calls; None for any text.
    """

    tools: Tools = field(default_factory=list)
    choice: str = AUTO
    parallel: bool = False
    schema: Mapping[str, Any] | None = None


FREE = Wanted()
"""Any text, no tools."""


def wanted(tools: object, choice: object, parallel: bool, schema: object) -> Wanted:
    """What a caller asks for, checked.

    Raises:
        InvalidToolsError: a tool or the choice is malformed.
        InvalidSchemaError: the schema is no mapping.
    """
    cleaned = clean_tools(tools)
    word = clean_choice(choice, cleaned)
    if schema is not None and not isinstance(schema, Mapping):
        raise InvalidSchemaError(f"response_schema must be a JSON schema as a mapping, not {type(schema).__name__}")
    return Wanted([], AUTO, parallel, schema) if word == NONE else Wanted(cleaned, word, parallel, schema)


class Steering:
    """Steers answers of one model. What it needs to know of the model is found out when first needed.

    Args:
        tokenizer: A transformers tokenizer.
        ends: Token ids that end an answer.
    """

    def __init__(self, tokenizer: Any, ends: frozenset[int]):
        self._tokenizer = tokenizer
        self._constrainer = Constrainer(tokenizer, ends)

    @cached_property
    def form(self) -> ToolFormat:
        """How the model writes tool calls."""
        if self._tokenizer.chat_template is None:
            return format_of("")
        return format_of(self._tokenizer.get_chat_template(tools=[PROBE_TOOL]))

    @cached_property
    def _prompt(self) -> ToolPrompt:
        return ToolPrompt(self._tokenizer, self.form)

    @cached_property
    def _special(self) -> dict[str, int]:
        return {str(t): i for i, t in self._tokenizer.added_tokens_decoder.items() if t.special}

    def prepared(self, messages: Chat, want: Wanted) -> tuple[Chat, Tools | None]:
        """Messages and tools for the chat template; see `ToolPrompt.prepared`."""
        return self._prompt.prepared(messages, want.tools)

    def constraint(self, want: Wanted) -> Constraint | None:
        """What holds the answer to what is wanted; None where it is free. May block: call it on a thread.

        Calls that are left to the model are held to their schemas where the library is installed.

        Raises:
            ConfigurationError: the library is not installed.
            InvalidSchemaError: a schema is malformed or not supported.
        """
        free = want.schema is None and want.choice == AUTO
        if free and (not want.tools or not installed()):
            return None
        special = self._special if want.tools else {}
        grammar = answer_grammar(want.schema, want.tools, want.choice, want.parallel, self.form, special)
        return self._constrainer.constraint(grammar)

    def calls(self, want: Wanted) -> CallStream | None:
        """Parts the answer into text and calls; None where there are no tools."""
        return CallStream(self.form) if want.tools else None

    def marks(self, want: Wanted) -> dict[int, str]:
        """Special tokens that are part of calls and so of the answer's text, by id."""
        if not want.tools:
            return {}
        form = self.form
        written = "".join((form.begin, form.separator, form.end, form.before("x"), form.after, *form.marks))
        return {token: name for name, token in self._special.items() if name in written}


def without_template(want: Wanted) -> Wanted:
    """What a raw prompt can be asked for.

    Raises:
        InvalidToolsError: it has tools, which only a chat template tells a model of.
    """
    if want.tools:
        raise InvalidToolsError("a raw prompt takes no tools: give messages")
    return want
