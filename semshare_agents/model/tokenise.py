"""From a message list to token ids, through the model's own chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from semshare_agents.errors import ContextLengthError, InvalidMessagesError, TemplateError
from semshare_agents.values import Ints, Messages

LONGEST_QUESTION_TOKENS = 64
TEMPLATE_TOKENS = 8
"""What a chat template adds after the last message, and some slack for tokens that merge across its border."""

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function", "ipython"})


def clean_messages(messages: Messages) -> list[dict[str, Any]]:
    """Validate a message list; lists of text parts become one text.

    Raises:
        InvalidMessagesError: it is empty, or an entry is no mapping with a known role and text content.
    """
    if isinstance(messages, str | bytes | Mapping) or not hasattr(messages, "__iter__"):
        raise InvalidMessagesError('messages must be a list of {"role", "content"} mappings')
    cleaned = [_clean(i, message) for i, message in enumerate(messages)]
    if not cleaned:
        raise InvalidMessagesError("messages must not be empty")
    return cleaned


def _clean(index: int, message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidMessagesError(f"message {index} is not a mapping but {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidMessagesError(f"message {index} has role {role!r}; known roles: {', '.join(sorted(ROLES))}")
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        content = ""
    if isinstance(content, list | tuple):
        texts = [p.get("text") if isinstance(p, Mapping) and p.get("type") == "text" else None for p in content]
        if not all(isinstance(t, str) for t in texts):
            raise InvalidMessagesError(f"message {index} has parts other than text, which this model cannot read")
        content = "".join(str(t) for t in texts)
    if not isinstance(content, str):
        raise InvalidMessagesError(f"message {index} has content of type {type(content).__name__}; it must be text")
    cleaned = {**message, "content": content}
    if message.get("tool_calls"):
        cleaned["tool_calls"] = _clean_calls(index, message["tool_calls"])
    return cleaned


def _clean_calls(index: int, calls: object) -> list[dict[str, Any]]:
    """Calls in OpenAI's form, with arguments as the mapping that chat templates want."""
    if not isinstance(calls, list | tuple):
        raise InvalidMessagesError(f"message {index} has tool_calls of type {type(calls).__name__}; it must be a list")
    cleaned = []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str):
            raise InvalidMessagesError(
                f'message {index} has a tool call that is not {{"function": {{"name": ..., "arguments": ...}}}}'
            )
        arguments = _arguments(function.get("arguments"))
        identifier = str(call.get("id") or "")
        cleaned.append({"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}})
    return cleaned


def _arguments(value: object) -> Any:
    """JSON text becomes what it says; a model's own broken JSON is shown to it as it was."""
    if not isinstance(value, str):
        return {} if value is None else value
    try:
        return json.loads(value or "{}")
    except ValueError:
        return value


def tokenise(tokenizer: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> Ints:
    """Render messages with the chat template and encode them, up to where the answer begins.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        messages: Validated messages.
        tools: JSON schemas of tools, for templates that render them.

    Returns:
        Token ids, shape `(tokens,)`.

    Raises:
        TemplateError: there is no template, or it refuses the messages.
    """
    from jinja2 import TemplateError as JinjaError

    if tokenizer.chat_template is None:
        raise TemplateError("the tokenizer has no chat template: use a model made for chat")
    try:
        encoded = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, return_dict=True)
    except (JinjaError, TypeError, KeyError) as e:
        raise TemplateError(f"the model's chat template refuses these messages: {e}") from e
    return np.asarray(encoded["input_ids"], dtype=np.int64)


def tokenise_text(tokenizer: Any, messages: list[dict[str, Any]]) -> Ints:
    """Encode a prompt that is to be continued as it is.

    Args:
        tokenizer: A transformers tokenizer.
        messages: One validated message, whose content is the prompt.

    Returns:
        Token ids, shape `(tokens,)`.

    Raises:
        InvalidMessagesError: there is more than one message, or it has no tokens.
    """
    if len(messages) != 1:
        raise InvalidMessagesError("a raw prompt is one message: its content is continued as it is")
    encoded = np.asarray(tokenizer.encode(messages[0]["content"]), dtype=np.int64)
    if not len(encoded):
        raise InvalidMessagesError("the prompt is empty: give it at least one token")
    return encoded


def question_tokens(tokenizer: Any, messages: list[dict[str, Any]]) -> int:
    """How many tokens at the prompt's end hold what is asked: the last paragraph, and what the template adds.

    A question is short and every word of it counts; a last paragraph longer than `LONGEST_QUESTION_TOKENS` is taken
    for a text that ends without one.
    """
    paragraph = messages[-1]["content"].rstrip().rpartition("\n\n")[2]
    count = len(tokenizer.encode(paragraph[-8 * LONGEST_QUESTION_TOKENS :], add_special_tokens=False))
    return min(count, LONGEST_QUESTION_TOKENS) + TEMPLATE_TOKENS


def check_length(prompt_tokens: int, max_new_tokens: int, context_tokens: int) -> int:
    """How many tokens may be generated.

    Raises:
        ContextLengthError: the prompt leaves no room for an answer.
    """
    room = context_tokens - prompt_tokens
    if room < 1:
        raise ContextLengthError(
            f"the prompt has {prompt_tokens} tokens, the model's context {context_tokens}: shorten the history"
        )
    return min(max_new_tokens, room)
