"""Token counts of prompts before they are sent: by the model's own tokenizer and chat template, without weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from semshare_agents.errors import PromptError
from semshare_agents.messages.cleaning import clean_messages
from semshare_agents.model.loading import tokenizer_here
from semshare_agents.model.tokenise import tokenise_text
from semshare_agents.request.output import FREE, OutputControl, ResponseSpec, response_spec
from semshare_agents.values import Ints, Messages

REMEMBERED_MESSAGES = 4096
ASKED, ANSWERED = {"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}


class PromptCounter:
    """Counts prompts as turns make them.

    Args:
        tokenizer: A transformers tokenizer.
        steering: Makes prompts of messages and tools.
    """

    def __init__(self, tokenizer: Any, steering: OutputControl):
        self._tokenizer = tokenizer
        self._steering = steering
        self._alone = lru_cache(REMEMBERED_MESSAGES)(self._counted_alone)

    def text(self, text: str) -> list[int]:
        """Token ids of a text inside a message."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def raw(self, text: str) -> list[int]:
        """Token ids of a raw prompt, with what the tokenizer puts before it."""
        ids: list[int] = tokenise_text(self._tokenizer, [{"role": "user", "content": text}]).tolist() if text else []
        return ids

    def messages(self, messages: Messages, tools: object = None) -> int:
        """Tokens of the prompt that messages and tools in OpenAI's form become; 0 for no messages.

        A list that the template refuses as a conversation, such as the parts of one that trimming tries (an answer
        first, a result without its call), counts as its messages do one by one.

        Raises:
            PromptError: tools are malformed, or the template refuses single messages too.
        """
        if not messages:
            return 0
        response = response_spec(tools, None, False, None)
        try:
            return len(self._prompt(messages, response))
        except PromptError:
            frame = self._frame(FREE)
            each = [self._alone(json.dumps(message, sort_keys=True, default=str)) for message in messages]
            return self._frame(response) + sum(max(1, count - frame) for count in each)

    def _prompt(self, messages: Messages, response: ResponseSpec) -> Ints:
        return self._steering.prompt(clean_messages(messages), response)

    def _frame(self, response: ResponseSpec) -> int:
        """Tokens around a conversation, whatever is said: three messages and one have it once."""
        one, three = (len(self._prompt(said, response)) for said in ([ASKED], [ASKED, ANSWERED, ASKED]))
        return max(0, (3 * one - three) // 2)

    def _counted_alone(self, message: str) -> int:
        """Tokens of a prompt with this message alone; where that is refused too, with a user who says it."""
        told: Mapping[str, Any] = json.loads(message)
        try:
            return len(self._prompt([told], FREE))
        except PromptError:
            calls = json.dumps(told["tool_calls"]) if told.get("tool_calls") else ""
            said = f"{told.get('content') or ''}{calls}"
            return len(self._prompt([{"role": "user", "content": said}], FREE))


@lru_cache(4)
def counter_here(model: str, home: Path, control_tokens: str = "text") -> PromptCounter:
    """A counter of a model that need not be loaded; the network is never asked.

    Args:
        model: `default`, a folder, a `.gguf` file or a hub id.
        home: The package's folder.
        control_tokens: The setting of that name.

    Raises:
        ModelNotFoundError: its tokenizer is not on this machine.
    """
    tokenizer = tokenizer_here(model, home)
    return PromptCounter(tokenizer, OutputControl(tokenizer, frozenset(), control_tokens))
