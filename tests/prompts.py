"""Chat templates and tokenizers of the kinds that real models have, of our own making, and prompts as text."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram
from transformers import PreTrainedTokenizerFast

from semshare_agents.messages.cleaning import clean_messages
from semshare_agents.messages.prompt import ChatPrompt
from semshare_agents.messages.template import form_of
from tests import tiny

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"where": {"type": "string"}}},
    },
}

ANSWER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + ANSWER
QWEN_LIKE = (
    "{% if tools %}<|im_start|>system\n<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools> answer with "
    "<tool_call></tool_call><|im_end|>\n{% endif %}"
    "{% for m in messages %}{% set c = m.content.strip() %}"
    "{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ c }}\n</tool_response><|im_end|>\n"
    "{% elif m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{% if '</think>' in c %}{{ c.split('</think>')[-1].lstrip('\n') }}{% else %}{{ c }}{% endif %}"
    "{% for call in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n"
    "{% elif m.role in ('system', 'user') %}<|im_start|>{{ m.role }}\n{{ c }}<|im_end|>\n{% endif %}{% endfor %}"
    + ANSWER
)
XML_LIKE = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n"
    "{% if m.role == 'tool' %}<tool_response>\n{{ m.content }}\n</tool_response>{% else %}{{ m.content }}{% endif %}"
    "{% for call in m.tool_calls or [] %}{% if not loop.first %}\n{% endif %}"
    "<tool_call>\n<function={{ call.function.name }}>\n"
    "{% for k, v in call.function.arguments | items %}<parameter={{ k }}>\n"
    "{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}" + ANSWER
)
ALTERNATING = (
    "{% for m in messages %}"
    "{% if m.role not in ('user', 'assistant') or (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant take turns') }}{% endif %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
)
CONTROLS = ("<pad>", "<s>", "<|im_end|>", "<|im_start|>")
TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
WORDY = ("<table>", "   ", "[NAME]")
"""Added tokens that no template writes."""


def tokenizer(
    template: str, tags: tuple[str, ...] = TAGS, special: tuple[str, ...] = (), more: tuple[str, ...] = WORDY
) -> PreTrainedTokenizerFast:
    """Byte-level with merges; tags are added tokens that are not special, as those of Qwen's kind."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("t", "h"), ("th", "e"), ("i", "m"), ("Ġ", "t"), ("Ġ", "the"), ("<", "|")]
    names = [*CONTROLS, *alphabet, *(a + b for a, b in pairs)]
    core = Tokenizer(BPE({name: i for i, name in enumerate(names)}, merges=pairs))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(name, special=True) for name in (*CONTROLS, *special)])
    core.add_tokens([AddedToken(name, special=False, normalized=False) for name in (*tags, *more)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="<|im_end|>", chat_template=template
    )


def sentencepiece_like(template: str) -> PreTrainedTokenizerFast:
    """Unigram pieces with control tokens among them, spaces as marks and a mark before the first word."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((chr(c), -5.0) for c in range(33, 127)), ("▁", -4.0)]
    pieces += [("▁the", -2.0), ("▁hi", -2.5), ("in", -2.5), ("\n", -3.0)]
    core = Tokenizer(Unigram(pieces, unk_id=0))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Metaspace()
    core.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>")])
    core.add_tokens([AddedToken("[INST]", special=False, normalized=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", chat_template=template
    )


def chat(template: str, **more: Any) -> ChatPrompt:
    """What makes prompts of a template, with a tokenizer whose tags are tokens."""
    made = tokenizer(template)
    return ChatPrompt(made, form_of(made), **more)


def prompt(template: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
    """A prompt's text, control tokens included."""
    made = chat(template)
    return str(made._tokenizer.decode(made.ids(clean_messages(messages), tools), skip_special_tokens=False))


def call(name: str, identifier: str, arguments: Any = None) -> dict[str, Any]:
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments or {}}}


def calling(*calls: dict[str, Any], text: str = "") -> dict[str, Any]:
    return {**tiny.assistant(text), "tool_calls": list(calls)}


def result(identifier: str | None, text: str, **more: Any) -> dict[str, Any]:
    named = {} if identifier is None else {"tool_call_id": identifier}
    return {"role": "tool", "content": text, **named, **more}
