"""Tiny random models of every causal type that transformers knows, and of settings that change what is computed."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 300
WINDOW_TOKENS = 32
"""Windows, chunks, and what sparse attention selects."""
FIRST_LENGTH, SECOND_LENGTH = 64, 128
"""Other lengths at which something changes: floors and blocks; the context that rotations were first made for."""
CONTEXT_TOKENS = 1024
HEADS, KV_HEADS, HEAD_DIM, HIDDEN, LAYERS = 4, 2, 16, 64, 4

SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "unpadded_vocab_size", "decoder_vocab_size"), VOCABULARY),
    **dict.fromkeys(("vocab_size_per_layer_input", "output_vocab_size"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_dim", "emb_dim", "dim_model"), HIDDEN),
    **dict.fromkeys(("embedding_size", "word_embed_proj_dim", "attention_hidden_size", "lru_width"), HIDDEN),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "num_decoder_layers", "num_encoder_layers", "num_blocks"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("encoder_attention_heads", "swa_num_attention_heads", "num_encoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_decoder_attention_heads", "linear_num_value_heads", "linear_num_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "swa_num_key_value_heads", "num_kv_heads", "num_query_groups"), KV_HEADS),
    "linear_num_key_heads": KV_HEADS,
    **dict.fromkeys(
        ("head_dim", "swa_head_dim", "v_head_dim", "d_kv", "d_head", "dim_head", "attention_head_dim"), HEAD_DIM
    ),
    **dict.fromkeys(("global_head_dim", "attention_head_size", "kv_channels", "index_head_dim"), HEAD_DIM),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim", "indexer_head_dim"), HEAD_DIM),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "o_lora_rank"), 8),
    "qk_head_dim": 16,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size", "d_ff"), 96),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "ffn_dim", "dim_ff", "feed_forward_size", "n_inner"), 96),
    **dict.fromkeys(("shared_intermediate_size", "prefix_dense_intermediate_size", "intermediate_size_mlp"), 96),
    **dict.fromkeys(("ffn_hidden_size", "expert_ffn_hidden_size", "dense_intermediate_size"), 96),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size"), 96),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts", "num_experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions"), CONTEXT_TOKENS
    ),
    **dict.fromkeys(("seq_length", "context_length", "model_max_length", "max_source_positions"), CONTEXT_TOKENS),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "window_size"), WINDOW_TOKENS),
    **dict.fromkeys(("attention_chunk_size", "index_topk", "keep_window_size", "local_attention"), WINDOW_TOKENS),
    **dict.fromkeys(("floor_scale", "log_scaling_n_floor"), FIRST_LENGTH),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size"), 8),
    **dict.fromkeys(("index_n_heads", "indexer_n_heads"), 8),
    **dict.fromkeys(("time_step_rank", "mamba_dt_rank"), 8),
    **dict.fromkeys(("num_nextn_predict_layers", "num_mtp_layers"), 0),
    "mamba_n_heads": 8,
    "mamba_num_heads": 8,
    "mamba_d_head": 16,
    "mamba_head_dim": 16,
    "n_mamba_heads": 2,
    "rotary_dim": 8,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 8,
    "initializer_range": 0.12,
    "init_std": 0.12,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "tie_word_embeddings": False,
    "is_decoder": True,
    "type_vocab_size": 2,
}
ROPE = {"rope_theta": 10_000.0}
LONG = [1.0 + i / 4 for i in range(8)]
LONGROPE = {**ROPE, "rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": LONG}
LONGROPE["original_max_position_embeddings"] = SECOND_LENGTH
DYNAMIC = {**ROPE, "rope_type": "dynamic", "factor": 4.0}
YARN = {**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": SECOND_LENGTH}
FOUR_KINDS = ["sliding_attention", "full_attention"] * 2

BY_TEXT = {
    "dots3_note": "dots3_note_text",
    "gemma3n": "gemma3n_text",
    "llama4": "llama4_text",
    "mllama": "mllama_text_model",
    "musicgen": "musicgen_decoder",
    "musicgen_melody": "musicgen_melody_decoder",
    "qwen4_exp": "qwen4_exp_text",
}
"""Composites of other media that answer text by their text model."""
OWN: dict[str, dict[str, Any]] = {
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1, 3]},
    "bailing_hybrid": {"layer_group_size": 2},
    "cohere_compass_text": {"rope_parameters": {kind: {**ROPE, "rope_type": "default"} for kind in set(FOUR_KINDS)}},
    "dots3_note_text": {"num_key_value_heads": HEADS, "per_layer_config": None, "head_dim": 16},
    "dory": {"n_input_layers": 1, "n_recurrent_layers": 2, "n_output_layers": 1},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.0] * LAYERS,
        "intermediate_size": [96] * LAYERS,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "qwen4_exp_text": {
        "head_dim": 16,
        "indexer_budget": WINDOW_TOKENS,
        "indexer_compress_ratio": 4,
        "ple_embed_dim": 16,
        "hc_lowrank": 8,
        "indexer_n_heads": 8,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "ngram_vocab_size_base": 64,
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": KV_HEADS, "rope_theta": 10_000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "reformer": {"axial_pos_shape": [32, 32], "axial_pos_embds_dim": [32, 32], "attn_layers": ["local", "lsh"] * 2},
    "roc_bert": {
        "pronunciation_embed_dim": 32,
        "shape_embed_dim": 32,
        "pronunciation_vocab_size": 300,
        "shape_vocab_size": 300,
    },
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "hybrid_layer_ids": [1, 3],
        "mamba_ngroups": 1,
        "n_mamba_heads": 8,
        "num_key_value_heads": HEADS,
        "num_query_groups": HEADS,
        "attention_hidden_size": 2 * HIDDEN,
        "attention_head_dim": 32,
        "mamba_headdim": 16,
    },
    "zamba": {
        "attention_hidden_size": 2 * HIDDEN,
        "attention_head_dim": 2 * HIDDEN // HEADS,
        "num_key_value_heads": HEADS,
    },
    "xlstm": {"qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
    "longcat_flash": {"zero_expert_num": 2, "num_key_value_heads": HEADS},
}
"""What single types need otherwise than `SMALL` says."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert+encoder": ("bert", {"is_decoder": False}),
    "roberta+encoder": ("roberta", {"is_decoder": False}),
    "deepseek_v3+yarn": ("deepseek_v3", {"rope_parameters": YARN}),
    "dots1+window": ("dots1", {"layer_types": FOUR_KINDS}),
    "exaone4+nowindow": ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * LAYERS}),
    "falcon+alibi": ("falcon", {"alibi": True}),
    "falcon+new": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gpt2+inverse": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt_bigcode+mha": ("gpt_bigcode", {"multi_query": False}),
    "cohere+qknorm": ("cohere", {"use_qk_norm": True}),
    "hunyuan_v1_dense+dynamic": ("hunyuan_v1_dense", {"rope_parameters": {**DYNAMIC, "alpha": 2.0}}),
    "llama+dynamic": ("llama", {"rope_parameters": DYNAMIC}),
    "llama+longrope": ("llama", {"rope_parameters": LONGROPE}),
    "llama+yarn": ("llama", {"rope_parameters": YARN}),
    "mistral+nowindow": ("mistral", {"sliding_window": None}),
    "mistral+window400": ("mistral", {"sliding_window": 400}),
    "mixtral+window": ("mixtral", {"sliding_window": WINDOW_TOKENS}),
    "ministral3+window": ("ministral3", {"sliding_window": WINDOW_TOKENS}),
    "phimoe+window": ("phimoe", {"sliding_window": WINDOW_TOKENS}),
    "phimoe+longrope": ("phimoe", {"rope_parameters": {**LONGROPE, "short_mscale": 1.0, "long_mscale": 1.0}}),
    "phi3+nowindow": ("phi3", {"sliding_window": None}),
    "phi3+longrope": (
        "phi3",
        {"sliding_window": None, "rope_parameters": LONGROPE, "original_max_position_embeddings": SECOND_LENGTH},
    ),
    "phi3+partial": (
        "phi3",
        {"sliding_window": None, "rope_parameters": {**ROPE, "rope_type": "default", "partial_rotary_factor": 0.5}},
    ),
    "qwen2+window": ("qwen2", {"use_sliding_window": True, "max_window_layers": 2}),
    "qwen2_moe+window": ("qwen2_moe", {"use_sliding_window": True, "max_window_layers": 2}),
    "qwen3+window": ("qwen3", {"use_sliding_window": True, "max_window_layers": 2}),
    "qwen3_moe+window": ("qwen3_moe", {"use_sliding_window": True}),
    "smollm3+window": ("smollm3", {"use_sliding_window": True, "layer_types": FOUR_KINDS}),
    "starcoder2+nowindow": ("starcoder2", {"sliding_window": None}),
    "stablelm+qknorm": ("stablelm", {"qk_layernorm": True}),
    "granitemoehybrid+attention": (
        "granitemoehybrid",
        {"layer_types": ["full_attention"] * LAYERS, "position_embedding_type": "rope"},
    ),
    "granitemoehybrid+nope": (
        "granitemoehybrid",
        {"layer_types": ["full_attention"] * LAYERS, "position_embedding_type": "nope"},
    ),
    "minimax+linearfirst": ("minimax", {"layer_types": ["linear_attention", "full_attention"] * 2}),
    "minimax+fullfirst": ("minimax", {"layer_types": ["full_attention", "linear_attention"] * 2}),
    "gemma4_text+shared": ("gemma4_text", {"num_kv_shared_layers": 2, "layer_types": FOUR_KINDS}),
    "gemma4_text+k_eq_v": ("gemma4_text", {"attention_k_eq_v": True}),
    "phi4_multimodal+window": ("phi4_multimodal", {"sliding_window": WINDOW_TOKENS}),
    "laguna+heads": ("laguna", {"num_attention_heads_per_layer": [4, 8, 4, 8]}),
}


def names() -> list[str]:
    """All types and variants."""
    return [*sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), *VARIANTS]


def config(name: str) -> Any:
    """A tiny configuration of a type or variant."""
    kind, changed = VARIANTS.get(name, (name, {}))
    kind = BY_TEXT.get(kind, kind)
    if kind == "gemma4_assistant":
        shared = {"vocab_size_per_layer_input": 0, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": LAYERS}
        return CONFIG_MAPPING[kind](
            text_config=_small(CONFIG_MAPPING["gemma4_text"], shared), backbone_hidden_size=HIDDEN
        )
    return _small(CONFIG_MAPPING[kind], changed)


def _small(known: Any, changed: dict[str, Any]) -> Any:
    """A configuration with what `SMALL` and `OWN` say, and configurations within it as well."""
    own = {**OWN.get(known.model_type, {}), **changed}
    example = known(**{key: value for key, value in own.items() if key.startswith(("indexer_", "head_dim"))})
    fields = set(example.to_dict()) | set(getattr(known, "attribute_map", {}))
    small = {key: value for key, value in SMALL.items() if key in fields or key == "is_decoder"}
    if "qk_rope_head_dim" in fields:
        small |= {"head_dim": small["qk_rope_head_dim"], "num_key_value_heads": HEADS}
    inner = {key: value for key, value in vars(example).items() if isinstance(value, PreTrainedConfig)}
    small |= {key: _small(type(value), {}) for key, value in inner.items()}
    return known(**{**small, **own})


def build(name: str) -> Any:
    """A random model; norms, sinks and other vectors are disturbed, so that none of them is trivial."""
    torch.manual_seed(7)
    model = made(name, config(name))
    draw = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
    if model.generation_config is not None:
        model.generation_config.eos_token_id = None
    return model.eval()


def made(name: str, configuration: Any) -> Any:
    """The model that answers text for a type or variant, with weights as they come."""
    if configuration.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return AutoModelForCausalLM.from_config(configuration, dtype=torch.float32)
    kind = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[VARIANTS.get(name, (name, {}))[0]])
    return kind._from_config(configuration, dtype=torch.float32)


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level: a character is a token."""
    marks = ["<pad>", "<s>", "</s>"]
    core = Tokenizer(
        BPE({name: i for i, name in enumerate([*marks, *sorted(pre_tokenizers.ByteLevel.alphabet())])}, [])
    )
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
