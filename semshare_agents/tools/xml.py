"""Calls with a tag for each argument, as Qwen3-Coder and Qwen3.5 write them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from semshare_agents.tools.base import CallReader, JsonTerm, Literal, Schema, Schemas, ToolFormat

FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"
NAMES = {"null": None, "none": None, "true": True, "false": False}
"""Values that templates write as Python does, and models after them."""
LONGEST_HELD = 2000
"""A schema's bounds on a text's length above this are passed over: grammars grow with them."""


class XmlLike(ToolFormat):
    """`<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`, each on its own line."""

    trigger = "<tool_call>"
    begin = "<tool_call>\n"
    separator = "\n</tool_call>\n<tool_call>\n"
    end = "\n</tool_call>"
    after = FUNCTION_END
    opening = FUNCTION
    marks = ("</tool_call>",)

    @classmethod
    def fits(cls, template: str) -> bool:
        """See `ToolFormat.fits`."""
        return cls.trigger in template and FUNCTION in template and PARAMETER in template

    def before(self, name: str) -> str:
        """See `ToolFormat.before`."""
        return f"{FUNCTION}{name}>\n"

    def reader(self, schemas: Schemas) -> CallReader:
        """See `ToolFormat.reader`."""
        return _Reader(schemas)

    def spelled(self, arguments: str) -> str:
        """See `ToolFormat.spelled`; what is no JSON object is written as it is."""
        try:
            values = json.loads(arguments)
        except (ValueError, RecursionError):
            return arguments
        if not isinstance(values, dict):
            return arguments
        texts = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in values.items()}
        return "".join(f"{PARAMETER}{key}>\n{text}\n{PARAMETER_END}\n" for key, text in texts.items())

    def rules(self, name: str, schema: Schema, json_term: JsonTerm, literal: Literal) -> list[str]:
        """See `ToolFormat.rules`; a text's pattern and format are passed over."""
        properties = properties_of(schema)
        needed = resolved(schema, schema).get("required", ())
        order = [f"{name}_{k}{'' if key in needed else '?'}" for k, key in enumerate(properties)]
        rules = [f"{name}: {' '.join(order) or literal('')}"]
        for k, (key, inner) in enumerate(properties.items()):
            opening, closing = literal(f"{PARAMETER}{key}>\n"), literal(f"\n{PARAMETER_END}\n")
            one, whole = resolved(inner, schema), f"{name}_{k}"
            if not is_text(inner, schema):
                value = json_term({**inner, **{d: schema[d] for d in ("$defs", "definitions") if d in schema}})
                rules.append(f"{whole}: {opening} {value} {closing}")
            elif "enum" in one or "const" in one:
                chosen = [str(v) for v in one.get("enum", [one.get("const")])]
                rules.append(f"{whole}: {opening} ({' | '.join(literal(v) for v in chosen)}) {closing}")
            else:
                rules += [f"{whole}: {opening} {whole}_text", f"{whole}_text[lazy]: {_text(one)}"]
        return rules


def _text(schema: Schema) -> str:
    """A regular expression of a text of a schema, up to its closing tag."""
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    held = isinstance(least, int) and (most is None or isinstance(most, int)) and max(least, most or 0) <= LONGEST_HELD
    times = f"{{{least},{'' if most is None else most}}}" if held and (least or most is not None) else "*"
    return rf"/(.|\n){times}\n<\/parameter>\n/"


def resolved(schema: Any, root: Schema) -> dict[str, Any]:
    """A schema with what it refers to in its root; one that refers to nothing there is as it is."""
    for _ in range(8):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            break
        target: Any = root
        for step in reference[2:].split("/"):
            target = target.get(step) if isinstance(target, Mapping) else None
        schema = target
    return dict(schema) if isinstance(schema, Mapping) else {}


def properties_of(schema: Schema) -> dict[str, Schema]:
    """The named arguments of a tool."""
    found = resolved(schema, schema).get("properties")
    return {k: v for k, v in found.items() if isinstance(v, Mapping)} if isinstance(found, Mapping) else {}


def kinds(schema: Any, root: Schema) -> set[str]:
    """The JSON types that a schema allows; empty where it does not say."""
    one = resolved(schema, root)
    said = one.get("type")
    if said is not None:
        return {said} if isinstance(said, str) else {k for k in said if isinstance(k, str)}
    for choice in ("anyOf", "oneOf"):
        if isinstance(one.get(choice), list):
            return set().union(*(kinds(inner, root) for inner in one[choice]))
    values = one["enum"] if isinstance(one.get("enum"), list) else [one["const"]] if "const" in one else []
    return {"string" if isinstance(v, str) else "other" for v in values}


def is_text(schema: Any, root: Schema) -> bool:
    """Whether an argument of this schema is a text and nothing else."""
    return kinds(schema, root) == {"string"}


def value_of(text: str, schema: Any, root: Schema) -> Any:
    """What an argument's text says: text where its schema allows one, else what it reads as."""
    allowed = kinds(schema, root)
    if allowed == {"string"}:
        return text
    word = text.strip()
    if word.lower() in NAMES and not ("string" in allowed and word.lower() not in ("null", "none")):
        value = NAMES[word.lower()]
        return text if value is None and allowed and "null" not in allowed else value
    if "string" in allowed:
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(word)
            json.dumps(value, allow_nan=False)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        return value
    return text


class _Reader:
    """Reads `<function=name>`, parameters and `</function>`; arguments come out as JSON while they are read."""

    def __init__(self, schemas: Schemas):
        self._schemas = schemas
        self.name = ""
        self.done = self.bad = False
        self._pending = ""
        self._key: str | None = None
        self._read = 0
        """Arguments whose JSON has begun."""
        self._begun = False
        """Whether the open argument is a text whose JSON has begun."""

    def push(self, text: str) -> tuple[str, str]:
        """See `CallReader.push`."""
        self._pending += text
        out = ""
        while not (self.done or self.bad):
            before = self._pending
            if not self.name:
                self._read_name()
            elif self._key is None:
                out += self._between()
            else:
                out += self._value(self._key)
            if before == self._pending:
                break
        rest = self._pending if self.done or self.bad else ""
        return out, rest

    def _read_name(self) -> None:
        found = re.match(rf"{FUNCTION}\s*([^<>\n]+?)\s*>\n?", self._pending)
        if found:
            self.name, self._pending = found[1].strip("\"'"), self._pending[found.end() :]
        else:
            begun = self._pending[: len(FUNCTION)] == FUNCTION[: len(self._pending)]
            self.bad = not begun or bool(re.match(rf"{FUNCTION}[^>]*[<\n]", self._pending))

    def _between(self) -> str:
        """Before a parameter or the end."""
        pending = self._pending.lstrip()
        found = re.match(rf"{PARAMETER}\s*([^<>\n]+?)\s*>\n?", pending)
        if found:
            if found.end() == len(pending) and not found[0].endswith("\n"):
                return ""
            self._key, self._pending = found[1].strip("\"'"), pending[found.end() :]
        elif pending.startswith(FUNCTION_END):
            self.done, self._pending = True, pending[len(FUNCTION_END) :]
            return "}" if self._read else "{}"
        elif not any(mark.startswith(pending[: len(mark)]) for mark in (PARAMETER, FUNCTION_END)):
            self.bad = True
        return ""

    def _value(self, key: str) -> str:
        root = self._schemas.get(self.name, {})
        schema = properties_of(root).get(key, {})
        text, closed, rest = self._pending.partition(PARAMETER_END)
        if not is_text(schema, root):
            if not closed:
                return ""
            self._key, self._pending = None, rest
            return self._named(key) + json.dumps(value_of(_trimmed(text), schema, root), ensure_ascii=False)
        out = "" if self._begun else f'{self._named(key)}"'
        self._begun = not closed
        if closed:
            self._key, self._pending = None, rest
            return out + _escaped(_trimmed(text)) + '"'
        # A newline before the closing tag is the template's.
        kept = len(text) - _held(text, f"\n{PARAMETER_END}")
        self._pending = text[kept:]
        return out + _escaped(text[:kept])

    def _named(self, key: str) -> str:
        self._read += 1
        return f"{', ' if self._read > 1 else '{'}{json.dumps(key, ensure_ascii=False)}: "


def _trimmed(text: str) -> str:
    """A value without the newline before its closing tag."""
    return text.removesuffix("\n")


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _held(text: str, mark: str) -> int:
    """Length of the longest end of `text` that begins `mark`, or its second character on."""
    return max(
        next((n for n in range(min(len(m) - 1, len(text)), 0, -1) if text.endswith(m[:n])), 0) for m in (mark, mark[1:])
    )
