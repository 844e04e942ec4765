"""How long does it take to bring a long history to a chat template, and to render it?

    python benchmarks/messages.py [--messages 2002] [--model MODEL]

The history has rounds of calls, and texts of 400 characters. Times are CPU milliseconds, the best of ten: the messages
in the form that the template can say (what a turn adds to rendering), rendering it with the template, and encoding it.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from typing import Any

from semshare_agents.messages.cleaning import clean_messages
from semshare_agents.messages.prompt import ChatPrompt
from semshare_agents.messages.template import form_of
from semshare_agents.model.loading import tokenizer_here
from semshare_agents.settings import load_settings

TEXT = "The river rose by two metres in spring, and nobody saw it <b>until</b> noon. " * 5
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}},
}


def history(messages: int) -> list[dict[str, Any]]:
    """A history of so many messages: question, call, result, answer."""
    talk: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}]
    while len(talk) < messages - 1:
        identifier = f"call_{len(talk)}"
        call = {"id": identifier, "type": "function", "function": {"name": "look", "arguments": json.dumps({"at": 1})}}
        talk += [
            {"role": "user", "content": TEXT},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": identifier, "content": "sunny " * 20},
            {"role": "assistant", "content": TEXT},
        ]
    return [*talk[: messages - 1 - (messages - 2) % 4], {"role": "user", "content": "And now?"}]


def best(work: Callable[[], object], times: int = 10) -> float:
    """CPU milliseconds of the fastest of some runs."""
    took = []
    for _ in range(times):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return 1000 * min(took)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=2002)
    parser.add_argument("--model", default="default")
    options = parser.parse_args()
    tokenizer = tokenizer_here(options.model, load_settings().home)
    chat = ChatPrompt(tokenizer, form_of(tokenizer))
    talk = history(options.messages)
    # As an adapter does when it has started: what is loaded is not looked through again and again.
    gc.freeze()
    told, tools = chat.told(clean_messages(talk), [TOOL])
    text = chat.text(clean_messages(talk), [TOOL])
    print(f"{len(talk)} messages, {len(text)} characters")
    print(f"prepared: {best(lambda: chat.told(clean_messages(talk), [TOOL])):.1f} ms")
    print(f"rendered: {best(lambda: chat.template.render([m for _, m in told], tools)):.1f} ms")
    print(f"encoded: {best(lambda: chat.control.encoded(text), 3):.1f} ms")


if __name__ == "__main__":
    main()
