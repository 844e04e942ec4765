"""A conversation as token ids: brought to what the template can say, rendered, and encoded with text kept as text."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

import numpy as np

from semshare_agents.errors import TemplateError
from semshare_agents.messages.cleaning import RESULTS, THOUGHTS, Chat
from semshare_agents.messages.control import ControlTokens, control_names
from semshare_agents.messages.pairing import Alone, Round, paired
from semshare_agents.messages.rounds import RESULT_TAGS, Message, told_results
from semshare_agents.messages.template import REFUSALS, Template, refusing
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

Told = list[tuple[int, Message]]
"""Messages as the template gets them, each with the index of the caller's message that it comes from."""


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

    def ids(self, messages: Chat, tools: Tools | None = None) -> Ints:
        """Token ids of a prompt up to where the answer begins, shape `(tokens,)`.

        Args:
            messages: Messages from `clean_messages`.
            tools: Tools in OpenAI's form.

        Raises:
            InvalidMessagesError: results and calls do not belong together.
            TemplateError: there is no template, or it refuses a message or cannot say it.
        """
        if self._tokenizer.chat_template is None:
            raise TemplateError("the tokenizer has no chat template: use a model made for chat")
        told, shown = self.told(messages, tools or [])
        text = self._rendered(told, shown)
        if self._guarding:
            return self.control.encoded(text)
        return np.asarray(self._tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)

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

    def told(self, messages: Chat, tools: Tools) -> tuple[Told, Tools | None]:
        """Messages and tools in the form that the template can say; control tokens in them are put aside.

        Raises:
            InvalidMessagesError: results and calls do not belong together.
            TemplateError: the template has no way to say a message.
        """
        items = paired(messages)
        guarded = [self._guarded(message) for message in messages]
        last_asked = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
        told: Told = []
        for item in items:
            if isinstance(item, Round):
                said = self._with_thoughts(guarded[item.at], item.at > last_asked)
                results = [None if r is None else self._result(guarded[r]) for r in item.results]
                told += self._round(item, said, results, bool(tools))
            else:
                told.append((item.at, self._alone(guarded[item.at], item.at > last_asked, bool(tools))))
        orphans = {i.at for i in items if isinstance(i, Alone) and messages[i.at]["role"] in RESULTS}
        told = _merged(self._systems(told, bool(tools)), orphans, every=not self.template.takes_runs())
        if not tools or self.template.shows_tools:
            return told, (self.control.guarded(tools) if self._guarding else tools) or None
        return self._introduced(told, self._introduction(tools)), None

    def _guarded(self, message: Message) -> Message:
        if not self._guarding:
            return message
        own = ("content", THOUGHTS) if message["role"] == "assistant" else ()
        guard = self.control.guarded
        return {k: v if k == "role" else guard(v, own=k in own) for k, v in message.items()}

    # --- messages

    def _alone(self, message: Message, under_way: bool, tools: bool) -> Message:
        role = message["role"]
        if role == "assistant":
            return self._with_thoughts(message, under_way)
        if role in RESULTS:
            return told_results([message])
        unknown = role == "developer" and not (self.template.knows(role) and self.template.knows(role, tools))
        return {**message, "role": "system"} if unknown else message

    def _with_thoughts(self, message: Message, under_way: bool) -> Message:
        """Thoughts under the name that the template knows.

        A template that knows none gets those of the turn under way, on which the model goes on, in the message's text.
        Earlier ones are left out, as templates of thinking models leave them out themselves.
        """
        if THOUGHTS not in message:
            return message
        rest = {k: v for k, v in message.items() if k != THOUGHTS}
        field, thought = self.template.thought_field("tool_calls" in message), message[THOUGHTS]
        if field:
            return {**rest, field: thought}
        opening, closing = TAGS[0]
        return {**rest, "content": f"{opening}\n{thought}\n{closing}\n\n{rest['content']}"} if under_way else rest

    def _result(self, message: Message) -> Message:
        known = message["role"] == "tool" or self.template.knows(message["role"])
        return message if known else {**message, "role": "tool"}

    def _round(self, item: Round, call: Message, results: list[Message | None], tools: bool) -> Told:
        shape = self.template.shape_of(tools, bool(call["content"]), len(call["tool_calls"]) > 1)
        if not shape.told and not shape.as_text and not self._takes_broken(call):
            calls = [{**c, "function": _mapped(c["function"])} for c in call["tool_calls"]]
            call = {**call, "tool_calls": calls}
        if not shape.told and not self.template.takes_any_id:
            call = {**call, "tool_calls": [{**c, "id": _short(c["id"])} for c in call["tool_calls"]]}
            ids = [c["id"] for c in call["tool_calls"]]
            results = [r and {**r, "tool_call_id": i} for r, i in zip(results, ids, strict=True)]
        places = {id(r): at for r, at in zip(results, item.results, strict=True) if at is not None}
        return [(places.get(id(m), item.at), m) for m in shape.messages(call, results, self._form)]

    def _takes_broken(self, call: Message) -> bool:
        whole = all(isinstance(c["function"]["arguments"], dict) for c in call["tool_calls"])
        return whole or self.template.takes_broken

    # --- system messages

    def _systems(self, told: Told, tools: bool) -> Told:
        """System messages where the template takes them: as they are, as one, or in the user's first message."""
        template = self.template
        count = next((i for i, (_, m) in enumerate(told) if m["role"] not in SYSTEMS), len(told))
        later = next((at for at, m in told[count:] if m["role"] in SYSTEMS), None)
        if later is not None and not template.takes_later_system():
            raise TemplateError(
                f"message {later}: the model's chat template takes a system message at the start alone; "
                "say it there, or as the user"
            )
        taken = all(m["role"] != "system" for _, m in told[:count]) or template.takes_system(tools)
        if not count or (taken and (count == 1 or template.takes_systems(tools))):
            return told
        first = {**told[0][1], "content": "\n\n".join(m["content"] for _, m in told[:count])}
        if taken:
            return [(told[0][0], first), *told[count:]]
        return self._before_user(told[count:], first["content"], told[0][0])

    def _before_user(self, told: Told, text: str, index: int) -> Told:
        """`text` at the start of the user's first message."""
        for k, (at, message) in enumerate(told):
            if message["role"] == "user":
                return [*told[:k], (at, {**message, "content": f"{text}\n\n{message['content']}"}), *told[k + 1 :]]
        raise TemplateError(
            f"message {index}: the model's chat template takes no system message, and there is no user's to say it in"
        )

    # --- tools

    def _introduction(self, tools: Tools) -> str:
        example = ToolCall("", "function_name", '{"argument": "value"}')
        listed = self.control.guarded(tools) if self._guarding else tools
        return FALLBACK.format(
            tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in listed),
            example=self._form.written([example]),
        )

    def _introduced(self, told: Told, text: str) -> Told:
        """The messages with `text` at the end of the system message, or before the first one's text."""
        at, first = told[0]
        if first["role"] in SYSTEMS:
            return [(at, {**first, "content": f"{first['content']}\n\n{text}".lstrip()}), *told[1:]]
        if self.template.takes_system():
            return [(at, {"role": "system", "content": text}), *told]
        return self._before_user(told, text, at)

    # --- rendering

    def _rendered(self, told: Told, tools: Tools | None) -> str:
        messages = [message for _, message in told]
        try:
            return self.template.render(messages, tools)
        except REFUSALS as e:
            at = told[self._refused(messages, tools)][0]
            raise TemplateError(f"message {at}: the model's chat template refuses it: {e}") from e

    def _refused(self, messages: Chat, tools: Tools | None) -> int:
        """Which message the template refuses."""

        def render(count: int) -> None:
            try:
                self.template.render(messages[:count], tools)
            except REFUSALS:
                # A beginning may be refused only because no user speaks at its end.
                self.template.render([*messages[:count], {"role": "user", "content": "?"}], tools)

        return refusing(render, len(messages))


def _mapped(function: Message) -> Message:
    """A called function with its arguments as an object, whatever they are."""
    arguments = function["arguments"]
    return function if isinstance(arguments, dict) else {**function, "arguments": {BROKEN: arguments}}


def _merged(told: Told, orphans: set[int], every: bool) -> Told:
    """Results without calls go into the user's message after them, and a run of messages of one role into one.

    Args:
        told: The messages.
        orphans: Which of them are such results.
        every: Whether all runs are, for templates that want turns in alternation.
    """
    out: Told = []
    for at, message in told:
        before = out[-1] if out else (0, {"role": ""})
        alike = message["role"] == before[1]["role"] and message["role"] in ("user", "assistant")
        calls = "tool_calls" in message or "tool_calls" in before[1]
        if alike and not calls and (every or before[0] in orphans):
            out[-1] = (at, {**message, "content": f"{before[1]['content']}\n\n{message['content']}"})
        else:
            out.append((at, message))
    return out


def _short(identifier: str) -> str:
    """An id of nine letters and digits, which Mistral's templates insist on."""
    return identifier and hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()[:9]
