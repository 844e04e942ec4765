"""What an answer may be, as a grammar in llguidance's dialect of Lark.

The dialect: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from semshare_agents.errors import InvalidSchemaError
from semshare_agents.tools.base import ToolFormat
from semshare_agents.tools.checking import AUTO, NONE, REQUIRED, Tools

Schema = Mapping[str, Any]
SpecialTokens = Mapping[str, int]

STYLE = {
    # What chat templates write; a small model given free white space writes nothing else.
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    # Letters as they are, not as \\u escapes.
    "json_allowed_escapes": '"\\bfnrt',
    # Python's and OpenAPI's unions are oneOf, though no answer could be two of their cases.
    "coerce_one_of": True,
}
INSIDE_MANY = ("properties", "$defs", "definitions")
INSIDE_LIST = ("anyOf", "oneOf", "prefixItems")
OPENERS = ("additionalProperties", "patternProperties", "unevaluatedProperties", "allOf", "$ref")


def answer_grammar(
    schema: Schema | None,
    tools: Tools,
    choice: str,
    parallel: bool,
    form: ToolFormat,
    special: SpecialTokens,
) -> str:
    """The grammar of an answer; empty where anything may be answered.

    Args:
        schema: What an answer without calls keeps to.
        tools: Tools that may be called.
        choice: `auto`, `none`, `required` or a tool's name.
        parallel: Whether there may be several calls.
        form: How calls are written.
        special: Ids of special tokens by their text.

    Raises:
        InvalidSchemaError: a schema is not JSON.
    """
    answer = "" if schema is None else f"answer: {_json(schema)}\n"
    if not tools or choice == NONE:
        return answer and f"start: answer\n{answer}"
    if choice not in (AUTO, REQUIRED):
        tools, parallel = [t for t in tools if t["function"]["name"] == choice], False
    rules = [f"calls: {_calls(parallel, form, special)}", f"call: {' | '.join(f'call_{i}' for i in range(len(tools)))}"]
    for i, tool in enumerate(tools):
        before = _literal(form.before(tool["function"]["name"]), special)
        after = _literal(form.after, special)
        rules += [f"call_{i}: {before} args_{i} {after}", f"args_{i}: {_json(tool['function']['parameters'], True)}"]
    called = "\n".join(rules) + "\n"
    if choice != AUTO:
        return f"start: {_opening(form, special)} calls\n{called}"
    if answer:
        return f"start: answer | {_opening(form, special)} calls\n{answer}{called}"
    return _free(form, special) + called


def _opening(form: ToolFormat, special: SpecialTokens) -> str:
    return _literal(form.begin, special)


def _calls(parallel: bool, form: ToolFormat, special: SpecialTokens) -> str:
    more = f"({_literal(form.separator, special)} call)*" if parallel else ""
    return f"call {more} {_literal(form.end, special)}"


def _free(form: ToolFormat, special: SpecialTokens) -> str:
    """Any text, in which a call is held to its tool's schema as soon as its trigger is there."""
    rest = _literal(form.begin[len(form.trigger) :], special)
    if form.only_at_start:
        return f"start: TEXT? | {_opening(form, special)} calls\nTEXT: /[^{{\\s](.|\\n)*/\n"
    if form.trigger in special:
        return f"start: TEXT | TEXT {_literal(form.trigger, special)} {rest} calls\nTEXT: /(.|\\n)*/\n"
    return (
        f"start: text | trigger {rest} calls\ntext: TEXT\n"
        f"trigger[lazy]: TEXT {_quoted(form.trigger)}\nTEXT: /(.|\\n)*/\n"
    )


def _literal(text: str, special: SpecialTokens) -> str:
    """A text as terms of a rule: special tokens by id, the rest as strings."""
    found = [(at, name) for name in special if (at := text.find(name)) >= 0]
    if not found:
        return _quoted(text) if text else ""
    at, name = min(found)
    return " ".join(
        filter(None, (_literal(text[:at], special), f"<[{special[name]}]>", _literal(text[at + len(name) :], special)))
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json(schema: Schema, lenient: bool = False) -> str:
    """A rule's term for JSON of a schema; lenient passes over what the library cannot hold an answer to."""
    try:
        styled = {**_closed(dict(schema)), "x-guidance": {**STYLE, "lenient": lenient}}
        return f"%json {json.dumps(styled, ensure_ascii=False, allow_nan=False)}"
    except (TypeError, ValueError, RecursionError) as e:
        raise InvalidSchemaError(f"a JSON schema is no JSON: {e}") from e


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with objects held to their named properties where it does not say; a model has no use for others."""
    out = dict(schema)
    for key in INSIDE_MANY:
        if isinstance(out.get(key), Mapping):
            out[key] = {name: _sub(inner) for name, inner in out[key].items()}
    for key in INSIDE_LIST:
        if isinstance(out.get(key), list):
            out[key] = [_sub(inner) for inner in out[key]]
    for key in ("items", "additionalProperties"):
        if key in out:
            out[key] = _sub(out[key])
    if "properties" in out and not any(key in out for key in OPENERS):
        out["additionalProperties"] = False
    return out


def _sub(schema: Any) -> Any:
    return _closed(dict(schema)) if isinstance(schema, Mapping) else schema
