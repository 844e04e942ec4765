"""Fields that this server has no use for: which are taken all the same, and which are refused, in words.

A field that cannot change the answer is taken and ignored. One that would change it and cannot be had is refused,
unless its value asks for nothing. One that nobody knows is ignored too: the header `x-semshare-ignored` of the answer
names it, and the setting `strict` refuses it. `docs/server.md` lists both tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from semshare_server.errors import APIError

WHO_ASKS = ("user", "metadata", "safety_identifier", "service_tier", "request_id", "trace_id", "tags", "litellm_params")
CACHES_AND_DRAFTS = (
    *("prompt_cache_key", "prompt_cache_retention", "cache_prompt", "cache_control", "cache_salt", "prediction"),
    *("keep_alive", "id_slot", "slot_id", "session_id", "priority", "provider", "transforms", "route", "models"),
)
"""Where a prompt is cached and an answer guessed ahead: this server finds that out by itself."""
HOW_IT_IS_SENT = (
    *("include_reasoning", "return_tokens", "return_tokens_as_token_ids", "timings_per_token", "return_progress"),
    *("stream_interval", "post_sampling_probs", "n_probs", "spaces_between_special_tokens"),
)
IGNORED = frozenset((*WHO_ASKS, *CACHES_AND_DRAFTS, *HOW_IT_IS_SENT, "verbosity"))
"""What is taken and ignored."""


@dataclass(frozen=True)
class Refused:
    """A field that would change the answer.

    Attributes:
        told: What to do instead.
        asks_nothing: Values with which the answer is what it is without the field.
    """

    told: str
    asks_nothing: tuple[Any, ...] = ()


_SAMPLER = "this server does not draw tokens so: leave it out"
_PROMPT = "this server makes prompts by the model's own chat template: leave it out"
_TEXT = "this server's models read and write text alone: leave it out"
_GRAMMAR = "this server holds answers to JSON schemas alone: give `response_format` one"
_OFF = (0, 0.0, False)
REFUSED: Mapping[str, Refused] = {
    "tenant": Refused("the tenant comes from the API key"),
    "functions": Refused("give `tools` instead", ([],)),
    "function_call": Refused("give `tools` and `tool_choice` instead", ("auto", "none")),
    "modalities": Refused(_TEXT, (["text"], [])),
    "audio": Refused(_TEXT),
    "web_search_options": Refused("this server does not search the web: give a tool that does"),
    "plugins": Refused("this server has none: give tools", ([],)),
    "documents": Refused(_PROMPT, ([],)),
    "chat_template": Refused(_PROMPT),
    "echo": Refused("only /v1/completions has it", (False,)),
    "suffix": Refused("this server goes on at a text's end alone: leave it out", ("",)),
    "best_of": Refused("this server gives every answer that it draws: give `n`", (1,)),
    "grammar": Refused(_GRAMMAR, ("",)),
    "guided_grammar": Refused(_GRAMMAR, ("",)),
    "guided_regex": Refused(_GRAMMAR, ("",)),
    "guided_choice": Refused(_GRAMMAR, ([],)),
    "structural_tag": Refused(_GRAMMAR, ("",)),
    "structured_outputs": Refused(_GRAMMAR, ({},)),
    "use_beam_search": Refused(_SAMPLER, (False,)),
    "length_penalty": Refused(_SAMPLER, (1, 0)),
    "early_stopping": Refused(_SAMPLER, (False,)),
    "typical_p": Refused(_SAMPLER, (1,)),
    "tfs_z": Refused(_SAMPLER, (1,)),
    "tfs": Refused(_SAMPLER, (1,)),
    "top_a": Refused(_SAMPLER, _OFF),
    "top_n_sigma": Refused(_SAMPLER, (*_OFF, -1)),
    "mirostat": Refused(_SAMPLER, _OFF),
    "mirostat_mode": Refused(_SAMPLER, _OFF),
    "dynatemp_range": Refused(_SAMPLER, _OFF),
    "dynamic_temperature": Refused(_SAMPLER, _OFF),
    "smoothing_factor": Refused(_SAMPLER, _OFF),
    "dry_multiplier": Refused(_SAMPLER, _OFF),
    "xtc_probability": Refused(_SAMPLER, _OFF),
    "no_repeat_ngram_size": Refused(_SAMPLER, _OFF),
    "epsilon_cutoff": Refused(_SAMPLER, _OFF),
    "eta_cutoff": Refused(_SAMPLER, _OFF),
    "guidance_scale": Refused(_SAMPLER, (1,)),
    "negative_prompt": Refused(_SAMPLER, ("",)),
    "bad_words": Refused(_SAMPLER, ([],)),
    "banned_tokens": Refused(_SAMPLER, ([], "")),
    "allowed_token_ids": Refused(_SAMPLER, ([],)),
    "min_tokens": Refused("this server ends an answer where the model does: leave it out", _OFF),
    "ignore_eos": Refused("this server ends an answer where the model does: leave it out", (False,)),
    "ban_eos_token": Refused("this server ends an answer where the model does: leave it out", (False,)),
    "stop_token_ids": Refused("give `stop` strings instead", ([],)),
    "include_stop_str_in_output": Refused("stop strings are no part of the answer: leave it out", (False,)),
    "skip_special_tokens": Refused("special tokens are no part of the answer: leave it out", (True,)),
    "truncate_prompt_tokens": Refused("this server cuts no prompt: shorten the history", (-1,)),
    "truncation": Refused("this server cuts no prompt: shorten the history", ("disabled",)),
    "prompt_logprobs": Refused("give `echo` and `logprobs` to /v1/completions"),
    "lora_adapter": Refused("adapters are switched where the server runs"),
    "adapter": Refused("adapters are switched where the server runs"),
}
"""What would change the answer and cannot be had."""


def checked(body: BaseModel, strict: bool) -> list[str]:
    """Look at the fields of a body that its model does not have; gives those that nobody knows and that are ignored.

    Args:
        body: The body.
        strict: Refuse those.

    Raises:
        APIError: a field would change the answer, or is not known and `strict` is set.
    """
    unknown = []
    for name, value in _extra(body):
        refused = REFUSED.get(name)
        if refused is not None and not any(value == nothing for nothing in refused.asks_nothing):
            raise APIError(400, f"{name} is not supported: {refused.told}", "unsupported_field", name)
        if refused is None and name.rpartition(".")[2] not in IGNORED:
            unknown.append(name)
    if unknown and strict:
        message = f"this server does not know the field {unknown[0]}: leave it out"
        raise APIError(400, message, "unknown_field", unknown[0].encode("utf-8", "replace").decode())
    return unknown


def _extra(model: BaseModel, place: str = "") -> Iterator[tuple[str, Any]]:
    """Fields that say something and are not among the model's own, with their places; those inside it too."""
    for name, value in (model.model_extra or {}).items():
        if value is not None:
            yield f"{place}{name}", value
    for name in type(model).model_fields:
        value = getattr(model, name)
        items = enumerate(value) if isinstance(value, list) else [("", value)]
        for index, item in items:
            if isinstance(item, BaseModel):
                yield from _extra(item, f"{place}{name}.{index}." if index != "" else f"{place}{name}.")
