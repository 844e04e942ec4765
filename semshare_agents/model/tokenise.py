"""From a message list to token ids, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from semshare_agents.errors import ContextLengthError, InvalidMessagesError
from semshare_agents.messages.cleaning import clean_messages
from semshare_agents.messages.prompt import ChatPrompt
from semshare_agents.messages.template import form_of
from semshare_agents.values import Ints, Sampling

__all__ = ["check_length", "clean_messages", "question_tokens", "tokenise", "tokenise_text"]

LONGEST_QUESTION_TOKENS = 64
TEMPLATE_TOKENS = 8
"""What a chat template adds after the last message, and some slack for tokens that merge across its border."""


def tokenise(tokenizer: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> Ints:
    """Render messages with the chat template and encode them, up to where the answer begins.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        messages: Validated messages; names of control tokens in them stay text.
        tools: Tools in OpenAI's form.

    Returns:
        Token ids, shape `(tokens,)`.

    Raises:
        PromptError: there is no template, or it cannot say the messages.
    """
    return ChatPrompt(tokenizer, form_of(tokenizer)).ids(messages, tools)


def tokenise_text(tokenizer: Any, messages: list[dict[str, Any]], ended: bool = False) -> Ints:
    """Encode a prompt that is to be continued as it is; control tokens in it act, since it is its own template.

    The begin mark that the tokenizer sets stands before it once, also where the prompt has it already. Its end mark
    does not follow: nothing could be continued behind it.

    Args:
        tokenizer: A transformers tokenizer.
        messages: One validated message, whose content is the prompt.
        ended: Whether an encoder reads the prompt, which wants the end mark.

    Returns:
        Token ids, shape `(tokens,)`.

    Raises:
        InvalidMessagesError: there is more than one message, or it has no tokens.
    """
    if len(messages) != 1:
        raise InvalidMessagesError("a raw prompt is one message: its content is continued as it is")
    bare = tokenizer.encode(messages[0]["content"], add_special_tokens=False)
    before, after = _marks_around(tokenizer)
    if before and bare[: len(before)] == before:
        before = []
    encoded = np.asarray([*before, *bare, *(after if ended else [])], dtype=np.int64)
    if not len(encoded):
        raise InvalidMessagesError("the prompt is empty: give it at least one token")
    return encoded


def checked_ids(ids: Sequence[int], vocabulary: int) -> Ints:
    """A prompt that the caller made, shape `(tokens,)`.

    Raises:
        InvalidMessagesError: it holds an id that the model has no token for.
    """
    unknown = next((i for i in ids if not 0 <= i < vocabulary), None)
    if unknown is not None:
        raise InvalidMessagesError(f"the prompt holds the token id {unknown}; the model knows 0 to {vocabulary - 1}")
    return np.asarray(ids, dtype=np.int64)


def _marks_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer sets before and after a text."""
    bare, full = (list(tokenizer.encode("a", add_special_tokens=special)) for special in (False, True))
    at = next((i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare), 0)
    return full[:at], full[at + len(bare) :]


def question_tokens(tokenizer: Any, messages: list[dict[str, Any]]) -> int:
    """How many tokens at the prompt's end hold what is asked: the last paragraph, and what the template adds.

    A question is short and every word of it counts; a last paragraph longer than `LONGEST_QUESTION_TOKENS` is taken
    for a text that ends without one. An answer that has begun stands behind the question and counts too.
    """
    last = messages[-1]
    begun = last["content"] if last["role"] == "assistant" and "tool_calls" not in last and len(messages) > 1 else ""
    asked = messages[-2 if begun else -1]["content"]
    paragraph = asked.rstrip().rpartition("\n\n")[2]
    count, behind = (
        len(tokenizer.encode(text, add_special_tokens=False))
        for text in (paragraph[-8 * LONGEST_QUESTION_TOKENS :], begun)
    )
    return min(count, LONGEST_QUESTION_TOKENS) + behind + TEMPLATE_TOKENS * (1 + bool(begun))


def check_length(
    prompt_tokens: int, max_new_tokens: int | None, context_tokens: int, reuse_tokens: int | None = None
) -> int:
    """How many tokens may be generated.

    Args:
        prompt_tokens: Length of the prompt.
        max_new_tokens: Most tokens that are asked for; None where the caller does not say.
        context_tokens: Longest sequence of the model.
        reuse_tokens: Longest sequence that can reuse KV, where that is shorter. An answer of which nobody says how long
            it may be ends there, if a usual one fits before: else no such turn could reuse anything.

    Raises:
        ContextLengthError: the prompt leaves no room for an answer.
    """
    room = context_tokens - prompt_tokens
    if room < 1:
        # Clients know an overflow by such words alone, each by others.
        raise ContextLengthError(
            f"prompt is too long: {prompt_tokens} tokens > {context_tokens} maximum. This model's maximum context "
            f"length is {context_tokens} tokens. However, your messages resulted in {prompt_tokens} tokens, which "
            "exceeds the context window: shorten the history"
        )
    if max_new_tokens is not None:
        return min(max_new_tokens, room)
    before = room if reuse_tokens is None else reuse_tokens - prompt_tokens
    return min(before, room) if before >= Sampling.TYPICAL_TOKENS else room
