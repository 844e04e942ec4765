"""instructor: chat completions and responses."""

from __future__ import annotations

import instructor
import openai
from common import KEY, MODEL, TRIP, URL, Trip, same

ASK = [{"role": "user", "content": "a trip"}]
MODES = ("TOOLS", "TOOLS_STRICT", "JSON", "JSON_SCHEMA")


def clients() -> dict[str, instructor.Instructor]:
    client = openai.OpenAI(base_url=URL, api_key=KEY)
    return {mode: instructor.from_openai(client, mode=instructor.Mode[mode]) for mode in MODES}


def structured() -> None:
    for mode, client in clients().items():
        got = client.chat.completions.create(model=MODEL, messages=ASK, response_model=Trip, max_retries=0)
        # Its class is one made of the class that was given.
        same((mode, got.model_dump()), (mode, TRIP.model_dump()))


def stream() -> None:
    for client in clients().values():
        parts = client.chat.completions.create_partial(model=MODEL, messages=ASK, response_model=Trip)
        same(list(parts)[-1].model_dump(), TRIP.model_dump())


def responses() -> None:
    client = openai.OpenAI(base_url=URL, api_key=KEY)
    told = instructor.from_openai(client, mode=instructor.Mode.RESPONSES_TOOLS)
    got = told.responses.create(model=MODEL, input=ASK, response_model=Trip, max_retries=0)
    same(got.model_dump(), TRIP.model_dump())


CHECKS = [structured, stream, responses]
