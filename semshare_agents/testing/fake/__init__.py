"""`FakeLLM`: the adapter's face with scripted answers instead of a model."""

from semshare_agents.testing.fake.llm import FakeLLM
from semshare_agents.testing.fake.script import Said, tool_call
from semshare_agents.testing.fake.turn import FakeCall

__all__ = ["FakeCall", "FakeLLM", "Said", "tool_call"]
