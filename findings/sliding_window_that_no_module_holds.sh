#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.13.0: a 4D attention mask replaces the sliding window, and whether a model has a window
# cannot be seen from its modules.
#
# Seen: a prompt of 100 tokens through a model with a window of 32, once without a mask and once with a ready causal 4D mask
# (as one gives it for packed or chosen rows). The second is taken as it is, window and all gone: logits off by 1. Within 32
# tokens both are equal, so a short check passes. Gemma 3 keeps `sliding_window` in its attention modules; Mistral (also
# Mixtral, Starcoder2, Phi-3, Ministral 3) reads it from the configuration with each call, no module has the attribute.
#
# What this product does: modules alone are not trusted to tell of a window; past a window turns run cold, through the
# stock model with the stock mask.
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
import sys

import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig


def off(found, right):
    """Mean difference over mean size."""
    return ((found - right).abs().mean() / right.abs().mean()).item()


SHAPE = {
    "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.12,
}
seen = {}
for config in (MistralConfig(**SHAPE, sliding_window=32), Gemma3TextConfig(**SHAPE, head_dim=16, sliding_window=32)):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    holders = sum(bool(getattr(module, "sliding_window", None)) for module in model.modules())
    wrong = []
    for length in (32, 100):
        tokens = torch.randint(10, 90, (1, length))
        mask = torch.full((1, 1, length, length), torch.finfo(torch.float32).min).triu(1)
        with torch.no_grad():
            wrong.append(off(model(tokens, attention_mask=mask).logits[0, -1], model(tokens).logits[0, -1]))
    seen[config.model_type] = (holders, *wrong)
    print(f"{config.model_type}: {holders} modules with sliding_window; causal 4D mask off by {wrong[0]:.2g} at 32 tokens, "
          f"by {wrong[1]:.2g} at 100")
right = all(within < 1e-4 and past > 0.1 for _, within, past in seen.values())
sys.exit(0 if right and seen["mistral"][0] == 0 < seen["gemma3_text"][0] else 1)
PYTHON
