"""A conversation as token ids: brought to what the template can say, rendered, and encoded with text kept as text."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

import numpy as np

from semshare_agents.errors import InvalidMessagesError, TemplateError
from semshare_agents.messages.cleaning import RESULTS, THOUGHTS, Chat, place
from semshare_agents.messages.control import ControlTokens, control_names
from semshare_agents.messages.order import Ordering, Told
from semshare_agents.messages.pairing import Alone, Round, paired
from semshare_agents.messages.rendering import Rendering, begun
from semshare_agents.messages.rounds import RESULT_TAGS, SHAPES, Message, told_results, told_system
from semshare_agents.messages.template import Template
from semshare_agents.messages.thinking import NO_WISH, Thinking, Wish
from semshare_agents.tools.base import ToolFormat
from semshare_agents.tools.checking import Tools
from semshare_agents.tools.drafts import TAGS
from semshare_agents.values import Ints, ToolCall

FALLBACK = """You can call functions. They are listed here, one a line, with a JSON schema of their parameters:
{tools}

To call a function, answer with its name and its arguments as JSON, in this form and with nothing else:
{example}
The result comes back between <tool_response> and </tool_response>. When no function is needed, just answer."""
"""The system message's text of tools, for templates that do not render them."""

BROKEN = "arguments"
"""The name under which arguments that are no object stand where a template takes objects alone."""

SYSTEMS = ("system", "developer")
NAMED = ("user", *SYSTEMS)
"""Roles of which a name says who speaks; an answer is the assistant's, and a result's call says whose it is."""

TURNS = Ordering(users=False, assistants=False, empty=False, first_assistant=False, no_user=False)
"""What every template takes: user and assistant in turns, the user first."""


class ChatPrompt:
    """Makes prompts for one model. What its template can say is found out when first needed.

    Args:
        tokenizer: A transformers tokenizer.
        form: How the model writes calls.
        control_tokens: `text`: names of control tokens in messages stay text; `tokens`: they become tokens.
    """

    def __init__(self, tokenizer: Any, form: ToolFormat, control_tokens: str = "text"):
        self._tokenizer = tokenizer
        self._form = form
        self._guarding = control_tokens == "text"
        self.template = Template(tokenizer, form)
        self.thinking = Thinking(self.template)
        self._rendering = Rendering(self.template)

    def ids(self, messages: Chat, tools: Tools | None = None, wanted: Wish = NO_WISH) -> Ints:
        """Token ids of a prompt up to where the answer begins, shape `(tokens,)`.

        Args:
            messages: Messages from `clean_messages`.
            tools: Tools in OpenAI's form.
            wanted: What else the template is told.

        Raises:
            InvalidMessagesError: results and calls do not belong together.
            TemplateError: there is no template, or it refuses a message or cannot say it.
        """
        if self._tokenizer.chat_template is None:
            raise TemplateError("the tokenizer has no chat template: use a model made for chat")
        text = self.text(messages, tools or [], wanted)
        _check_letters(text, messages)
        if self._guarding:
            return self.control.encoded(text)
        return np.asarray(self._tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)

    def text(self, messages: Chat, tools: Tools, wanted: Wish = NO_WISH) -> str:
        """The prompt's text, in which names of control tokens from messages are put aside.

        What the template takes back from the form that its probes allow is told in the plainest one: turns of user and
        assistant, calls and results as their text.
        """
        variables = self.thinking.variables(wanted)
        try:
            text = self._rendering.text(*self.told(messages, tools), variables)
        except TemplateError as refused:
            try:
                text = self._rendering.text(*self.told(messages, tools, plain=True), variables)
            except TemplateError:
                raise refused from None
        return text if begun(messages[-1]) else self.thinking.ended(text, wanted)

    @cached_property
    def control(self) -> ControlTokens:
        """What keeps control tokens in messages from acting."""
        form, thoughts = self._form, [mark for pair in self.template.thoughts for mark in pair]
        names = control_names(
            self._tokenizer, "\n".join((self.template.source, form.written_marks, *RESULT_TAGS, *thoughts))
        )
        around = self.template.around
        special = {str(t) for t in self._tokenizer.added_tokens_decoder.values() if t.special}
        own = {n for n in names if n in form.written_marks or n in thoughts or (n not in special and n not in around)}
        return ControlTokens(self._tokenizer, names, own)

    def told(self, messages: Chat, tools: Tools, plain: bool = False) -> tuple[Told, Tools | None]:
        """Messages and tools in the form that the template can say; control tokens in them are put aside.

        Args:
            messages: Messages from `clean_messages`.
            tools: Tools.
            plain: Whether in the plainest form.

        Raises:
            InvalidMessagesError: results and calls do not belong together.
        """
        items = paired(messages)
        plain_text = not self._guarding or self.control.all_plain(v for m in messages for v in m.values())
        guarded = [self._named(m if plain_text else self._guarded(m)) for m in messages]
        told: Told = []
        for item in items:
            if isinstance(item, Round):
                told += self._round(item, messages, guarded, bool(tools), plain)
            else:
                thinks = THOUGHTS in messages[item.at] and _goes_on(messages, item.at)
                told.append((place(messages, item.at), self._alone(guarded[item.at], thinks, bool(tools))))
        orphans = frozenset(
            place(messages, i.at) for i in items if isinstance(i, Alone) and messages[i.at]["role"] in RESULTS
        )
        shown = (self.control.guarded(tools) if self._guarding else tools) if self.template.shows_tools else []
        if tools and not shown:
            told = self._introduced(told, self._introduction(tools))
        told = self._systems(told, bool(tools), plain)
        last = told[-1][1] if told else {}
        if last.get("role") == "assistant" and "tool_calls" not in last and not begun(last) and THOUGHTS not in last:
            # An answer of which there is nothing yet.
            told = told[:-1] or told
        ordering = TURNS if plain else self.template.ordering(bool(tools))
        return ordering.told(told, orphans), shown or None

    def _guarded(self, message: Message) -> Message:
        own = ("content", THOUGHTS) if message["role"] == "assistant" else ()
        guard = self.control.guarded
        return {k: v if k == "role" else guard(v, own=k in own) for k, v in message.items()}

    # --- messages

    def _named(self, message: Message) -> Message:
        """A message with its speaker's name before its text, where the template does not render names."""
        name = message.get("name")
        if not name or not isinstance(name, str) or message["role"] not in NAMED or self.template.says_names:
            return message
        return {**message, "content": f"{name}: {message['content']}"}

    def _alone(self, message: Message, thinks: bool, tools: bool) -> Message:
        role = message["role"]
        if role == "assistant":
            return self._with_thoughts(message, thinks)
        if role in RESULTS:
            return told_results([message])
        unknown = role == "developer" and not (self.template.knows(role) and self.template.knows(role, tools))
        return {**message, "role": "system"} if unknown else message

    def _with_thoughts(self, message: Message, thinks: bool) -> Message:
        """Thoughts under the name that the template knows.

        A template that knows none gets those on which the model went on, to a call or another answer, in the message's
        text. Those of an answer after which the user spoke are left out, as templates of thinking models leave them
        out themselves.
        """
        if THOUGHTS not in message:
            return message
        rest = {k: v for k, v in message.items() if k != THOUGHTS}
        field, thought = self.template.thought_field("tool_calls" in message), message[THOUGHTS]
        if field:
            return {**rest, field: thought}
        opening, closing = TAGS[0]
        return {**rest, "content": f"{opening}\n{thought}\n{closing}\n\n{rest['content']}"} if thinks else rest

    def _result(self, message: Message) -> Message:
        known = message["role"] == "tool" or self.template.knows(message["role"])
        return message if known else {**message, "role": "tool"}

    def _round(self, item: Round, messages: Chat, guarded: list[Message], tools: bool, plain: bool) -> Told:
        call = self._with_thoughts(guarded[item.at], True)
        results = [None if r is None else self._result(guarded[r]) for r in item.results]
        shape = SHAPES[-1] if plain else self.template.shape_of(tools, bool(call["content"]), len(results) > 1)
        if not shape.told and not shape.as_text and not self._takes_broken(call):
            calls = [{**c, "function": _mapped(c["function"])} for c in call["tool_calls"]]
            call = {**call, "tool_calls": calls}
        if not shape.told and (letters := self.template.id_letters):
            ids = [_fitting(c, k, letters) for k, c in enumerate(call["tool_calls"])]
            call = {**call, "tool_calls": [{**c, "id": i} for c, i in zip(call["tool_calls"], ids, strict=True)]}
            results = [r and {**r, "tool_call_id": i} for r, i in zip(results, ids, strict=True)]
        places = {id(r): place(messages, at) for r, at in zip(results, item.results, strict=True) if at is not None}
        at = place(messages, item.at)
        return [(places.get(id(m), at), m) for m in shape.messages(call, results, self._form)]

    def _takes_broken(self, call: Message) -> bool:
        whole = all(isinstance(c["function"]["arguments"], dict) for c in call["tool_calls"])
        return whole or self.template.takes_broken

    # --- system messages

    def _systems(self, told: Told, tools: bool, plain: bool) -> Told:
        """System messages where the template takes them: as they are, as one, or as text of the user.

        A later one stays where it is, whatever it becomes: before it is what earlier prompts said.
        """
        template = self.template
        count = _systems_at_start(told)
        if plain or not template.takes_later_system():
            later = [(at, told_system(m) if m["role"] in SYSTEMS else m) for at, m in told[count:]]
            told = [*told[:count], *later]
        taken = all(m["role"] != "system" for _, m in told[:count]) or template.takes_system(tools)
        if not count or (taken and (count == 1 or template.takes_systems(tools))):
            return told
        first = {**told[0][1], "content": "\n\n".join(m["content"] for _, m in told[:count])}
        if taken:
            return [(told[0][0], first), *told[count:]]
        return self._before_user(told[count:], first["content"], told[0][0])

    def _before_user(self, told: Told, text: str, index: int) -> Told:
        """`text` at the start of what the user says first; before an answer that nobody asked for it stands alone."""
        if told and told[0][1]["role"] == "user":
            at, message = told[0]
            return [(at, {**message, "content": f"{text}\n\n{message['content']}"}), *told[1:]]
        return [(index, {"role": "user", "content": text}), *told]

    # --- tools

    def _introduction(self, tools: Tools) -> str:
        example = ToolCall("", "function_name", '{"argument": "value"}')
        listed = self.control.guarded(tools) if self._guarding else tools
        return FALLBACK.format(
            tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in listed),
            example=self._form.written([example]),
        )

    def _introduced(self, told: Told, text: str) -> Told:
        """The messages with `text` at the end of the system message at the start, or as one."""
        count = _systems_at_start(told)
        if not count:
            return [(told[0][0], {"role": "system", "content": text}), *told]
        at, last = told[count - 1]
        return [*told[: count - 1], (at, {**last, "content": f"{last['content']}\n\n{text}".lstrip()}), *told[count:]]


def _systems_at_start(told: Told) -> int:
    return next((i for i, (_, m) in enumerate(told) if m["role"] not in SYSTEMS), len(told))


def _mapped(function: Message) -> Message:
    """A called function with its arguments as an object, whatever they are."""
    arguments = function["arguments"]
    return function if isinstance(arguments, dict) else {**function, "arguments": {BROKEN: arguments}}


def _check_letters(text: str, messages: Chat) -> None:
    """Refuse halves of letters, which JSON can spell and no tokenizer reads."""
    if _is_unicode(text):
        return
    at = next((i for i, m in enumerate(messages) if not _is_unicode(json.dumps(m, ensure_ascii=False))), None)
    whose = "a tool" if at is None else f"message {place(messages, at)}"
    raise InvalidMessagesError(f"{whose} has text that is no Unicode: a surrogate without its other half")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _goes_on(messages: Chat, at: int) -> bool:
    """Whether the model goes on from a message itself: nobody else speaks after it."""
    after = next((m["role"] for m in messages[at + 1 :] if m["role"] not in SYSTEMS), "assistant")
    return after == "assistant"


def _fitting(call: Message, place_of: int, letters: int) -> str:
    """A call's id of so many letters and digits; one that fits is as it was given."""
    identifier: str = call["id"]
    if len(identifier) == letters and identifier.isascii() and identifier.isalnum():
        return identifier
    named = identifier or f"{place_of} {call['function']['name']} {call['function']['arguments']}"
    return hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()[:letters]
