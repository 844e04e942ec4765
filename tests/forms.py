"""Messages and tools in the forms that hosted APIs take, and what of each has to be in the prompt, in its order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TOOL_USE = {"type": "tool_use", "id": "t", "name": "forecast", "input": {"x": "Ulm"}}
THOUGHT = {"type": "thinking", "thinking": "hmm", "signature": "x"}
DOCUMENT = {"type": "document", "title": "Log", "source": {"type": "text", "data": "dry"}}
MARK = {"cache_control": {"type": "ephemeral"}}
FUNCTION = {
    "name": "forecast",
    "description": "Looks at the sky.",
    "parameters": {"type": "object", "properties": {"where": {"type": "string"}}},
}
TOOL = {"type": "function", "function": FUNCTION}


@dataclass(frozen=True)
class Form:
    """A form.

    Attributes:
        name: What it is called in the table.
        messages: Messages.
        words: What has to be in the prompt, in this order.
        tools: Tools.
    """

    name: str
    messages: list[dict[str, Any]]
    words: tuple[str, ...]
    tools: list[dict[str, Any]] | None = None


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(identifier: str = "call_1", arguments: Any = '{"where": "Ulm"}', name: str = "forecast") -> dict[str, Any]:
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*made: dict[str, Any], content: Any = None, **more: Any) -> dict[str, Any]:
    return said("assistant", content, tool_calls=list(made), **more)


def result(content: Any = "sunny", identifier: str = "call_1", **more: Any) -> dict[str, Any]:
    return said("tool", content, tool_call_id=identifier, **more)


def text(value: Any, kind: str = "text", **more: Any) -> dict[str, Any]:
    return {"type": kind, "text": value, **more}


LATE = said("system", "limit")
ASK, TELL, AGAIN = said("user", "asked"), said("assistant", "told"), said("user", "again")
RULE = said("system", "rule")
USED = ("asked", "forecast", "Ulm", "sunny")
LOOKED = ("asked", "looking", *USED[1:])
OTHER = call("call_2", '{"where": "Rome"}')

FORMS = [
    Form("text", [ASK], ("asked",)),
    Form("a part of text", [said("user", [text("asked")])], ("asked",)),
    Form("several parts: a line each", [said("user", [text("one"), text("two")])], ("one\ntwo",)),
    Form("a part with a cache mark", [said("user", [text("asked", **MARK)])], ("asked",)),
    Form("an empty part, a part that is null", [said("user", [text(""), None, text("asked")])], ("asked",)),
    Form(
        "parts of type input_text, output_text",
        [said("user", [text("asked", "input_text")]), said("assistant", [text("told", "output_text")]), AGAIN],
        ("asked", "told", "again"),
    ),
    Form(
        "a document that is given as text",
        [said("user", [DOCUMENT, text("asked")])],
        ("Log", "dry", "asked"),
    ),
    Form("a user's name", [said("user", "asked", name="mira")], ("mira", "asked")),
    Form("system", [RULE, ASK], ("rule", "asked")),
    Form("developer", [said("developer", "rule"), ASK], ("rule", "asked")),
    Form("system twice", [RULE, said("system", "limit"), ASK], ("rule", "limit", "asked")),
    Form("system and developer", [RULE, said("developer", "limit"), ASK], ("rule", "limit", "asked")),
    Form("a later system", [RULE, ASK, TELL, LATE, AGAIN], ("rule", "asked", "told", "limit", "again")),
    Form("a later developer", [ASK, TELL, said("developer", "limit"), AGAIN], ("asked", "told", "limit", "again")),
    Form("system at the end", [ASK, TELL, AGAIN, said("system", "limit")], ("asked", "told", "again", "limit")),
    Form("system alone", [RULE], ("rule",)),
    Form("two users in a row", [ASK, AGAIN], ("asked", "again")),
    Form("two assistants in a row", [ASK, TELL, said("assistant", "more"), AGAIN], ("asked", "told", "more", "again")),
    Form("an assistant begins", [RULE, TELL, AGAIN], ("rule", "told", "again")),
    Form("an empty answer", [ASK, said("assistant", ""), AGAIN], ("asked", "again")),
    Form("an answer that is null", [ASK, said("assistant", None, tool_calls=[]), AGAIN], ("asked", "again")),
    Form("a refusal", [ASK, said("assistant", None, refusal="never"), AGAIN], ("asked", "never", "again")),
    Form(
        "a refusal as a part",
        [ASK, said("assistant", [{"type": "refusal", "refusal": "never"}]), AGAIN],
        ("asked", "never", "again"),
    ),
    Form("an answer that goes on", [ASK, TELL], ("asked", "told")),
    Form("a call", [ASK, calls(call()), result()], USED, [TOOL]),
    Form("a call beside empty content", [ASK, calls(call(), content=[]), result(), AGAIN], (*USED, "again"), [TOOL]),
    Form(
        "text beside a call", [ASK, calls(call(), content="looking"), result()], ("asked", "looking", *USED[1:]), [TOOL]
    ),
    Form(
        "text, then a call", [ASK, TELL, calls(call()), result(), AGAIN], ("asked", "told", *USED[1:], "again"), [TOOL]
    ),
    Form("a call without a type", [ASK, calls({k: v for k, v in call().items() if k != "type"}), result()], USED),
    Form("a call without an id", [ASK, calls(call("")), said("tool", "sunny", name="forecast")], USED),
    Form("arguments as an object", [ASK, calls(call(arguments={"where": "Ulm"})), result()], USED),
    Form("arguments that are none", [ASK, calls(call(arguments='{"where": "Ul')), result()], ("asked", "Ul", "sunny")),
    Form(
        "several calls, results in another order",
        [ASK, calls(call(), OTHER), result("rainy", "call_2"), result("sunny")],
        ("asked", "Ulm", "sunny", "rainy"),
    ),
    Form(
        "a result is missing", [ASK, calls(call(), OTHER), result("rainy", "call_2"), AGAIN], ("Ulm", "rainy", "again")
    ),
    Form("a result as parts", [ASK, calls(call()), result([text("sun"), text("ny")])], ("Ulm", "sun\nny")),
    Form("a result of nothing", [ASK, calls(call()), result(None), AGAIN], ("Ulm", "again")),
    Form("a user after a result", [ASK, calls(call()), result(), AGAIN], (*USED, "again"), [TOOL]),
    Form("an answer after a result", [ASK, calls(call()), result(), TELL, AGAIN], (*USED, "told", "again"), [TOOL]),
    Form("a result whose call was trimmed", [RULE, result(), AGAIN], ("rule", "sunny", "again")),
    Form(
        "function_call and role function",
        [ASK, said("assistant", None, function_call=call()["function"]), said("function", "sunny", name="forecast")],
        USED,
    ),
    Form(
        "a call of a custom tool",
        [
            ASK,
            calls({"id": "c", "type": "custom", "custom": {"name": "forecast", "input": "Ulm"}}),
            result("sunny", "c"),
        ],
        USED,
    ),
    Form(
        "parts of type tool_use, tool_result",
        [
            ASK,
            said(
                "assistant",
                [text("looking"), {"type": "tool_use", "id": "t", "name": "forecast", "input": {"x": "Ulm"}}],
            ),
            said("user", [{"type": "tool_result", "tool_use_id": "t", "content": [text("sunny")]}, text("again")]),
        ],
        ("asked", "looking", "Ulm", "sunny", "again"),
    ),
    Form(
        "a result that is an error",
        [
            ASK,
            said("assistant", [TOOL_USE]),
            said("user", [{"type": "tool_result", "tool_use_id": "t", "content": "no net", "is_error": True}]),
        ],
        ("asked", "Ulm", "Error: no net"),
    ),
    Form(
        "thoughts before a call: reasoning_content",
        [ASK, calls(call(), reasoning_content="hmm"), result()],
        ("asked", "hmm", "Ulm", "sunny"),
    ),
    Form(
        "thoughts before a call, as a part",
        [
            ASK,
            calls(call(), content=[THOUGHT]),
            result(),
            TELL,
            AGAIN,
        ],
        ("asked", "hmm", "Ulm", "sunny", "told", "again"),
    ),
    Form("a tool beside its type", [ASK], ("forecast", "Looks at the sky."), [{"type": "function", **FUNCTION}]),
    Form(
        "a tool with input_schema, a cache mark",
        [ASK],
        ("forecast", "Looks at the sky."),
        [{"name": "forecast", "description": "Looks at the sky.", "input_schema": FUNCTION["parameters"], **MARK}],
    ),
]

UNSAID: list[tuple[str, list[dict[str, Any]], str]] = [
    ("a picture", [ASK, said("user", [{"type": "image_url", "image_url": {"url": "x"}}])], "message 1"),
    ("sound", [said("user", [{"type": "input_audio", "input_audio": {}}])], "message 0"),
    ("an answer in sound without its words", [ASK, said("assistant", None, audio={"id": "a"})], "message 1"),
    ("an unknown role", [said("king", "x")], "message 0"),
    ("a user who says null", [TELL, said("user", None)], "message 1"),
    ("a call of a user", [said("user", "x", tool_calls=[call()])], "message 0"),
    ("a result of an unknown call", [ASK, calls(call()), result("x", "call_9")], "message 2"),
    ("a second result of a call", [ASK, calls(call()), result(), result()], "message 3"),
    ("two calls with one id", [ASK, calls(call(), call())], "message 1"),
    ("a result of no call at all", [ASK, said("tool", "x")], "message 1"),
]
"""What no model can be told, and the message that the error names."""
