"""Forms in which clients say the same thing, brought into one before a body is validated.

What other servers call otherwise gets OpenAI's name; JSON schemas come as `response_format` wherever they stood.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from semshare_agents.errors import InvalidToolsError
from semshare_agents.tools.checking import Tools, clean_tool

log = logging.getLogger(__name__)

RENAMED = {
    "repeat_penalty": "repetition_penalty",
    "n_predict": "max_tokens",
    "max_new_tokens": "max_tokens",
    "stop_sequences": "stop",
    "num_return_sequences": "n",
}
"""Names of other servers for fields of this one."""

AUTO_WORDS = ("auto", "none", "required", "any")


def one_form(body: Any) -> Any:
    """A body with OpenAI's names; one that is no object is left to validation."""
    if not isinstance(body, Mapping):
        return body
    told = {name: value for name, value in body.items() if value is not None}
    for old, new in RENAMED.items():
        if old in told:
            value = told.pop(old)
            told.setdefault(new, value)
    for name, made in SCHEMA_FIELDS.items():
        if name in told and (found := made(told[name])) is not None:
            del told[name]
            told.setdefault("response_format", found)
    if "response_format" in told:
        told["response_format"] = _format(told["response_format"])
    return told


def _schema(value: Any) -> dict[str, Any] | None:
    """The format of a JSON schema that is given as an object or as its text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return {"type": "json_schema", "json_schema": {"schema": value}} if isinstance(value, Mapping) else None


def _structured(value: Any) -> dict[str, Any] | None:
    only = isinstance(value, Mapping) and [name for name, given in value.items() if given is not None] == ["json"]
    return _schema(value["json"]) if only else None


def _word_or_schema(value: Any) -> dict[str, Any] | None:
    return {"type": "json_object"} if value == "json" else _schema(value)


SCHEMA_FIELDS: Mapping[str, Callable[[Any], dict[str, Any] | None]] = {
    "json_schema": _schema,
    "guided_json": _schema,
    "structured_outputs": _structured,
    "format": _word_or_schema,
}
"""Where other servers take JSON schemas."""


def _format(given: Any) -> Any:
    """A `response_format` in OpenAI's form: the schema may stand beside the type, or without a name for it."""
    if not isinstance(given, Mapping):
        return given
    kind, beside = given.get("type"), given.get("schema")
    if kind == "json_object" and isinstance(beside, Mapping):
        return _schema(beside)
    if kind != "json_schema":
        return given
    named = given.get("json_schema")
    if named is None and isinstance(beside, Mapping):
        return _schema(beside)
    if isinstance(named, Mapping) and "schema" not in named and {"type", "properties", "anyOf", "$ref"} & set(named):
        return _schema(named)
    return given


def one_tool(tool: Any) -> Any:
    """A tool in OpenAI's form, of whatever form it has: flat, or with `input_schema`."""
    if not isinstance(tool, Mapping) or isinstance(tool.get("function"), Mapping):
        return tool
    if tool.get("type") not in (None, "function", "custom") or "name" not in tool:
        return tool
    schema = next((tool[n] for n in ("parameters", "input_schema", "inputSchema") if tool.get(n) is not None), None)
    if schema is None and tool.get("type") == "custom":
        return tool
    function = {"name": tool["name"], "description": tool.get("description"), "parameters": schema}
    return {"type": "function", "function": {**function, "strict": tool.get("strict")}}


def usable(tools: Sequence[Any]) -> tuple[Tools, list[str]]:
    """The tools that can be called, and names of the others, which are passed over: they never block the good ones.

    Raises:
        InvalidToolsError: there are tools, and none can be called.
    """
    good: Tools = []
    odd: list[tuple[str, InvalidToolsError]] = []
    for index, tool in enumerate(tools):
        try:
            found = clean_tool(index, one_tool(tool))
            name = found["function"]["name"]
            if any(other["function"]["name"] == name for other in good):
                raise InvalidToolsError(f"tool {index} has the name {name!r}, as one before it")
        except InvalidToolsError as e:
            odd.append((f"tools.{index}", e))
        else:
            good.append(found)
    if odd and not good:
        raise odd[0][1]
    for _, error in odd:
        log.warning("a tool is passed over: %s", error)
    return good, [place for place, _ in odd]


def one_choice(choice: Any) -> Any:
    """A tool choice as a word or a tool's name; what is neither stays as it is."""
    if not isinstance(choice, Mapping):
        return choice
    function = choice.get("function")
    named = function.get("name") if isinstance(function, Mapping) else choice.get("name")
    return named if named is not None else choice.get("type") if choice.get("type") in AUTO_WORDS else choice
