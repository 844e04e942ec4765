"""Several conversations at once over one model and one memory, as behind a chat backend; one of them goes on later.

usage: python examples/sessions.py
"""

from __future__ import annotations

import asyncio

from semshare_agents import Generation, SemShareLLM

SYSTEM = (
    "You are the assistant of a small travel agency by the sea. You answer in one or two friendly "
    "sentences. The agency sells day trips to the island, guided walks along the cliffs and weekends in "
    "the old lighthouse. It is open from nine to five, closed on Sundays, and its telephone is answered "
    "by Mara. Prices are per person: the day trip is 24 pounds, the guided walk 9 pounds and the "
    "lighthouse weekend 160 pounds with breakfast. Children under twelve pay half. Whoever asks for "
    "anything else is told, kindly, that the agency does not offer it."
)


def told(who: str, reply: Generation) -> None:
    """Print an answer and what it reused."""
    tokens = reply.report.tokens
    print(f"{who}: {reply.text.strip()}")
    print(f"    {tokens['exact']} tokens reused exactly, {tokens['moved']} moved, {tokens['computed']} computed")


async def main() -> None:
    """The first guest fills the memory; the next two start from the system prompt that is known by then."""
    async with SemShareLLM.open(max_new_tokens=24) as llm:
        guests = {name: llm.session(name, system=SYSTEM) for name in ("ana", "ben", "cleo")}
        told("ana", await guests["ana"].send("What does the day trip cost?"))
        replies = await asyncio.gather(
            guests["ben"].send("Is the agency open on Sundays?"), guests["cleo"].send("How much is a guided walk?")
        )
        for name, reply in zip(("ben", "cleo"), replies, strict=True):
            told(name, reply)
        told("ana", await guests["ana"].send("And for a child of eight?"))


if __name__ == "__main__":
    asyncio.run(main())
