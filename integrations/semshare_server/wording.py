"""What is wrong with a body, in words that a person writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Fault = Mapping[str, Any]


def _value(fault: Fault) -> str:
    return str(fault["msg"]).removeprefix("Value error, ")


def _with(words: str) -> Callable[[Fault], str]:
    return lambda fault: words.format(**fault.get("ctx", {}))


TOLD: Mapping[str, Callable[[Fault], str]] = {
    "missing": _with("must be given"),
    "json_invalid": _with("the body is not JSON"),
    "extra_forbidden": _with("this server does not know that field"),
    "string_type": _with("must be text"),
    "string_unicode": _with("must be text"),
    "string_too_short": _with("must not be empty"),
    "string_too_long": _with("must have at most {max_length} characters"),
    "string_pattern_mismatch": _with("must have the form {pattern}"),
    "too_short": _with("must have at least {min_length} of them"),
    "too_long": _with("must have at most {max_length} of them, and has {actual_length}"),
    "list_type": _with("must be a list"),
    "dict_type": _with("must be an object"),
    "model_type": _with("must be an object"),
    "model_attributes_type": _with("must be an object"),
    "bool_type": _with("must be true or false"),
    "bool_parsing": _with("must be true or false"),
    "int_type": _with("must be a whole number"),
    "int_parsing": _with("must be a whole number"),
    "int_from_float": _with("must be a whole number"),
    "int_parsing_size": _with("must be a smaller number"),
    "float_type": _with("must be a number"),
    "float_parsing": _with("must be a number"),
    "finite_number": _with("must be a finite number"),
    "greater_than": _with("must be more than {gt}"),
    "greater_than_equal": _with("must be at least {ge}"),
    "less_than": _with("must be less than {lt}"),
    "less_than_equal": _with("must be at most {le}"),
    "literal_error": _with("must be {expected}"),
    "union_tag_invalid": _with("its `type` must be one of {expected_tags}"),
    "union_tag_not_found": _with("must have a `type`"),
    "value_error": _value,
}
"""By the kinds of faults that pydantic finds; others are told in its own words."""


def first_fault(faults: Sequence[Fault], body: Any) -> tuple[str, str]:
    """Where the first fault of a body is, as `messages.0.role`, and what it is.

    A value that may be of several kinds has a fault for each: those of the kind that it comes nearest to are told.

    Args:
        faults: As pydantic gives them.
        body: The body.
    """
    placed = [(_place(fault, body), fault) for fault in faults]
    first = placed[0][0]
    # Faults of one field stand one after the other.
    alike = [found for found in placed if found[0][:1] == first[:1]]
    if isinstance(first[1:2] and first[1], int):
        alike = [found for found in alike if found[0][:2] == first[:2]]
    deepest = max((place for place, _ in alike), key=len)
    words = dict.fromkeys(_told(fault) for place, fault in alike if place == deepest)
    return ".".join(map(str, deepest)), " or ".join(words)


def _place(fault: Fault, body: Any) -> tuple[str | int, ...]:
    """The place of a fault in the body, without pydantic's names for the kinds that a value may be of."""
    at, place = body, list[str | int]()
    parts = [part for i, part in enumerate(fault["loc"]) if i or part != "body"]
    for i, part in enumerate(parts):
        inside = (isinstance(at, Mapping) and part in at) or (isinstance(at, list) and part in range(len(at)))
        if inside:
            at = at[part]
            place.append(part)
        elif fault["type"] == "missing" and i == len(parts) - 1:
            place.append(part)
    return tuple(place)


def _told(fault: Fault) -> str:
    told = TOLD.get(fault["type"])
    return str(fault["msg"]) if told is None else told(fault)
