"""Thinking, switched on and off: by the variables that a template reacts to, found by rendering with each value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from semshare_agents.errors import ConfigurationError
from semshare_agents.messages.template import ASKED, Template

OFF = "none"
EFFORTS = {OFF: "", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
"""Words for how much a model is to think, and the nearest of the three that templates know."""
SWITCHES = ("enable_thinking", "thinking")
"""Variables that are true or false."""
GRADED = "reasoning_effort"
TAKEN = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "max_length",
        "messages",
        "padding",
        "processor_kwargs",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)
"""What a caller cannot say to a template: it is said with the call itself."""


@dataclass(frozen=True)
class Wish:
    """What a caller tells the template besides messages.

    Attributes:
        effort: How much the model is to think, one of `EFFORTS`; empty where nothing is said.
        variables: Variables of the template by name.
    """

    effort: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)


NO_WISH = Wish()


def wish(effort: object, variables: object) -> Wish:
    """What a caller wants, checked; None says nothing.

    Raises:
        ConfigurationError: the word is unknown, or the variables are no mapping or say what is said elsewhere.
    """
    if effort is not None and (not isinstance(effort, str) or effort not in EFFORTS):
        raise ConfigurationError(f"reasoning_effort must be one of {', '.join(EFFORTS)}; got {effort!r}")
    if variables is not None and not (isinstance(variables, Mapping) and all(isinstance(k, str) for k in variables)):
        raise ConfigurationError("chat_template_kwargs must be a mapping of the template's variables by name")
    if taken := sorted(TAKEN & set(variables or ())):
        raise ConfigurationError(f"chat_template_kwargs cannot set {', '.join(taken)}: give it with the call itself")
    return Wish(str(effort or ""), dict(variables or {}))


class Thinking:
    """Switches a template's thinking.

    Args:
        template: The template.
    """

    def __init__(self, template: Template):
        self._template = template

    def variables(self, wanted: Wish) -> dict[str, Any]:
        """What the template is told; what a caller says by a variable's own name counts before the effort."""
        if not wanted.effort:
            return dict(wanted.variables)
        said: dict[str, Any] = dict.fromkeys(self._switches, wanted.effort != OFF)
        if self._graded and wanted.effort != OFF:
            said[GRADED] = EFFORTS[wanted.effort]
        return {**said, **wanted.variables}

    def ended(self, text: str, wanted: Wish) -> str:
        """The prompt's text, the thought closed that its end opens where none is wanted."""
        opened = self.opened(text) if wanted.effort == OFF else ""
        return f"{text.rstrip()}\n\n{opened}\n\n" if opened else text

    def opened(self, text: str) -> str:
        """The mark that closes the thought which a text's end opens; empty for none."""
        end = text.rstrip()
        return next((closing for opening, closing in self._template.thoughts if end.endswith(opening)), "")

    @cached_property
    def _switches(self) -> tuple[str, ...]:
        return tuple(name for name in SWITCHES if self._reacts(name, True, False))

    @cached_property
    def _graded(self) -> bool:
        return self._reacts(GRADED, "low", "high")

    def _reacts(self, name: str, *values: object) -> bool:
        """Whether a variable changes what is rendered."""
        said = {self._template.probed([ASKED], answer=True, variables={name: value}) for value in values}
        return len(said - {""}) > 1
