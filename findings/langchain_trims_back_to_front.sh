#!/usr/bin/env bash
# langchain-core 1.8.3: `trim_messages` counts lists that are no conversations, in the reverse order of the talk.
#
# Seen: with the default strategy "last" it turns the messages round and asks the token counter for prefixes of that: an answer
# before its question, a tool's result before the call, half a pair. With a partial message it also asks for an empty list.
# A counter that renders a chat template gets an error there from every template that wants roles in turn.
#
# What this product does: get_num_tokens_from_messages counts what the template takes as a whole, and the rest message by message.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet langchain-core==1.8.3
"$folder/venv/bin/python" - <<'PYTHON'
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage, trim_messages

asked = []


def counter(messages):
    asked.append([m.type for m in messages])
    return 10 * len(messages)


call = {"name": "look", "args": {}, "id": "c1"}
talk = [HumanMessage("a"), AIMessage("", tool_calls=[call]), ToolMessage("b", tool_call_id="c1"), AIMessage("c")]
trim_messages(talk, token_counter=counter, max_tokens=30)
whole = list(asked)
asked.clear()
trim_messages([HumanMessage("a\nb\nc")], token_counter=counter, max_tokens=5, allow_partial=True)
print("the talk:", [m.type for m in talk])
for types in whole:
    print("counted: ", types)
print("counted with a partial message:", asked)
backwards = whole[0] == [m.type for m in talk][::-1]
raise SystemExit(not (backwards and any(types[:2] == ["ai", "tool"] for types in whole) and [] in asked))
PYTHON
