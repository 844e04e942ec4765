#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.13.0: with RoPE of type longrope, an answer that grows past
# original_max_position_embeddings makes phi3 compute its whole prompt again, and llama go on with keys that no longer fit.
#
# Seen: a prompt of 120 tokens, a limit of 128, 16 new tokens. `generate` of phi3 gives its layers 120 rows, then one row
# eight times, then 129 rows at once: the cache was dropped, for from that length on all positions turn by other factors.
# Logits behind the crossing equal a fresh run. The same through llama with the same RoPE: one row a step to the end, and
# the logits behind the crossing are off by half and more, with nothing said.
#
# What this product does: keys are never moved or reused where RoPE changes with the length; the report says why.
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
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config

logging.disable(logging.WARNING)


def off(found, right):
    """Mean difference over mean size."""
    return ((found - right).abs().mean() / right.abs().mean()).item()


ROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 128,
}
seen = {}
for kind in (Phi3Config, LlamaConfig):
    torch.manual_seed(0)
    config = kind(
        vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.12, max_position_embeddings=1024,
        original_max_position_embeddings=128, rope_parameters=dict(ROPE), pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    rows = []

    def count(module, args, kwargs):
        rows.append((args[0] if args else kwargs["hidden_states"]).shape[1])

    hook = model.model.layers[0].register_forward_pre_hook(count, with_kwargs=True)
    answer = model.generate(
        torch.randint(10, 90, (1, 120)), max_new_tokens=16, min_new_tokens=16, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )
    hook.remove()
    with torch.no_grad():
        fresh = model(answer.sequences[:, :-1]).logits[0, -1]
    seen[config.model_type] = (rows, off(answer.logits[-1][0], fresh))
    print(f"{config.model_type}: rows of each step {rows}, last logits off by {seen[config.model_type][1]:.2g}")
again, stale = seen["phi3"], seen["llama"]
sys.exit(0 if again[0][9] == 129 and again[1] < 1e-4 and stale[0][1:] == [1] * 15 and stale[1] > 0.1 else 1)
PYTHON
