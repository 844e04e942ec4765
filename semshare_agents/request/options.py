"""What may be said with a call: the options of `SemShareLLM.generate`. None says nothing; every other value counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from semshare_agents.errors import ConfigurationError
from semshare_agents.messages.thinking import wish
from semshare_agents.request.output import response_spec, without_template
from semshare_agents.request.request import Request
from semshare_agents.settings import Settings
from semshare_agents.values import Fidelity, Messages, Reuse, Sampling

MOST_CHOICES = 4
MOST_LIKELY = 20
"""Most of the likeliest tokens that are told of a place."""


def said(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say something: one that is None was not given, and what stands behind it counts."""
    return {name: value for name, value in options.items() if value is not None}


def tenant_of(settings: Settings, tenant: str | None) -> str:
    """Whose memory is meant; for None the setting's.

    Raises:
        ConfigurationError: the name is empty or no text: another tenant must not be taken for it.
    """
    return settings.tenant if tenant is None else _name("tenant", tenant)


def request_of(settings: Settings, messages: Messages, options: Mapping[str, Any]) -> Request:
    """A request from the options of `SemShareLLM.generate`, with the settings where an option is not given.

    Raises:
        ConfigurationError: an option is unknown or has a wrong value.
        PromptError: the tools or the schema are malformed.
    """
    given = said(options)
    tenant = tenant_of(settings, given.pop("tenant", None))
    session = _name("session", given.pop("session")) if "session" in given else None
    reuse = Reuse.parse(given.pop("reuse", settings.reuse))
    fidelity = Fidelity.parse(given.pop("fidelity", settings.fidelity))
    store, raw = _switch(given, "store", True), _switch(given, "raw", False)
    prompt_ids = _token_ids(given.pop("prompt_ids", None), raw)
    choices = _count(given, "n", 1, 1, MOST_CHOICES)
    logprobs, prompt_logprobs = (_count(given, f"{of}logprobs", None, 0, MOST_LIKELY) for of in ("", "prompt_"))
    tools, choice = given.pop("tools", None), given.pop("tool_choice", None)
    response = response_spec(
        tools, choice, _switch(given, "parallel_tool_calls", False), given.pop("response_schema", None)
    )
    wanted = wish(given.pop("reasoning_effort", None), given.pop("chat_template_kwargs", None))
    response = replace(response, wanted=wanted, split_thoughts=_switch(given, "split_thoughts", False))
    response = without_template(response) if raw else response
    return Request(
        messages=messages,
        tenant=tenant,
        # What a prompt's tokens are likely to be is asked of the model itself.
        reuse=reuse if prompt_logprobs is None else Reuse.OFF,
        sampling=_sampling(settings, given),
        session=session,
        response=response,
        store=store,
        fidelity=fidelity,
        raw=raw,
        prompt_ids=prompt_ids,
        choices=1 if choices is None else choices,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def _sampling(settings: Settings, given: dict[str, Any]) -> Sampling:
    """How tokens are drawn, of the options that are left."""
    sampling = given.pop("sampling", Sampling(max_new_tokens=settings.max_new_tokens))
    known = set(Sampling.__dataclass_fields__)
    if unknown := sorted(set(given) - known):
        raise ConfigurationError(f"unknown option {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    stop = given.get("stop", ())
    if not isinstance(stop, str | list | tuple):
        raise ConfigurationError(f"stop must be a string or a list of strings, not {type(stop).__name__}")
    if "stop" in given:
        given["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    if "logit_bias" in given:
        given["logit_bias"] = _biases(given["logit_bias"])
    changed: Sampling = replace(sampling, **given)
    return changed


def _biases(given: object) -> tuple[tuple[int, float], ...]:
    """Pairs of a token id and what is added to its logit; ids may be digits, as JSON's keys are."""
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"logit_bias must give numbers by token ids, not {type(given).__name__}")
    try:
        return tuple((int(token), bias) for token, bias in given.items())
    except (TypeError, ValueError):
        raise ConfigurationError("logit_bias must give numbers by token ids") from None


def _token_ids(given: object, raw: bool) -> tuple[int, ...] | None:
    """A prompt's token ids, of which the model says later whether it knows them."""
    if given is None:
        return None
    if not raw:
        raise ConfigurationError("prompt_ids are a raw prompt's: give raw=True with them")
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ConfigurationError(f"prompt_ids must be a list of token ids, not {type(given).__name__}")
    found = tuple(given)
    if not found or not all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in found):
        raise ConfigurationError("prompt_ids must be token ids, at least one")
    return tuple(int(i) for i in found)


def _count(given: dict[str, Any], name: str, default: int | None, least: int, most: int) -> int | None:
    """Take out an option that is a whole number within bounds."""
    if name not in given:
        return default
    value = given.pop(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigurationError(f"{name} must be a whole number from {least} to {most}, not {value!r}")
    return value


def _name(what: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{what} must be a name, not {value!r}: leave it out or give None for none")
    return value


def _switch(given: dict[str, Any], name: str, default: bool) -> bool:
    """Take out an option that is true or false; what only looks like one of them is refused."""
    value = given.pop(name, default)
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {value!r}")
    return value
