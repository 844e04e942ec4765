#!/usr/bin/env bash
# transformers 5.24.0: a tokenizer class whose files cannot be had is made all the same, with an empty vocabulary.
#
# Seen: `GPT2TokenizerFast.from_pretrained("gpt2")` offline raises nothing: it gives a tokenizer of a single token that encodes
# every text to an empty list. (`AutoTokenizer` of the same name raises an OSError.) langchain-core 1.8.3 counts tokens of
# models without a counter of their own by it, so that `get_num_tokens` is 0 for any text and `trim_messages` trims nothing.
#
# What this product does: ChatSemShare and SemShareCompletion count by the model's own tokenizer; one that finds no token in a letter is
# refused with a ModelNotFoundError.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 langchain-core==1.8.3
cd "$folder"
HF_HUB_OFFLINE=1 HF_HOME="$folder/hub" "$folder/venv/bin/python" - <<'PYTHON'
import warnings

from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage, trim_messages
from transformers import AutoTokenizer, GPT2TokenizerFast

warnings.simplefilter("ignore")
made = GPT2TokenizerFast.from_pretrained("gpt2")
ids = made.encode("a text of some words")
print(f"GPT2TokenizerFast: {len(made)} tokens in the vocabulary; the text has the ids {ids}")
try:
    AutoTokenizer.from_pretrained("gpt2")
    refused = False
except OSError as e:
    refused = True
    print(f"AutoTokenizer: {type(e).__name__}")
model = FakeListChatModel(responses=["x"])
talk = [HumanMessage("what is a tide? " * 50) for _ in range(20)]
count, kept = model.get_num_tokens_from_messages(talk), len(trim_messages(talk, token_counter=model, max_tokens=10))
print(f"LangChain counts {count} tokens in 20 messages; trimmed to 10 tokens there are {kept} messages")
raise SystemExit(not (ids == [] and refused and count == 0 and kept == 20))
PYTHON
