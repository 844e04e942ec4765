"""The made-up agent of `semshare bench serve`: its system prompt, its tools and how it calls them."""

from __future__ import annotations

import json

SYSTEM = (
    "You are the assistant of a small team. People tell you what happens in a day and ask about it later; what they "
    "told you before is in your notes, which you read with a tool whenever a name, a place, a day or a number is asked "
    "for that was not said in this conversation. Call one tool at a time and wait for its result before you go on. A "
    "result counts for more than what you remember. Where two results disagree, say so and name both. Answer in one or "
    "two plain sentences, in the language in which you were asked, without lists and without repeating the question. "
    "Never make up a number. If nobody told you, say that you do not know and whom to ask."
)

_DESCRIBED = (
    (
        "search_notes",
        "Search what the team wrote down. Gives the sentences that fit best, the newest first, with their days.",
        {"query": "names, places or things to look for", "limit": "how many sentences, at most 20"},
    ),
    (
        "read_calendar",
        "List what is planned between two days: who takes part, where it is, and how long it should take.",
        {"first_day": "a day of the week or a date", "last_day": "the same; the first day if it is left out"},
    ),
    (
        "add_reminder",
        "Remind someone of something. The reminder is sent in the morning of its day and again two hours before.",
        {"who": "a member of the team", "text": "what the reminder says", "day": "when it is due"},
    ),
    (
        "look_up_price",
        "Look up what something cost when it was last bought, repaired or carried, in euros, and who paid for it.",
        {"thing": "what was paid for", "since": "the earliest day that counts"},
    ),
    (
        "write_letter",
        "Draft a letter in the team's name. It is shown to the person who signs it and is not sent by itself.",
        {"to": "who gets it", "about": "what it has to say, in a few words", "signed_by": "a member of the team"},
    ),
    (
        "list_visitors",
        "List who is expected at a place, with the number of people in each group and the time at which they come.",
        {"place": "one of the team's places", "day": "a day of the week or a date"},
    ),
)


def _described(name: str, description: str, parameters: dict[str, str]) -> str:
    taken = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    schema = {"type": "object", "properties": taken, "required": [next(iter(parameters))]}
    return json.dumps({"name": name, "description": description, "parameters": schema})


TOOLS = tuple(_described(*tool) for tool in _DESCRIBED)
"""What the system prompt says of each tool, a line each."""

CALLS = (
    '{{"name": "search_notes", "arguments": {{"query": "{thing}, {place}", "limit": "{n}"}}}}',
    '{{"name": "search_notes", "arguments": {{"query": "what {who} and {other} did on {day}"}}}}',
    '{{"name": "look_up_price", "arguments": {{"thing": "{thing}", "since": "{day}"}}}}',
    '{{"name": "read_calendar", "arguments": {{"first_day": "{day}"}}}}',
)
"""How it calls them."""
