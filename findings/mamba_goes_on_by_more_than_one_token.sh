#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.13.0 on the CPU (without mamba-ssm's kernels): a Mamba-1 model (mamba, falcon_mamba;
# jamba and zamba have the same layers) that goes on from its cache by several tokens at once is wrong, without a word.
#
# Seen: 16 tokens, then 8 more. Token by token the last logits equal those of one run over 24 tokens to 1e-6; the 8 in one
# call are off by a tenth and more. The slow path starts the scan of a chunk from an empty state: only a single token is
# taken for a continuation.
#
# What this product does: it reuses nothing of such models and says so in the report; they answer by the stock model, one
# token a step, which is right.
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
from transformers import AutoModelForCausalLM, FalconMambaConfig, MambaConfig

logging.disable(logging.WARNING)  # "... is falling back to its reference implementation. This is correct ..."


def off(found, right):
    """Mean difference over mean size."""
    return ((found - right).abs().mean() / right.abs().mean()).item()


seen = []
for kind in (MambaConfig, FalconMambaConfig):
    torch.manual_seed(0)
    config = kind(vocab_size=100, hidden_size=64, num_hidden_layers=4, state_size=16, initializer_range=0.2)
    model = AutoModelForCausalLM.from_config(config).eval()
    tokens = torch.randint(10, 90, (1, 24))
    with torch.no_grad():
        right = model(tokens).logits[0, -1]
        cache = model(tokens[:, :16], use_cache=True).cache
        chunk = model(tokens[:, 16:], cache=cache, use_cache=True).logits[0, -1]
        cache = model(tokens[:, :16], use_cache=True).cache
        for i in range(16, 24):
            single = model(tokens[:, i : i + 1], cache=cache, use_cache=True).logits[0, -1]
    seen.append((off(chunk, right), off(single, right)))
    print(f"{config.model_type}: 8 tokens at once off by {seen[-1][0]:.2g}, one by one by {seen[-1][1]:.2g}")
sys.exit(0 if all(chunk > 1e-3 > 1e-4 > single for chunk, single in seen) else 1)
PYTHON
