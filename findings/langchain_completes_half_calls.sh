#!/usr/bin/env bash
# langchain-core 1.8.3.
#
# The last part of a streamed answer says finish_reason "length" and chunk_position "last", and the arguments of its tool
# call are half a JSON text. One expects the merged message to have an invalid call, as the whole answer has it. But
# AIMessageChunk completes the JSON: strings and brackets are closed, a half-written file is a valid call in tool_calls,
# and an agent runs it. A call of which only the name came is a call without arguments. Only a bracket that closes
# what is not open makes it an invalid call.
#
# Seen: tool_calls has the half text and the bare name; with "] behind the arguments both are in invalid_tool_calls.
#
# What this product does: it ends the arguments of a call that was cut off with such a bracket, for LangChain and in the server's streams.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet "langchain-core==1.8.3"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk


def merged(arguments, more):
    first = AIMessageChunk("", tool_call_chunks=[tool_call_chunk(name="write", id="c", index=0, args=arguments)])
    parts = [tool_call_chunk(index=0, args=more)] if more else []
    said = {"finish_reason": "length"}
    return first + AIMessageChunk("", tool_call_chunks=parts, response_metadata=said, chunk_position="last")


seen = []
for arguments, mark in (('{"path": "a", "text": "half of th', '"]'), ("", "]")):
    for more in ("", mark):
        message = merged(arguments, more)
        seen.append((len(message.tool_calls), len(message.invalid_tool_calls)))
        print(f"arguments {arguments + more!r}: valid {message.tool_calls}, invalid {len(message.invalid_tool_calls)}")
sys.exit(seen != [(1, 0), (0, 1), (1, 0), (0, 1)])
PYTHON
