#!/usr/bin/env bash
# anthropic 2.14.0, the official Python client.
#
# A streamed answer ends with stop_reason "max_tokens" in the middle of a tool call's arguments. One expects the text of
# the arguments as it came, an error, or nothing. But the client's final message has a tool_use block whose input is a
# valid object made of what was whole by then: a half-written string and its key are gone, an open list or object is
# closed, and a half-written number is kept as a smaller one: "days": 12 of 120. Nothing of the block says so; a loop
# that looks at blocks and not at stop_reason runs the call with other arguments than the model was writing.
#
# Seen: inputs {}, {'city': 'Berlin'}, {'city': 'Berlin', 'days': 12} and {'days': [1, 2]}.
#
# What this product does: its /v1/messages sends a call once it is whole; one that was cut off is not sent.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet "anthropic==2.14.0"
"$folder/venv/bin/python" - <<'PYTHON'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import anthropic

EXPECTED = {
    '{"text": "half of th': {},
    '{"city": "Berlin", "text": "half': {"city": "Berlin"},
    '{"city": "Berlin", "days": 12': {"city": "Berlin", "days": 12},
    '{"days": [1, 2': {"days": [1, 2]},
}
MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "x", "content": [], "stop_reason": None}
USAGE = {"input_tokens": 1, "output_tokens": 1}
BLOCK = {"type": "tool_use", "id": "t", "name": "weather", "input": {}}


def events(arguments):
    yield "message_start", {"message": {**MESSAGE, "stop_sequence": None, "usage": USAGE}}
    yield "content_block_start", {"index": 0, "content_block": BLOCK}
    yield "content_block_delta", {"index": 0, "delta": {"type": "input_json_delta", "partial_json": arguments}}
    yield "content_block_stop", {"index": 0}
    yield "message_delta", {"delta": {"stop_reason": "max_tokens", "stop_sequence": None}, "usage": USAGE}
    yield "message_stop", {}


class Handler(BaseHTTPRequestHandler):
    arguments = ""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        lines = [f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n" for name, data in events(self.arguments)]
        body = "".join(lines).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.server_port}", api_key="none", max_retries=0)
seen = {}
for arguments in EXPECTED:
    Handler.arguments = arguments
    with client.messages.stream(model="x", max_tokens=9, messages=[{"role": "user", "content": "hi"}]) as stream:
        message = stream.get_final_message()
    seen[arguments] = message.content[0].input
    print(f"arguments {arguments!r}: {message.stop_reason}, input {message.content[0].input}")
sys.exit(seen != EXPECTED)
PYTHON
