"""Tiny random models of many families and a tiny chat tokenizer, built in code."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    GraniteMoeHybridConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    T5Config,
    T5ForConditionalGeneration,
)

from semshare_agents.model.loading import LoadedModel, prepare
from semshare_agents.reuse.cost import CostModel
from semshare_agents.reuse.speeds import Speeds

VOCABULARY = 300
CONTEXT_TOKENS = 2048
WINDOW_TOKENS = 400
SPECIAL = ("<pad>", "<s>", "<|im_end|>", "<|im_start|>")
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'developer' %}{{ raise_exception('this template knows no developer') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Wide weights, so that attention is far from uniform and a wrong position shows.
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT_TOKENS,
    "initializer_range": 0.12,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
DEEPER = {**SHAPE, "num_hidden_layers": 4}


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10_000.0, **more}


def _llama(**more: Any) -> LlamaConfig:
    return LlamaConfig(**{**SHAPE, **more})


LLAMA3_ROPE = _rope(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=256
)
YARN_ROPE = _rope("yarn", factor=4.0, original_max_position_embeddings=512)
LONGROPE = _rope(
    "longrope",
    short_factor=[1.0] * 8,
    long_factor=[1.0 + i / 4 for i in range(8)],
    original_max_position_embeddings=WINDOW_TOKENS,
)
SLIDING_KINDS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]

REUSABLE: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "llama-linear": lambda: _llama(rope_parameters=_rope("linear", factor=2.0)),
    "llama-llama3": lambda: _llama(rope_parameters=LLAMA3_ROPE),
    "llama-yarn": lambda: _llama(rope_parameters=YARN_ROPE),
    "llama-dynamic": lambda: _llama(rope_parameters=_rope("dynamic", factor=4.0)),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=16),
    "phi3": lambda: Phi3Config(**SHAPE),
    "phi3-partial": lambda: Phi3Config(**SHAPE, rope_parameters=_rope("default", partial_rotary_factor=0.5)),
    "granite": lambda: GraniteConfig(**SHAPE),
    "olmo2": lambda: Olmo2Config(**SHAPE),
    "smollm3-nope": lambda: SmolLM3Config(**DEEPER, no_rope_layer_interval=2),
    "mistral-window": lambda: MistralConfig(**SHAPE, sliding_window=WINDOW_TOKENS),
    "phi3-longrope": lambda: Phi3Config(
        **SHAPE, rope_parameters=LONGROPE, original_max_position_embeddings=WINDOW_TOKENS
    ),
    "gemma2": lambda: Gemma2Config(**SHAPE, head_dim=16, sliding_window=WINDOW_TOKENS),
    "gemma3": lambda: Gemma3TextConfig(**DEEPER, head_dim=16, sliding_window=WINDOW_TOKENS, layer_types=SLIDING_KINDS),
}
LIMITED = {
    "mistral-window": "sliding window",
    "phi3-longrope": "rotates all keys",
    "gemma2": "sliding window",
    "gemma3": "sliding window",
}
"""Families whose KV is reused in turns of up to `WINDOW_TOKENS`, and words of the reason why longer ones run cold."""

UNSUPPORTED: dict[str, Callable[[], Any]] = {
    "bloom-alibi": lambda: BloomConfig(
        vocab_size=VOCABULARY, hidden_size=64, n_layer=3, n_head=4, initializer_range=0.12, eos_token_id=2
    ),
    "mpt-alibi": lambda: MptConfig(
        vocab_size=VOCABULARY, d_model=64, n_layers=3, n_heads=4, max_seq_len=512, eos_token_id=2
    ),
    "mamba": lambda: MambaConfig(
        vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=3, state_size=8, eos_token_id=2
    ),
    "t5": lambda: T5Config(
        vocab_size=VOCABULARY,
        d_model=64,
        d_kv=16,
        d_ff=96,
        num_layers=3,
        num_heads=4,
        decoder_start_token_id=0,
        eos_token_id=2,
    ),
}
EXACT_ONLY: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=64, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2, initializer_range=0.12
    ),
}
CONFIGS = {**REUSABLE, **UNSUPPORTED, **EXACT_ONLY}


def build(family: str, dtype: torch.dtype = torch.float32, seed: int = 7) -> Any:
    """A fresh random model of a family."""
    torch.manual_seed(seed)
    config = CONFIGS[family]()
    if config.is_encoder_decoder:
        model = T5ForConditionalGeneration(config).to(dtype)
    else:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if family in REUSABLE:
        only_letters(model)
    return model.eval()


def only_letters(model: Any) -> None:
    """Let a model answer in letters alone: printable characters can be read back into the same tokens."""
    vocabulary = tokenizer().get_vocab()
    readable = torch.zeros(VOCABULARY, dtype=torch.bool)
    readable[[i for token, i in vocabulary.items() if len(token) == 1 and "a" <= token <= "z"]] = True
    with torch.no_grad():
        model.get_output_embeddings().weight[~readable] = 0.0


def without_positions() -> Any:
    """A decoder whose attention knows no positions but causality."""
    torch.manual_seed(7)
    kinds = {"layer_types": ["full_attention"] * 3, "position_embedding_type": "nope"}
    experts = {"num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 96}
    return AutoModelForCausalLM.from_config(GraniteMoeHybridConfig(**{**SHAPE, **kinds, **experts})).eval()


@lru_cache(maxsize=1)
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, a token a byte, with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*SPECIAL, *alphabet]
    core = Tokenizer(BPE({name: i for i, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="<|im_end|>")
    fast.chat_template = TEMPLATE
    return fast


@lru_cache(maxsize=64)
def loaded(family: str, dtype: torch.dtype = torch.float32, seed: int = 7) -> LoadedModel:
    """A random model, examined and fingerprinted; shared by all tests, so none may change it."""
    return prepare(build(family, dtype, seed), tokenizer(), f"tiny-{family}")


REUSE_WINS = Speeds(
    pass_seconds=1e-6,
    row_seconds=1e-6,
    pair_seconds=1e-12,
    cold_row_seconds=1.0,
    cold_pair_seconds=1e-6,
    load_bytes_per_second=1e12,
)
COLD_WINS = Speeds(
    pass_seconds=1.0,
    row_seconds=1.0,
    pair_seconds=1e-6,
    cold_row_seconds=1e-6,
    cold_pair_seconds=1e-12,
    load_bytes_per_second=1e3,
)


def cost(speeds: Speeds = REUSE_WINS, token_bytes: int = 768) -> CostModel:
    """A cost model of a made-up machine."""
    return CostModel(speeds, token_bytes)


def words(count: int, seed: int) -> str:
    """Random lower-case words, about five characters each."""
    rng = np.random.default_rng(seed)
    letters = rng.integers(97, 123, (count, 4)).astype(np.uint8)
    return " ".join(bytes(row).decode() for row in letters)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
