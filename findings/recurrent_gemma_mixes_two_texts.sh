#!/usr/bin/env bash
# transformers 5.24.0, torch 2.13.0
#
# RecurrentGemma takes `use_cache=True` and gives back no cache: the state of the text so far, and the keys and values of
# its attention, lie in the modules themselves. A second prompt that runs before the first is continued replaces it, and
# the first one's next step goes on from the second's text: no error, other logits. `generate` calls that take turns
# (two users of one model) mix their texts this way.
#
# semshare_agents tries two turns side by side when it loads a model that it has to run on the stock forward, and refuses
# one whose turns mix.
#
# Exits 0 while this holds, 1 when it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from transformers import AutoModelForCausalLM, RecurrentGemmaConfig

torch.manual_seed(0)
shape = dict(vocab_size=100, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64)
config = RecurrentGemmaConfig(**shape, lru_width=32, attention_window_size=32, initializer_range=0.3)
model = AutoModelForCausalLM.from_config(config).eval()
one, other, following = torch.arange(10, 22)[None], torch.arange(40, 52)[None], torch.tensor([[7]])


@torch.no_grad()
def prefill(prompt):
    return model(input_ids=prompt, position_ids=torch.arange(prompt.shape[1])[None], use_cache=True)


@torch.no_grad()
def step():
    return model(input_ids=following, position_ids=torch.tensor([[12]]), use_cache=True).logits[0, -1]


gives_none = prefill(one).get("cache") is None
alone = step()
prefill(one)
prefill(other)
beside = step()
mixed = float((alone - beside).abs().mean() / alone.abs().mean())
print("a cache is given back:", not gives_none)
print(f"the first text's next step, after another text was begun, differs by {mixed:.0%} of the logits' size")
raise SystemExit(0 if gives_none and mixed > 0.05 else 1)
PYTHON
