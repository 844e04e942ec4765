"""A supervisor and two workers that share a dossier: it is computed once, and each node prints what it reused.

usage: pip install langgraph 'semshare-agents[langchain]' && python examples/langgraph_supervisor.py
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from langchain_core.messages import AIMessage, SystemMessage
from langchain_semshare import ChatSemShare
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command
from pydantic import BaseModel

DOSSIER = SystemMessage(
    "The town of Gull Point wants to save its lighthouse. The tower was built in 1874 from grey granite that "
    "came by barge from the mainland. Its lamp burned colza oil until 1902, then paraffin, and was changed to "
    "electric light in 1931. Three families kept it in turn; the last keeper was Ruth Fenn, who left in 1968, "
    "when the lamp became automatic. The tower has 142 steps and a gallery from which one sees the whole bay. "
    "The roof of the keeper's house leaks, the stairs are worn, and salt has got into the joints of the "
    "western wall. A mason asks 38,000 pounds for the wall and 9,000 for the stairs; a roofer asks 12,500 for "
    "the roof. The county pays half of what is spent on the tower, but nothing for the house. Last year 4,100 "
    "visitors climbed the tower, at 4 pounds each, and the shop took 6,200 pounds. The council meets on the "
    "first Monday of the month and decides what is repaired, in which order, and who pays for it. Some of its "
    "members would rather build a car park; others want the keeper's house to become a museum of the coast, "
    "with a room for the school and a bench for those who wait for the ferry."
)
TASKS = {
    "historian": "You are the historian. Tell the council in one sentence why the tower matters.",
    "treasurer": "You are the treasurer. Tell the council in one sentence what the repairs cost.",
}
model = ChatSemShare(max_tokens=32, session="council")


class Next(BaseModel):
    """Who works next."""

    worker: Literal["historian", "treasurer"]


def told(node: str, answer: AIMessage) -> None:
    """Print what a node's prompt reused."""
    counts = answer.response_metadata["semshare"]["tokens"]
    reused = sum(counts.values()) - counts["computed"]
    print(f"{node}: {reused} of {sum(counts.values())} tokens reused, {counts['computed']} computed")


async def supervisor(state: MessagesState) -> Command[Literal["historian", "treasurer", "__end__"]]:
    """Choose who works next, until both have."""
    left = [name for name in TASKS if name not in {message.name for message in state["messages"]}]
    if not left:
        return Command(goto=END)
    choose = model.with_structured_output(Next, method="json_schema", include_raw=True)
    chosen = await choose.ainvoke([DOSSIER, ("human", f"Who should work next: {' or '.join(left)}?")])
    told("supervisor", chosen["raw"])
    worker = chosen["parsed"].worker
    return Command(goto=worker if worker in left else left[0])


def worker(name: str) -> Callable[[MessagesState], Awaitable[Command[Literal["supervisor"]]]]:
    """A node that does one task over the dossier."""

    async def work(state: MessagesState) -> Command[Literal["supervisor"]]:
        answer = await model.ainvoke([DOSSIER, ("human", TASKS[name])])
        told(name, answer)
        print(f"    {answer.text.strip()}")
        return Command(goto="supervisor", update={"messages": [AIMessage(answer.text, name=name)]})

    return work


async def main() -> None:
    """Let the council hear both."""
    graph = StateGraph(MessagesState)
    graph.add_node("supervisor", supervisor)
    for name in TASKS:
        graph.add_node(name, worker(name))
    graph.add_edge(START, "supervisor")
    await graph.compile().ainvoke({"messages": [("human", "What about the lighthouse?")]})


if __name__ == "__main__":
    asyncio.run(main())
