"""What may be said with a call: the options of `SemShareLLM.generate`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from semshare_agents.errors import ConfigurationError
from semshare_agents.request import ABLATIONS, Request
from semshare_agents.settings import Settings
from semshare_agents.steering import wanted, without_template
from semshare_agents.values import Fidelity, Messages, Reuse, Sampling


def request_of(settings: Settings, messages: Messages, options: dict[str, Any]) -> Request:
    """A request from the options of `SemShareLLM.generate`, with the settings where an option is not given.

    Raises:
        ConfigurationError: an option is unknown or has a wrong value.
        PromptError: the tools or the schema are malformed.
    """
    options = dict(options)
    tenant = options.pop("tenant", None) or settings.tenant
    reuse = options.pop("reuse", None)
    fidelity = options.pop("fidelity", None)
    sampling = options.pop("sampling", None) or Sampling(max_new_tokens=settings.max_new_tokens)
    want = wanted(
        options.pop("tools", None),
        options.pop("tool_choice", None),
        bool(options.pop("parallel_tool_calls", False)),
        options.pop("response_schema", None),
    )
    fixed = {name: options.pop(name) for name in ("session", "store", "ablations", "raw") if name in options}
    want = without_template(want) if fixed.get("raw") else want
    fields = set(Sampling.__dataclass_fields__)
    unknown = set(options) - fields
    if unknown:
        raise ConfigurationError(f"unknown option {', '.join(sorted(unknown))}; known: {', '.join(sorted(fields))}")
    if isinstance(options.get("stop"), str):
        options["stop"] = (options["stop"],)
    sampling = replace(sampling, **{k: tuple(v) if k == "stop" else v for k, v in options.items() if v is not None})
    if "ablations" in fixed and not (fixed["ablations"] <= ABLATIONS):
        raise ConfigurationError(f"ablations must be among {', '.join(sorted(ABLATIONS))}")
    word = settings.reuse if reuse is None else Reuse.parse(reuse)
    dial = settings.fidelity if fidelity is None else Fidelity.parse(fidelity)
    return Request(messages=messages, tenant=tenant, reuse=word, sampling=sampling, fidelity=dial, want=want, **fixed)
