"""Retrieval that ranks the same documents differently for each question: what was computed once is moved, not computed.

usage: python examples/reordered_documents.py
"""

from __future__ import annotations

import asyncio

from semshare_agents import SemShareLLM

DOCUMENTS = {
    "lighthouse": (
        "The lighthouse on Gull Point was built in 1874 from grey granite that came by barge from the "
        "mainland. Its lamp burned colza oil until 1902, then paraffin, and was changed to electric light in "
        "1931. Three families kept it in turn. The last keeper was Ruth Fenn, who left in 1968, when the lamp"
        " became automatic. The tower has 142 steps and a gallery from which one sees the whole bay, the "
        "islands and, on clear days, the hills behind the town."
    ),
    "ferry": (
        "The ferry to the island runs four times a day from April to October and once a day in winter, when "
        "the sea allows it. The crossing takes forty minutes. Bicycles travel free of charge, dogs need a "
        "ticket of their own, and cars are not taken at all. The boat is the Marten, built in 1989, with room"
        " for ninety people. Its skipper decides in the morning whether it sails, and a flag on the pier, "
        "green or red, tells those who wait."
    ),
    "birds": (
        "Puffins nest on the western cliffs from May until the end of July, some four hundred pairs in a good"
        " year. Visitors keep to the marked path and stay behind the rope, since the burrows lie just below "
        "the turf. Storm petrels come ashore at night only. In autumn the island is a resting place for geese"
        " on their way south, and volunteers count them at first light from the hide above the northern "
        "beach."
    ),
}
QUESTIONS = (
    ("When did the lamp become electric?", ("lighthouse", "ferry", "birds")),
    ("How long is the crossing?", ("ferry", "birds", "lighthouse")),
    ("Where do the puffins nest?", ("birds", "lighthouse", "ferry")),
)


async def main() -> None:
    """Ask each question over the documents in its own order."""
    async with SemShareLLM.open(max_new_tokens=24) as llm:
        for question, ranked in QUESTIONS:
            text = "\n\n".join([*(DOCUMENTS[name] for name in ranked), question])
            reply = await llm.generate([{"role": "user", "content": text}])
            tokens = reply.report.tokens
            print(f"{question}\n  {reply.text.strip()}")
            counts = ", ".join(f"{tokens[kind]} {kind}" for kind in ("exact", "moved", "computed"))
            print(f"  {' > '.join(ranked)}: {counts}; first token after {reply.report.ttft_seconds:.2f} s")


if __name__ == "__main__":
    asyncio.run(main())
