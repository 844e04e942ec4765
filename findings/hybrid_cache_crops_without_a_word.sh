#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.13.0: after `cache.activate_past_recording()`, `cache.crop(-n)` raises nothing on a model
# with linear attention, and the model goes on from a state that still holds what was cut off.
#
# Seen: 30 tokens, cropped to 20, then 8 others. lfm2 (short convolutions) equals a fresh run of the 28 tokens. qwen3_next
# (gated delta rule) does not, though `crop` returned as for lfm2; before the activation it raised RuntimeError. The only
# sign is `cache.is_croppable`, which is False, and which `crop` does not ask.
#
# What this product does: it never crops a cache; models with such layers run cold, and the report says why.
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
from transformers import AutoModelForCausalLM, DynamicCache, Lfm2Config, Qwen3NextConfig

logging.disable(logging.WARNING)


def off(found, right):
    """Mean difference over mean size."""
    return ((found - right).abs().mean() / right.abs().mean()).item()


SHAPE = {
    "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2,
}
LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
}
CONFIGS = (
    Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"] * 2, block_auto_adjust_ff_dim=False, block_ff_dim=96),
    Qwen3NextConfig(**SHAPE, **LINEAR, head_dim=16, layer_types=["linear_attention", "full_attention"] * 2),
)
seen = {}
for config in CONFIGS:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    first, then = torch.randint(10, 90, (1, 30)), torch.randint(10, 90, (1, 8))
    with torch.no_grad():
        right = model(torch.cat([first[:, :20], then], 1)).logits[0, -1]
        plain = model(first, use_cache=True).past_key_values
        try:
            plain.crop(-10)
            refused = False
        except RuntimeError:
            refused = True
        cache = DynamicCache(config=config)
        cache.activate_past_recording()
        model(first, past_key_values=cache, use_cache=True)
        cache.crop(-10)
        found = model(then, past_key_values=cache, use_cache=True).logits[0, -1]
    seen[config.model_type] = (refused, cache.is_croppable, off(found, right))
    print(f"{config.model_type}: crop refused before recording {refused}, is_croppable {cache.is_croppable}, "
          f"after crop off by {seen[config.model_type][2]:.2g}")
fine, wrong = seen["lfm2"], seen["qwen3_next"]
sys.exit(0 if fine[:2] == (True, True) and fine[2] < 1e-4 and wrong[:2] == (True, False) and wrong[2] > 1e-3 else 1)
PYTHON
