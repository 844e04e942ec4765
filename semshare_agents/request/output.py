"""What an answer may be: tools in the prompt, the constraint on what is drawn, and the calls in what was."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from semshare_agents.constrain.constraint import Constrainer, Constraint, installed
from semshare_agents.constrain.dialects import loosened
from semshare_agents.constrain.grammar import answer_grammar, call_grammar, schema_grammar
from semshare_agents.constrain.watching import UntilCalled
from semshare_agents.errors import ConfigurationError, InvalidSchemaError, InvalidToolsError
from semshare_agents.messages.cleaning import Chat
from semshare_agents.messages.prompt import ChatPrompt
from semshare_agents.messages.template import form_of
from semshare_agents.messages.thinking import NO_WISH, Wish
from semshare_agents.model.text import TextStream
from semshare_agents.tools import ToolFormat
from semshare_agents.tools.calls import CallStream
from semshare_agents.tools.checking import AUTO, NONE, Tools, clean_choice, clean_tools
from semshare_agents.tools.depth import MOST_NESTED, too_deep
from semshare_agents.tools.drafts import FreeText
from semshare_agents.tools.forms import in_one_form, plain_choice
from semshare_agents.tools.thoughts import AnswerParts
from semshare_agents.values import Ints

log = logging.getLogger(__name__)

THOUGHT_TOKENS = 16
"""So many tokens at a prompt's end are looked at for a mark that opens a thought."""
NO_PROMPT: Ints = np.zeros(0, np.int64)


@dataclass(frozen=True)
class ResponseSpec:
    """What an answer is held to.

    Attributes:
        tools: Tools that may be called, in OpenAI's form.
        choice: `auto`, `required` or the name of the tool that must be called.
        parallel: Whether there may be several calls.
        schema: JSON schema of an answer without calls; None for any text.
        wanted: What the chat template is told besides messages and tools.
        split_thoughts: Whether thoughts come apart from the text.
    """

    tools: Tools = field(default_factory=list)
    choice: str = AUTO
    parallel: bool = False
    schema: Mapping[str, Any] | None = None
    wanted: Wish = NO_WISH
    split_thoughts: bool = False


FREE = ResponseSpec()
"""Any text, no tools."""


def response_spec(tools: object, choice: object, parallel: bool, schema: object) -> ResponseSpec:
    """What a caller asks for, checked.

    Raises:
        InvalidToolsError: a tool or the choice is malformed.
        InvalidSchemaError: the schema is no mapping.
    """
    cleaned = clean_tools(in_one_form(tools))
    word = clean_choice(plain_choice(choice), cleaned)
    if schema is not None and not isinstance(schema, Mapping):
        raise InvalidSchemaError(f"response_schema must be a JSON schema as a mapping, not {type(schema).__name__}")
    if too_deep(schema):
        raise InvalidSchemaError(f"response_schema is nested deeper than {MOST_NESTED} levels: flatten it")
    return ResponseSpec([], AUTO, parallel, schema) if word == NONE else ResponseSpec(cleaned, word, parallel, schema)


class OutputControl:
    """Steers answers of one model. What it needs to know of the model is found out when first needed.

    Args:
        tokenizer: A transformers tokenizer.
        ends: Token ids that end an answer.
        control_tokens: What names of control tokens in messages become: `text` or `tokens`.
    """

    def __init__(self, tokenizer: Any, ends: frozenset[int], control_tokens: str = "text"):
        self._tokenizer = tokenizer
        self._control_tokens = control_tokens
        self._constrainer = Constrainer(tokenizer, ends)

    @cached_property
    def form(self) -> ToolFormat:
        """How the model writes tool calls."""
        return form_of(self._tokenizer)

    @cached_property
    def chat(self) -> ChatPrompt:
        """Makes prompts of messages."""
        return ChatPrompt(self._tokenizer, self.form, self._control_tokens)

    def prompt(self, messages: Chat, response: ResponseSpec) -> Ints:
        """Token ids of a prompt; see `ChatPrompt.ids`. May block: call it on a thread."""
        return self.chat.ids(messages, response.tools, response.wanted)

    def thinking(self, prompt: Ints) -> str:
        """The mark that closes the thought which a prompt's end has opened; empty for none."""
        end = self._tokenizer.decode(prompt[-THOUGHT_TOKENS:], skip_special_tokens=False)
        return self.chat.thinking.opened(end) or self._begun_thought(prompt)

    def _begun_thought(self, prompt: Ints) -> str:
        """The same of a thought in an answer that the prompt begins: nothing but words stands behind its mark."""
        for opening, closing in self.chat.template.thoughts:
            found = np.flatnonzero(prompt == self._marks[opening]) if opening in self._marks else NO_PROMPT
            if len(found) and not np.isin(prompt[found[-1] + 1 :], self._controls).any():
                return closing
        return ""

    @cached_property
    def _controls(self) -> Ints:
        """Ids of tokens that end what stands before them: special ones, and marks of calls and thoughts."""
        added = self._tokenizer.added_tokens_decoder.items()
        return np.asarray([*(i for i, token in added if token.special), *self._marks.values()], np.int64)

    @cached_property
    def _marks(self) -> dict[str, int]:
        """Ids of marks of calls and thoughts that the tokenizer has a token for."""
        thoughts = [mark for pair in self.chat.template.thoughts for mark in pair]
        added = {str(token): index for index, token in self._tokenizer.added_tokens_decoder.items()}
        return {n: i for n, i in added.items() if n.strip() and (n in self.form.written_marks or n in thoughts)}

    def constraint(self, response: ResponseSpec, prompt: Ints = NO_PROMPT) -> Constraint | None:
        """What holds the answer to what is wanted; None where it is free. May block: call it on a thread.

        Calls that are left to the model are held to their schemas where the library is installed. What cannot be held
        to of one tool's schema is passed over, and keeps no other tool from being called.

        Args:
            response: What is wanted.
            prompt: What is answered, shape `(tokens,)`.

        Raises:
            ConfigurationError: the library is not installed.
            InvalidSchemaError: a schema is malformed or not supported.
        """
        try:
            return self._constraint(response, prompt)
        except InvalidSchemaError:
            tools = [self._possible(tool) for tool in response.tools]
            if tools == response.tools:
                raise
            return self._constraint(replace(response, tools=tools), prompt)

    def _constraint(self, response: ResponseSpec, prompt: Ints) -> Constraint | None:
        if response.schema is None and response.choice == AUTO:
            return self._until_called(response, prompt) if response.tools and installed() else None
        marks, closing = (self._marks, self.thinking(prompt)) if response.tools else ({}, "")
        grammar = answer_grammar(
            response.schema, response.tools, response.choice, response.parallel, self.form, marks, closing
        )
        return self._constrainer.constraint(grammar)

    def _fits(self, schema: Mapping[str, Any]) -> bool:
        """Whether a call's arguments can be held to a schema."""
        try:
            self._constrainer.constraint(schema_grammar(schema))
        except InvalidSchemaError:
            return False
        return True

    def _possible(self, tool: dict[str, Any]) -> dict[str, Any]:
        """A tool with that part of its schema that calls can be held to."""
        function = tool["function"]
        if self._fits(function["parameters"]):
            return tool
        left, odd = loosened(function["parameters"], self._fits)
        log.warning("calls of the tool %r are not held to %s", function["name"], ", ".join(odd) or "its schema")
        return {**tool, "function": {**function, "parameters": left}}

    def _until_called(self, response: ResponseSpec, prompt: Ints) -> Constraint:
        grammars = [
            call_grammar(response.tools, response.parallel, self.form, self._marks, loose) for loose in (False, True)
        ]
        # What cannot be held to is refused before anything is computed.
        self._constrainer.constraint(grammars[0])
        return UntilCalled(
            TextStream(self._tokenizer, (), self.marks(response)),
            FreeText(self.form, self.chat.template.thoughts, self.thinking(prompt)),
            [partial(self._constrainer.constraint, grammar) for grammar in grammars],
            lambda text: self._tokenizer.encode(text, add_special_tokens=False),
        )

    def parts(self, response: ResponseSpec, prompt: Ints) -> AnswerParts:
        """Parts the answer to a prompt into text, calls, and thoughts where they are to come apart."""
        if not response.split_thoughts:
            return AnswerParts(self.calls(response, prompt))
        closing = "" if self._is_held(response) else self.thinking(prompt)
        return AnswerParts(self.calls(response, NO_PROMPT), self.chat.template.thoughts, closing)

    @staticmethod
    def _is_held(response: ResponseSpec) -> bool:
        """Whether a schema holds the answer from its first token on, so that none of it is thought."""
        return response.schema is not None and not (response.tools and response.choice != AUTO)

    def calls(self, response: ResponseSpec, prompt: Ints) -> CallStream | None:
        """Parts the answer to a prompt into text and calls; None where there are no tools."""
        if not response.tools:
            return None
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in response.tools}
        closing = "" if self._is_held(response) or not len(prompt) else self.thinking(prompt)
        return CallStream(self.form, schemas, self.chat.template.thoughts, closing, response.choice != AUTO)

    def marks(self, response: ResponseSpec) -> dict[int, str]:
        """Special tokens that are part of calls and thoughts and so of the answer's text, by id."""
        if not response.tools and not response.split_thoughts:
            return {}
        special = {index for index, token in self._tokenizer.added_tokens_decoder.items() if token.special}
        return {index: name for name, index in self._marks.items() if index in special}


def without_template(response: ResponseSpec) -> ResponseSpec:
    """What a raw prompt can be asked for.

    Raises:
        InvalidToolsError: it has tools, which only a chat template tells a model of.
        ConfigurationError: it tells the chat template something.
    """
    if response.tools:
        raise InvalidToolsError("a raw prompt takes no tools: give messages")
    if response.wanted != NO_WISH:
        raise ConfigurationError("reasoning_effort and chat_template_kwargs are for a chat template: give messages")
    return replace(response, split_thoughts=False)
