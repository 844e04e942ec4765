"""Tools, calls and results in the prompt: by the model's own chat template, else as text.

What a template renders is seen from what it makes of a tool, a call and a result that are there for this alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError as JinjaError

from semshare_agents.tools.base import ToolFormat
from semshare_agents.tools.checking import Tools
from semshare_agents.values import ToolCall

Chat = list[dict[str, Any]]

FALLBACK = """You can call functions. They are listed here, one a line, with a JSON schema of their parameters:
{tools}

To call a function, answer with its name and its arguments as JSON, in this form and with nothing else:
{example}
The result comes back between <tool_response> and </tool_response>. When no function is needed, just answer."""
"""The system message's text of tools, for templates that do not render them."""

PROBE = "semshare_probe"
PROBE_TOOL = {
    "type": "function",
    "function": {"name": PROBE, "description": "", "parameters": {"type": "object", "properties": {}}},
}
PROBE_CALLS: Chat = [
    {"role": "user", "content": "?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": PROBE, "arguments": {}}}],
    },
    {"role": "tool", "name": PROBE, "tool_call_id": "abcdefghi", "content": f"{PROBE}_result"},
]


class ToolPrompt:
    """What a chat template makes of tools.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        form: How the model writes calls.
    """

    def __init__(self, tokenizer: Any, form: ToolFormat):
        self._tokenizer = tokenizer
        self._form = form

    def prepared(self, messages: Chat, tools: Tools) -> tuple[Chat, Tools | None]:
        """Messages and tools as the template can render them; those that it cannot become text."""
        if any(m["role"] == "tool" or m.get("tool_calls") for m in messages) and not self.shows_calls:
            messages = _told(messages, self._form)
        if not tools or self.shows_tools:
            return messages, tools or None
        return self._introduced(messages, self._introduction(tools)), None

    @cached_property
    def shows_tools(self) -> bool:
        """Whether the template renders tools."""
        return PROBE in self._rendered([{"role": "user", "content": "?"}], [PROBE_TOOL])

    @cached_property
    def shows_calls(self) -> bool:
        """Whether the template renders calls and results."""
        text = self._rendered(PROBE_CALLS, [PROBE_TOOL])
        return text.replace(f"{PROBE}_result", "").count(PROBE) > (
            PROBE in self._rendered(PROBE_CALLS[:1], [PROBE_TOOL])
        )

    @cached_property
    def takes_system(self) -> bool:
        """Whether the template takes a system message."""
        return PROBE in self._rendered([{"role": "system", "content": PROBE}, {"role": "user", "content": "?"}], None)

    def _rendered(self, messages: Chat, tools: Tools | None) -> str:
        try:
            return str(self._tokenizer.apply_chat_template(messages, tools=tools, tokenize=False))
        except (JinjaError, TypeError, KeyError):
            return ""

    def _introduction(self, tools: Tools) -> str:
        example = ToolCall("", "function_name", '{"argument": "value"}')
        return FALLBACK.format(
            tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools),
            example=self._form.written([example]),
        )

    def _introduced(self, messages: Chat, text: str) -> Chat:
        """The messages with `text` at the end of the system message, or before the first one's text."""
        first, rest = messages[0], messages[1:]
        if first["role"] in ("system", "developer"):
            return [{**first, "content": f"{first['content']}\n\n{text}".lstrip()}, *rest]
        if self.takes_system:
            return [{"role": "system", "content": text}, *messages]
        return [{**first, "content": f"{text}\n\n{first['content']}"}, *rest]


def _told(messages: Chat, form: ToolFormat) -> Chat:
    """Calls and results as text of assistant and user, results that follow one another in one message."""
    out: Chat = []
    last = ""
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "tool":
            result = f"<tool_response>\n{content}\n</tool_response>"
            if last == "tool":
                out[-1]["content"] += f"\n{result}"
            else:
                out.append({"role": "user", "content": result})
        elif message.get("tool_calls"):
            text = form.written(_calls(message["tool_calls"]))
            out.append({"role": role, "content": f"{content}\n{text}" if content else text})
        else:
            out.append(message)
        last = role
    return out


def _calls(calls: Sequence[dict[str, Any]]) -> list[ToolCall]:
    functions = [call["function"] for call in calls]
    return [ToolCall("", f["name"], json.dumps(f["arguments"], ensure_ascii=False)) for f in functions]
