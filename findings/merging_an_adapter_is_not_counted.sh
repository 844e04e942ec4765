#!/usr/bin/env bash
# peft 0.21.2, torch 2.13.0, transformers 5.24.0
#
# Tensors of torch count their in-place writes (`_version`), which invites caches of what was computed with them. PEFT's
# `merge_adapter()` writes the LoRA update into the base weights through `.data`: the parameter is the same object, at
# the same address, with the same version, and the model computes something else. A plain `weight.mul_()` is counted.
#
# semshare_agents therefore reads some elements of every tensor with each turn, the norms of active adapters and the
# switches of all modules besides, before KV computed with the weights of an earlier turn is used.
#
# Exits 0 while this holds, 1 when it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 peft==0.21.2
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

torch.manual_seed(0)
shape = dict(vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
base = AutoModelForCausalLM.from_config(LlamaConfig(**shape))
model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)).eval()
weight = next(w for name, w in model.named_parameters() if "q_proj.base_layer" in name)
before, seen = weight.detach().clone(), (id(weight), weight.data_ptr(), weight._version)
model.merge_adapter()
changed = not torch.equal(weight, before)
unseen = (id(weight), weight.data_ptr(), weight._version) == seen
with torch.no_grad():
    weight.mul_(1.01)
counted = weight._version > seen[2]
print("merge_adapter changed the weights:", changed)
print("object, address and version are as before:", unseen)
print("a plain in-place write is counted:", counted)
raise SystemExit(0 if changed and unseen and counted else 1)
PYTHON
