"""What an answer may be, as a grammar in llguidance's dialect of Lark.

The dialect: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from semshare_agents.constrain.dialects import Schema, closed
from semshare_agents.errors import InvalidSchemaError
from semshare_agents.tools.base import ToolFormat
from semshare_agents.tools.checking import AUTO, NONE, REQUIRED, Tools

TokenIds = Mapping[str, int]

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


def answer_grammar(
    schema: Schema | None,
    tools: Tools,
    choice: str,
    parallel: bool,
    form: ToolFormat,
    tokens: TokenIds,
    closing: str = "",
) -> str:
    """The grammar of an answer; empty where anything may be answered.

    Args:
        schema: What an answer without calls keeps to.
        tools: Tools that may be called.
        choice: `auto`, `none`, `required` or a tool's name.
        parallel: Whether there may be several calls.
        form: How calls are written.
        tokens: Ids of marks that the tokenizer has a token for; they are drawn as tokens and never spelled.
        closing: What ends the thought in which the answer begins, before calls that must be made; empty for none.

    Raises:
        InvalidSchemaError: a schema is not JSON.
    """
    answer = "" if schema is None else f"answer: {_json(schema)}\n"
    if not tools or choice == NONE:
        return answer and f"start: answer\n{answer}"
    if choice == AUTO and not answer:
        return ""
    calls = f"{_literal(form.begin, tokens)} calls"
    if choice == AUTO:
        return f"start: answer | {calls}\n{answer}{_called(tools, parallel, form, tokens)}"
    if choice != REQUIRED:
        tools, parallel = [t for t in tools if t["function"]["name"] == choice], False
    closed = _literal(f"{closing}\n\n", tokens) if closing else ""
    return f"start: {closed} {calls}\n{_called(tools, parallel, form, tokens)}"


def call_grammar(tools: Tools, parallel: bool, form: ToolFormat, tokens: TokenIds, loose: bool = False) -> str:
    """The grammar of calls that a model began of its own accord, from behind the first one's trigger.

    Args:
        tools: Tools that may be called.
        parallel: Whether there may be several calls.
        form: How calls are written.
        tokens: Ids of marks that the tokenizer has a token for.
        loose: Whether other space than the template's may stand behind the trigger.
    """
    rest = form.begin[len(form.trigger) :]
    opening = f"SPACE {_literal(rest.strip(), tokens)}" if loose else _literal(rest, tokens)
    space = "SPACE: /[ \\t\\r\\n]{0,4}/\n" if loose else ""
    return f"start: {opening} calls\n{space}{_called(tools, parallel, form, tokens)}"


def _called(tools: Tools, parallel: bool, form: ToolFormat, tokens: TokenIds) -> str:
    more = f"({_literal(form.separator, tokens)} call)*" if parallel else ""
    rules = [
        f"calls: call {more} {_literal(form.end, tokens)}",
        f"call: {' | '.join(f'call_{i}' for i in range(len(tools)))}",
    ]
    for i, tool in enumerate(tools):
        before, after = (_literal(t, tokens) for t in (form.before(tool["function"]["name"]), form.after))
        rules.append(f"call_{i}: {before} args_{i} {after}")
        rules += form.rules(
            f"args_{i}",
            tool["function"]["parameters"],
            lambda schema: _json(schema, lenient=True),
            lambda text: _literal(text, tokens) or '""',
        )
    return "\n".join(rules) + "\n"


def _literal(text: str, tokens: TokenIds) -> str:
    """A text as terms of a rule: marks that are tokens by id, the rest as strings."""
    found = [(at, -len(name), name) for name in tokens if (at := text.find(name)) >= 0]
    if not found:
        return _quoted(text) if text else ""
    at, _, name = min(found)
    return " ".join(
        filter(None, (_literal(text[:at], tokens), f"<[{tokens[name]}]>", _literal(text[at + len(name) :], tokens)))
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json(schema: Schema, lenient: bool = False) -> str:
    """A rule's term for JSON of a schema; lenient passes over what the library cannot hold an answer to."""
    try:
        styled = {**closed(schema), "x-guidance": {**STYLE, "lenient": lenient}}
        return f"%json {json.dumps(styled, ensure_ascii=False, allow_nan=False)}"
    except (TypeError, ValueError, RecursionError) as e:
        raise InvalidSchemaError(f"a JSON schema is no JSON: {e}") from e


def schema_grammar(schema: Schema) -> str:
    """The grammar of a tool's arguments alone, lenient as in calls.

    Raises:
        InvalidSchemaError: the schema is not JSON.
    """
    return f"start: {_json(schema, lenient=True)}\n"
