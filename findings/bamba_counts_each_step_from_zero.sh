#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.13.0: `model(token, past_key_values=cache)` of a Bamba model computes the token as if it
# stood at position 0.
#
# Seen: 39 tokens in the cache, the 40th without position_ids: logits off by a tenth; with `position_ids=[[39]]` they equal a
# run over all 40. Other decoders add the cache's length by themselves; Bamba's numbers positions from 0 with each call, and
# nothing is raised. `generate` passes position_ids and is right, so only a decoding loop of one's own is wrong.
#
# What this product does: models with such layers run cold, and steps of theirs are given positions, as `generate` does.
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
from transformers import AutoModelForCausalLM, BambaConfig

logging.disable(logging.WARNING)


def off(found, right):
    """Mean difference over mean size."""
    return ((found - right).abs().mean() / right.abs().mean()).item()


torch.manual_seed(0)
config = BambaConfig(
    vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, initializer_range=0.12, attn_layer_indices=[1, 3], mamba_n_heads=4, mamba_d_head=32,
    mamba_n_groups=1, mamba_d_state=16, mamba_expand=2,
)
model = AutoModelForCausalLM.from_config(config).eval()
tokens = torch.randint(10, 90, (1, 40))
seen = {}
with torch.no_grad():
    right = model(tokens).logits[0, -1]
    for how, more in (("without", {}), ("with", {"position_ids": torch.tensor([[39]])})):
        cache = model(tokens[:, :39], use_cache=True).past_key_values
        seen[how] = off(model(tokens[:, 39:], past_key_values=cache, use_cache=True, **more).logits[0, -1], right)
        print(f"{how} position_ids off by {seen[how]:.2g}")
sys.exit(0 if seen["without"] > 0.01 and seen["with"] < 1e-4 else 1)
PYTHON
