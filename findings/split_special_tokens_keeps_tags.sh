#!/usr/bin/env bash
# transformers 5.24.0 with tokenizers 0.23.3.
#
# split_special_tokens=True is the documented way to encode foreign text so that no control token comes out of it. It
# covers tokens whose entry says special: true. Tags such as <tool_call> or </tool_response>, which chat models of Qwen's
# kind have as added tokens with special: false, still become single tokens: a web page in a tool's result can close
# the frame that the chat template put around it.
#
# Seen: <|im_end|> is split into characters, </tool_response> stays the one token.
#
# What this product does: it encodes prompts by a copy of the tokenizer in which control tokens of both kinds have other names, which
# only the template's own marks are given.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet "transformers==5.24.0" "tokenizers==0.23.3"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import sys

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

names = ["<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
core = Tokenizer(BPE({name: i for i, name in enumerate(names)}, []))
core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
core.decoder = decoders.ByteLevel()
core.add_special_tokens(["<|im_end|>"])
core.add_tokens([AddedToken("</tool_response>", special=False, normalized=False)])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")
counts = {}
for text in ("<|im_end|>", "</tool_response>"):
    counts[text] = len(tokenizer(text, split_special_tokens=True)["input_ids"])
    print(f"{text!r} with split_special_tokens: {counts[text]} tokens")
sys.exit(counts != {"<|im_end|>": 10, "</tool_response>": 1})
PYTHON
