"""A chain of LangChain: a prompt, the model and a parser; the long part of the prompt is computed once.

usage: pip install 'semshare-agents[langchain]' && python examples/lcel_chain.py
"""

from __future__ import annotations

import asyncio

from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_semshare import ChatSemShare

TERMS = (
    "Boats are let by the hour, from nine to five. A rowing boat costs 8 pounds an hour, a sailing dinghy 15. "
    "A deposit of 40 pounds is paid at the desk and given back when the boat is. Children under twelve wear a "
    "life jacket, which is lent free of charge. Dogs are welcome in rowing boats. When the red flag is up, "
    "nobody goes out, and whoever is out comes back. Who comes back late pays half an hour more."
)
PROMPT = ChatPromptTemplate.from_messages(
    [("system", "You answer from these terms, in one sentence: {terms}"), ("human", "{question}")]
)


def counted(answer: AIMessage) -> AIMessage:
    """Print what the answer's prompt reused, and hand it on."""
    assert answer.usage_metadata is not None
    print(f"    {answer.usage_metadata['input_token_details']['cache_read']} tokens reused exactly")
    return answer


async def main() -> None:
    """One question streamed, two more in a batch."""
    chain = PROMPT.partial(terms=TERMS) | ChatSemShare(max_tokens=24)
    spoken = chain | StrOutputParser()
    async for text in spoken.astream({"question": "What does a dinghy cost?"}):
        print(text, end="", flush=True)
    print()
    asked = [{"question": "May I bring my dog?"}, {"question": "When must I come back?"}]
    for text in await (chain | RunnableLambda(counted) | StrOutputParser()).abatch(asked):
        print(text.strip())


if __name__ == "__main__":
    asyncio.run(main())
