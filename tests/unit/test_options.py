"""What is said with a call counts as it was said: zero, nothing, false and None each mean what they say."""

from __future__ import annotations

import math
from typing import Any

import pytest

from semshare_agents.errors import ConfigurationError, InvalidSchemaError, InvalidToolsError
from semshare_agents.request.options import request_of
from semshare_agents.request.request import Request
from semshare_agents.settings import load_settings
from semshare_agents.values import Sampling
from tests.tiny import user

SETTINGS = load_settings(max_new_tokens=9, tenant="acme", reuse="exact", fidelity="strict")
OWN = Sampling(max_new_tokens=5, temperature=0.5, top_k=3, top_p=0.9, seed=4, stop=("x",))
NAMES = [
    *Sampling.__dataclass_fields__,
    "tenant",
    "session",
    "store",
    "raw",
    "reuse",
    "fidelity",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
]
NAMES += ["response_schema", "sampling", "n", "logprobs", "prompt_logprobs", "prompt_ids"]


def asked(**options: Any) -> Request:
    return request_of(SETTINGS, [user("x")], options)


@pytest.mark.parametrize("name", NAMES)
def test_none_is_not_given(name: str) -> None:
    assert asked(**{name: None}) == asked()


def test_none_leaves_a_sampling_of_the_callers_own_as_it_is() -> None:
    assert asked(sampling=OWN, temperature=None, stop=None, seed=None).sampling == OWN


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", 0, 0),
        ("top_k", 0, 0),
        ("seed", 0, 0),
        ("frequency_penalty", 0, 0),
        ("stop", [], ()),
        ("stop", (), ()),
        ("stop", "ab", ("ab",)),
        ("max_new_tokens", 1, 1),
    ],
)
def test_zero_and_nothing_are_values(name: str, value: Any, expected: Any) -> None:
    assert getattr(asked(sampling=OWN, **{name: value}).sampling, name) == expected


def test_what_a_prompts_tokens_are_likely_to_be_is_asked_without_reuse() -> None:
    assert asked(prompt_logprobs=0).reuse == "off"
    assert asked(logprobs=0).reuse == "exact"
    assert asked(logit_bias={"3": 1, 4: -0.5}).sampling.logit_bias == ((3, 1), (4, -0.5))


def test_false_is_a_value() -> None:
    assert asked(store=False).store is False
    assert asked(raw=False).raw is False
    assert asked(tools=[], parallel_tool_calls=False).response.parallel is False
    assert asked(reuse="off").reuse == "off"
    assert asked(response_schema={}).response.schema == {}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_new_tokens", [0, -1, 1.5, True, "5", math.inf]),
        ("temperature", [-0.1, math.nan, math.inf, "0", True]),
        ("top_k", [-1, 2.0, "1"]),
        ("top_p", [0, 1.1, -1, math.nan]),
        ("repetition_penalty", [0, -1, math.nan]),
        ("frequency_penalty", [2.5, -2.5, "0"]),
        ("presence_penalty", [2.5, -2.5, "0"]),
        ("min_p", [-0.1, 1.1, "0"]),
        ("logit_bias", [5, {"x": 1}, {3: "much"}, {-1: 1.0}]),
        ("n", [0, 5, 1.5, True, "2"]),
        ("logprobs", [-1, 21, True, "5"]),
        ("prompt_logprobs", [-1, 21, 0.5]),
        ("seed", [1.5, "1", True, 2**64, -(2**63) - 1]),
        ("stop", [[""], "", [None], 5, {"a"}]),
        ("session", ["", 5, b"a"]),
        ("tenant", ["", 5]),
        ("store", [0, 1, "false", ""]),
        ("raw", [0, "no"]),
        ("parallel_tool_calls", [1, "true"]),
        ("reuse", ["", 0, False]),
        ("fidelity", [0, "", -1, math.nan, False]),
        ("nothing_such", [0, 1, ""]),
    ],
)
def test_what_cannot_be_kept_is_refused(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ConfigurationError, match=name):
            asked(**{name: value})


def test_what_cannot_be_kept_of_tools_and_schemas_is_refused() -> None:
    for options in ({"tools": ""}, {"tools": {}}, {"tool_choice": ""}, {"tool_choice": False}, {"tool_choice": 0}):
        with pytest.raises(InvalidToolsError):
            asked(**options)
    for schema in ("", 0, False, []):
        with pytest.raises(InvalidSchemaError):
            asked(response_schema=schema)
