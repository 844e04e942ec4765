"""Tools and choices in the forms of other APIs, in OpenAI's. What is in none of them is left to who checks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from semshare_agents.tools.checking import AUTO, NONE, REQUIRED

WORDS = (AUTO, NONE, REQUIRED, "any")


def in_one_form(tools: object) -> object:
    """Tools whose name, description and schema stand beside their type, or have no type, as `function` has them."""
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        return tools
    return [_tool(tool) for tool in tools]


def _tool(tool: Any) -> Any:
    if not isinstance(tool, Mapping):
        return tool
    kind, function = tool.get("type"), tool.get("function")
    if isinstance(function, Mapping):
        return {"type": "function", "function": function} if kind in (None, "function") else tool
    if function is not None or "name" not in tool:
        return tool
    if kind == "function" or (kind in (None, "custom") and "input_schema" in tool):
        schema = tool.get("parameters", tool.get("input_schema"))
        return {"type": "function", "function": {**tool, "parameters": schema}}
    return tool


def plain_choice(choice: object) -> object:
    """A choice whose word is its type, or whose name stands beside it, as the word or the name."""
    if not isinstance(choice, Mapping) or isinstance(choice.get("function"), Mapping):
        return choice
    if isinstance(choice.get("name"), str):
        return choice["name"]
    return choice["type"] if choice.get("type") in WORDS else choice
