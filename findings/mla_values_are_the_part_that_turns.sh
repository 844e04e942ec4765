#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.13.0: in the cache of a model with multi-head latent attention (deepseek_v3), `keys` carry
# no position and `values` do.
#
# Seen: 20 tokens at positions 0-19 and at 50-69. `layer.keys` are equal and of shape (1, 1, 20, kv_lora_rank): the latent
# from which keys and values are made. `layer.values` differ, of shape (1, 1, 20, qk_rope_head_dim): the rotated part of the
# keys, one head for all. Code that rotates `keys` and leaves `values`, right for every other model, does the opposite of
# what is needed, on tensors whose shapes it can work with.
#
# What this product does: a probe at load compares moved keys with keys computed at the new place, and models whose keys
# and values differ in shape run cold.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export TMPDIR="$folder" HF_HUB_OFFLINE=1
# FINDINGS_VENV names a folder in which a venv with just these pins is made once and kept.
venv="${FINDINGS_VENV:-$folder/venv}"
if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0
fi
"$venv/bin/python" -W ignore - <<'PYTHON'
import logging
import sys

import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config

logging.disable(logging.WARNING)

torch.manual_seed(0)
config = DeepseekV3Config(
    vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=4, initializer_range=0.12, q_lora_rank=24, kv_lora_rank=32, qk_rope_head_dim=8,
    qk_nope_head_dim=16, v_head_dim=16, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
    first_k_dense_replace=1, moe_intermediate_size=32, n_shared_experts=1,
)
model = AutoModelForCausalLM.from_config(config).eval()
tokens, places = torch.randint(10, 90, (1, 20)), torch.arange(20)[None]
with torch.no_grad():
    here = model(tokens, position_ids=places, use_cache=True).past_key_values.layers[0]
    there = model(tokens, position_ids=places + 50, use_cache=True).past_key_values.layers[0]
keys, values = ((getattr(here, name) - getattr(there, name)).abs().max().item() for name in ("keys", "values"))
print(f"keys {tuple(here.keys.shape)} differ by {keys:.2g}, values {tuple(here.values.shape)} by {values:.2g}")
shapes = here.keys.shape[-1] == 32 and here.values.shape[-1] == 8
sys.exit(0 if shapes and keys < 1e-5 and values > 0.1 else 1)
PYTHON
