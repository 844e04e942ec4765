"""JSON schemas as callers write them, brought into the form that the grammar library reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

TYPES = {
    "str": "string",
    "text": "string",
    "int": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "dict": "object",
    "map": "object",
    "none": "null",
}
"""Python's and other languages' names of types; letters of either case are read."""
ANY = "any"
MAY_BE_NULL = ("default", "const", "example")

INSIDE_MANY = ("properties", "$defs", "definitions")
INSIDE_LIST = ("anyOf", "oneOf", "prefixItems")
DEFINITIONS = ("$defs", "definitions")
OPENERS = ("additionalProperties", "patternProperties", "unevaluatedProperties", "allOf", "$ref")


def closed(schema: Schema) -> dict[str, Any]:
    """A schema in one form, with objects held to their named properties where it does not say.

    A model has no use for others. Parts of an `allOf` stay open: each would refuse what the others name.
    """
    return _closed(schema, frozenset(_extended(schema)), close=True)


def _closed(schema: Schema, extended: frozenset[str], close: bool) -> dict[str, Any]:
    def inside(inner: Any, closing: bool = True) -> Any:
        return _closed(inner, extended, closing) if isinstance(inner, Mapping) else inner

    out = plain(schema)
    for key in INSIDE_MANY:
        if isinstance(out.get(key), Mapping):
            each = out[key].items()
            out[key] = {name: inside(inner, key == "properties" or name not in extended) for name, inner in each}
    for key in (*INSIDE_LIST, "allOf"):
        if isinstance(out.get(key), list):
            out[key] = [inside(inner, key != "allOf") for inner in out[key]]
    for key in ("items", "additionalProperties"):
        if key in out:
            out[key] = inside(out[key])
    if close and _names_all(out):
        out["additionalProperties"] = False
    return out


def _names_all(schema: Schema) -> bool:
    """Whether the properties that an object names can be all that it has."""
    named, needed = schema.get("properties"), schema.get("required")
    if not isinstance(named, Mapping) or any(key in schema for key in OPENERS):
        return False
    # What is required and not described can only be one of the others.
    return not isinstance(needed, list) or all(name in named for name in needed)


def _extended(value: Any) -> Iterator[str]:
    """Names of definitions that an `allOf` adds something to."""
    if isinstance(value, Mapping):
        parts = value.get("allOf")
        if isinstance(parts, list) and (len(parts) > 1 or "properties" in value):
            refs = (part.get("$ref") for part in parts if isinstance(part, Mapping))
            yield from (ref.rpartition("/")[2] for ref in refs if isinstance(ref, str))
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _extended(inner)


def plain(schema: Schema) -> dict[str, Any]:
    """One level of a schema without what other dialects say: other names of types, `nullable`, null keywords."""
    out = {key: value for key, value in schema.items() if value is not None or key in MAY_BE_NULL}
    kind = out.get("type")
    kinds = [_type(word) for word in (kind if isinstance(kind, list) else [kind])]
    if kind is not None:
        out["type"] = kinds if isinstance(kind, list) else kinds[0]
        if ANY in kinds:
            del out["type"]
    if out.pop("nullable", False) is not True:
        return out
    shared = {key: out.pop(key) for key in DEFINITIONS if key in out}
    return {"anyOf": [out, {"type": "null"}], **shared}


def _type(word: Any) -> Any:
    return TYPES.get(word.lower(), word.lower()) if isinstance(word, str) else word


def loosened(schema: Schema, fits: Callable[[Schema], bool]) -> tuple[dict[str, Any], list[str]]:
    """A schema of an object without what an answer cannot be held to.

    Args:
        schema: The schema, which does not fit.
        fits: Whether an answer can be held to a schema.

    Returns:
        What is left, and the names of its odd properties, of which any value is taken; of one that is odd as a whole
        no name.
    """
    properties = schema.get("properties")
    shared = {key: schema[key] for key in DEFINITIONS if isinstance(schema.get(key), Mapping)}
    if not isinstance(properties, Mapping):
        return {"type": "object"}, []
    odd = [
        name
        for name, inner in properties.items()
        if not fits({"type": "object", "properties": {name: inner}, "required": [name], **shared})
    ]
    needed = schema.get("required")
    left = {
        "type": "object",
        "properties": {name: {} if name in odd else inner for name, inner in properties.items()},
        "required": [name for name in needed if name in properties] if isinstance(needed, list) else [],
        **shared,
    }
    return (left, odd) if fits(left) else ({"type": "object"}, [])
