#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.13.0: the cached keys of an ALiBi model (bloom) do not know where they stand.
#
# Seen: 20 tokens alone, and the same 20 behind 64 masked ones: keys and values of every layer and the logits are equal to
# the bit. ALiBi adds to the scores a bias that grows with the distance, when attention is computed, and the cache holds
# nothing of it. Cached text can be moved by copying; with RoPE (llama) the same keys differ, and have to be rotated.
#
# What this product does: ALiBi models run cold and the report says why: their keys would need no change, but rows that
# are computed alone would need a bias of their own.
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
from transformers import AutoModelForCausalLM, BloomConfig, LlamaConfig

logging.disable(logging.WARNING)

SHAPE = {"vocab_size": 100, "hidden_size": 64, "initializer_range": 0.12}
CONFIGS = (
    BloomConfig(**SHAPE, n_layer=3, n_head=4),
    LlamaConfig(**SHAPE, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4),
)
seen = {}
for config in CONFIGS:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    text, before = torch.randint(10, 90, (1, 20)), torch.randint(10, 90, (1, 64))
    mask = torch.cat([torch.zeros(1, 64), torch.ones(1, 20)], 1).long()
    with torch.no_grad():
        alone = model(text, use_cache=True)
        behind = model(
            torch.cat([before, text], 1), attention_mask=mask, position_ids=torch.arange(84)[None], use_cache=True
        ) if config.model_type == "llama" else model(torch.cat([before, text], 1), attention_mask=mask, use_cache=True)
    pairs = list(zip(alone.past_key_values.layers, behind.past_key_values.layers, strict=True))
    keys = max((a.keys - b.keys[:, :, 64:]).abs().max().item() for a, b in pairs)
    values = max((a.values - b.values[:, :, 64:]).abs().max().item() for a, b in pairs)
    logits = (alone.logits[0, -1] - behind.logits[0, -1]).abs().max().item()
    seen[config.model_type] = (keys, values, logits)
    print(f"{config.model_type}: largest difference of keys {keys:.2g}, values {values:.2g}, logits {logits:.2g}")
sys.exit(0 if max(seen["bloom"]) < 1e-5 and seen["llama"][0] > 0.1 and seen["llama"][1] < 1e-4 else 1)
PYTHON
