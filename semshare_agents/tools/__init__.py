"""Tools: how a model is told of them, and how it calls them. A way of writing calls is one file."""

from __future__ import annotations

from semshare_agents.tools.base import ToolFormat
from semshare_agents.tools.hermes import Hermes
from semshare_agents.tools.llama3 import Llama3
from semshare_agents.tools.mistral import Mistral, MistralList
from semshare_agents.tools.xml import XmlLike

FORMATS: tuple[type[ToolFormat], ...] = (XmlLike, Hermes, Mistral, MistralList, Llama3)
"""From the surest to the vaguest sign in a template."""


def format_of(template: str) -> ToolFormat:
    """The way in which a model with this chat template writes tool calls; Hermes where the template knows none."""
    return next((kind() for kind in FORMATS if kind.fits(template)), Hermes())


__all__ = ["FORMATS", "ToolFormat", "format_of"]
