"""The adapter alone in a plain loop: questions come in while answers stream, and each says what it reused.

usage: python examples/async_loop.py
"""

from __future__ import annotations

import asyncio

from semshare_agents import SemShareLLM

NOTES = (
    "Minutes of the harbour council. The dredging of the outer basin begins in March and takes three weeks; "
    "boats lie in the inner basin meanwhile. The crane is out of order until its new cable comes. The ice "
    "house is let to the fishermen for another five years. The council buys two benches for the pier, and "
    "the school paints the railing. The next meeting is on the second of February at seven in the evening."
)


async def answer(llm: SemShareLLM, questions: asyncio.Queue[str | None]) -> None:
    """Answer questions until there are no more."""
    while (question := await questions.get()) is not None:
        messages = [{"role": "system", "content": NOTES}, {"role": "user", "content": question}]
        print(question)
        async for piece in llm.stream(messages, max_new_tokens=24):
            print(piece.text, end="", flush=True)
            if piece.generation is not None:
                tokens = piece.generation.report.tokens
                print(f"\n    {tokens['exact']} tokens reused exactly, {tokens['computed']} computed")


async def main() -> None:
    """Ask three questions, the later ones while the first is being answered."""
    questions: asyncio.Queue[str | None] = asyncio.Queue()
    async with SemShareLLM.open() as llm:
        work = asyncio.create_task(answer(llm, questions))
        for question in ("When does the dredging begin?", "What about the crane?", "When is the next meeting?"):
            questions.put_nowait(question)
            await asyncio.sleep(0.1)
        questions.put_nowait(None)
        await work


if __name__ == "__main__":
    asyncio.run(main())
