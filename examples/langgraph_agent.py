"""An agent with tools: two threads of one graph, kept by a checkpointer; each node prints what it reused.

usage: pip install langgraph 'semshare-agents[langchain]' && python examples/langgraph_agent.py
"""

from __future__ import annotations

import asyncio

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langchain_semshare import ChatSemShare
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

SYSTEM = SystemMessage(
    "You work at the desk of a small harbour. You look up tides and berths with your tools and tell the "
    "skippers, in one short sentence, what you found. The harbour has forty berths in two basins; the inner "
    "basin falls dry at low water, the outer one never does. Boats longer than twelve metres lie in the outer "
    "basin. Berths are let by the night, and nobody may stay longer than a week in summer."
)


@tool
def tide(place: str) -> str:
    """Tell when the next high water is at a place."""
    return f"High water at {place} is at 14:20."


@tool
def berth(metres: int) -> str:
    """Find a free berth for a boat of so many metres."""
    return f"Berth {30 if metres > 12 else 7} is free."


TOOLS = [tide, berth]
model = ChatSemShare(max_tokens=48)


def told(node: str, answer: AIMessage, config: RunnableConfig) -> None:
    """Print what a node's prompt reused."""
    tokens = answer.response_metadata["semshare"]["tokens"]
    thread = config["configurable"]["thread_id"]
    print(f"  {thread}, {node}: {tokens['exact']} tokens reused exactly, {tokens['computed']} computed")


async def agent(state: MessagesState, config: RunnableConfig) -> dict[str, list[AIMessage]]:
    """Call a tool for a question, then answer from its result."""
    answering = isinstance(state["messages"][-1], ToolMessage)
    # A small model calls no tool of its own accord; made to, it calls a fitting one, in valid JSON.
    bound = model.bind_tools(TOOLS, tool_choice="none" if answering else "any")
    answer = await bound.ainvoke([SYSTEM, *state["messages"]], config)
    told("answer" if answering else "call", answer, config)
    return {"messages": [answer]}


def graph() -> StateGraph:
    """Agent and tools, in turns."""
    made = StateGraph(MessagesState)
    made.add_node("agent", agent)
    made.add_node("tools", ToolNode(TOOLS))
    made.add_edge(START, "agent")
    made.add_conditional_edges("agent", tools_condition, {"tools": "tools", END: END})
    made.add_edge("tools", "agent")
    return made


async def main() -> None:
    """Two skippers ask; one of them asks again."""
    app = graph().compile(checkpointer=InMemorySaver())
    for thread, question in (
        ("ana", "When is high water at Gull Point?"),
        ("ben", "Is there a berth for a boat of 9 metres?"),
        ("ana", "And is there a berth for 14 metres?"),
    ):
        print(f"{thread}: {question}")
        state = await app.ainvoke({"messages": [HumanMessage(question)]}, {"configurable": {"thread_id": thread}})
        calls = [call for message in state["messages"] for call in getattr(message, "tool_calls", [])]
        print(f"  called {calls[-1]['name']}({calls[-1]['args']}), said: {state['messages'][-1].text.strip()}")


if __name__ == "__main__":
    asyncio.run(main())
