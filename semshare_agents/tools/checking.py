"""Tools and the choice among them, as callers give them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from semshare_agents.errors import InvalidToolsError
from semshare_agents.tools.depth import MOST_NESTED, too_deep

NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
AUTO, NONE, REQUIRED = "auto", "none", "required"
OBJECTS = ("object", "dict")
"""What the type of an object is called, in letters of either case."""

Tools = list[dict[str, Any]]


def clean_tools(tools: object) -> Tools:
    """Tools in OpenAI's form, each with a JSON schema of its arguments.

    Args:
        tools: `{"type": "function", "function": {"name", "description", "parameters"}}` mappings, or None.

    Raises:
        InvalidToolsError: a tool is malformed, or two have one name.
    """
    if tools is None:
        return []
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise InvalidToolsError('tools must be a list of {"type": "function", "function": {...}} mappings')
    cleaned = [clean_tool(i, tool) for i, tool in enumerate(tools)]
    names = [tool["function"]["name"] for tool in cleaned]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidToolsError(f"two tools have the name {twice[0]!r}")
    return cleaned


def clean_tool(index: int, tool: object) -> dict[str, Any]:
    """One tool in OpenAI's form, as `clean_tools` gives it.

    Args:
        index: Its place, for errors.
        tool: The tool.

    Raises:
        InvalidToolsError: it is malformed.
    """
    function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
    if not isinstance(function, Mapping):
        raise InvalidToolsError(f'tool {index} is not of the form {{"type": "function", "function": {{...}}}}')
    name, described = function.get("name"), function.get("description", "")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidToolsError(
            f"tool {index} has the name {name!r}: use up to 64 letters, digits, underscores, dots and dashes"
        )
    if described is not None and not isinstance(described, str):
        raise InvalidToolsError(f"tool {name!r} has a description that is not text")
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping) or str(parameters.get("type") or "object").lower() not in OBJECTS:
        raise InvalidToolsError(f"the parameters of tool {name!r} must be a JSON schema of an object")
    if too_deep(parameters):
        raise InvalidToolsError(f"the parameters of tool {name!r} are nested deeper than {MOST_NESTED} levels")
    # Templates and readers of calls go through the properties, whatever else a schema says.
    given = {key: value for key, value in parameters.items() if value is not None}
    if not isinstance(given.get("properties", {}), Mapping):
        del given["properties"]
    return {
        "type": "function",
        "function": {"name": name, "description": described or "", "parameters": given},
    }


def clean_choice(choice: object, tools: Tools) -> str:
    """`auto`, `none`, `required` or the name of the one tool that must be called.

    Args:
        choice: One of these words, `any` for `required`, a name, `{"type": "function", "function": {"name"}}`, or
            None for `auto`.
        tools: The tools.

    Raises:
        InvalidToolsError: it is none of these, or there is no such tool.
    """
    if isinstance(choice, Mapping):
        function = choice.get("function")
        choice = function.get("name") if isinstance(function, Mapping) else choice
    if choice is None:
        return AUTO
    names = [tool["function"]["name"] for tool in tools]
    if not isinstance(choice, str) or not (choice in names or choice in (AUTO, NONE, REQUIRED, "any")):
        known = ", ".join([AUTO, NONE, REQUIRED, *names])
        raise InvalidToolsError(f"tool_choice must be one of {known}; got {choice!r}")
    if choice in names:
        return choice
    choice = REQUIRED if choice == "any" else choice
    if choice == REQUIRED and not tools:
        raise InvalidToolsError("tool_choice is 'required', but there are no tools")
    return choice
