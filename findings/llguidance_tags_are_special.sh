#!/usr/bin/env bash
# llguidance 1.9.1 with tokenizers 0.23.3.
#
# A tokenizer.json says of each added token whether it is special. Qwen's kind has <tool_call> and <think> as added
# tokens that are NOT special, so one expects them to be text for a grammar. llguidance takes any added token of the
# form <...> for special, whatever the file says. Free text (/(.|\n)*/) forbids it. A grammar whose string is
# "<tool_call>" names this token, and no other, in its mask, because forced text is tokenised; consuming it is an error
# all the same. [tool_call] in square brackets, just as little special, is text in every way.
#
# Seen: free text allows only the token in square brackets; both tokens are in the masks of their own strings, and the
# matcher fails on <tool_call> alone.
#
# What this product does: it writes tags for which the tokenizer has a token by id (<[123]>) in its grammars, and applies no grammar to
# the text around calls.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet "llguidance==1.9.1" "tokenizers==0.23.3"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

names = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
core = Tokenizer(BPE({name: i for i, name in enumerate(names)}, []))
core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
core.decoder = decoders.ByteLevel()
core.add_special_tokens(["<end>"])
core.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ("<tool_call>", "[tool_call]")])
tokens = LLTokenizer(core.to_str(), eos_token=0)


def allowed(matcher, index):
    return bool(matcher.compute_bitmask()[index // 8] >> index % 8 & 1)


def consumed(matcher, index):
    matcher.consume_token(index)
    return not matcher.is_error()


seen = {}
for tag in ("<tool_call>", "[tool_call]"):
    index = core.token_to_id(tag)
    grammars = (f'start: "{tag}"', "start: /(.|\\n)*/", f"start: <[{index}]>")
    string, text, by_id = (LLMatcher(tokens, grammar, log_level=0) for grammar in grammars)
    seen[tag] = (allowed(text, index), allowed(string, index), consumed(string, index), consumed(by_id, index))
    print(f"{tag}: in the mask of any text {seen[tag][0]}, of its string {seen[tag][1]};", end=" ")
    print(f"consumed as its string {seen[tag][2]}, by its id {seen[tag][3]}")
sys.exit(seen != {"<tool_call>": (False, True, False, True), "[tool_call]": (True, True, True, True)})
PYTHON
