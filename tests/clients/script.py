"""The model's part: it answers by what is asked for."""

from __future__ import annotations

import json
import re
from typing import Any

from semshare_agents.testing import FakeLLM, tool_call
from tests.serving import MODEL

TRIP = {"city": "Rome", "days": 3}
RESULT = re.compile(r"Rain in \w+\.")


class Script:
    """Says an object of the schema, calls the tool that is meant, or says a sentence."""

    def __init__(self) -> None:
        self.llm = FakeLLM(self.answer, model=MODEL)

    def answer(self, messages: list[dict[str, Any]]) -> Any:
        """The answer to a conversation."""
        response = self.llm.calls[-1].request.response
        tools = {t["function"]["name"]: t["function"]["parameters"].get("properties", {}) for t in response.tools}
        asked = next((str(m["content"]) for m in reversed(messages) if m["role"] == "user"), "")
        # Some clients tell results as texts of the user.
        results = RESULT.findall(" ".join(str(message["content"]) for message in messages))
        planner = next((name for name, fields in tools.items() if set(TRIP) <= set(fields)), None)
        if planner is not None and "trip" in asked:
            return tool_call(planner, **TRIP)
        if response.schema is not None:
            return json.dumps(TRIP)
        if results:
            said = f"It is so: {results[-1]}"
            return tool_call("final_answer", answer=said) if "final_answer" in tools else said
        return tool_call("weather", city="Rome") if "weather" in tools else "Hello there, you."
