"""Answers that are kept: as turns of a session, each with a note of how it was given.

An answer's id names its session, so that it is found without a table of its own: in any process on the same registry,
after a restart, and by its tenant alone. Forgetting a turn, a session or a tenant forgets these answers too.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import uuid4

from semshare_agents.errors import NotStoredError, RegistryError
from semshare_agents.llm import SemShareLLM
from semshare_agents.registry.notes import Noted
from semshare_server.errors import APIError

log = logging.getLogger(__name__)

KEY_DIGITS = 24
ID = re.compile(r"resp_([0-9a-f]{24})_([A-Za-z0-9_-]{1,1100})")
ITEM_ID = re.compile(r"(?:msg|fc|rs)_([0-9a-f]{24})\d+_([A-Za-z0-9_-]{1,1100})")
SESSION = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


def new_session() -> str:
    """A session for answers that go on from one another."""
    return f"responses-{uuid4().hex[:12]}"


def new_id(session: str) -> str:
    """The id of an answer in a session."""
    name = base64.urlsafe_b64encode(session.encode()).decode().rstrip("=")
    return f"resp_{uuid4().hex[:KEY_DIGITS]}_{name}"


def item_ids(identifier: str) -> Callable[[str, int], str]:
    """Makes ids of an answer's items, which name the answer: clients send an id in the place of an item."""
    _, key, session = identifier.split("_", 2)
    return lambda kind, at: f"{kind}_{key}{at:02d}_{session}"


def answer_of(item_id: str) -> str | None:
    """The id of the answer that an item is part of; None where it is none of ours."""
    found = ITEM_ID.fullmatch(item_id)
    return None if found is None else f"resp_{found[1]}_{found[2]}"


def session_of(identifier: str) -> str | None:
    """The session that an id names; None where it is none of ours."""
    found = ID.fullmatch(identifier)
    if found is None:
        return None
    try:
        name = base64.urlsafe_b64decode(found[2] + "=" * (-len(found[2]) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return name if SESSION.fullmatch(name) else None


class Kept:
    """Answers that an adapter has stored.

    Args:
        llm: The adapter.
    """

    def __init__(self, llm: SemShareLLM):
        self._llm = llm

    async def keep(self, tenant: str, turn_id: int | None, response: Mapping[str, Any]) -> bool:
        """Keep an answer with its turn; whether that was done. An answer stands even where it cannot be kept."""
        if turn_id is None:
            return False
        try:
            await self._llm.note(turn_id, {"id": response["id"], "response": dict(response)}, tenant=tenant)
        except (NotStoredError, RegistryError) as e:
            log.warning("a response cannot be gone on from: %s", e)
            return False
        return True

    async def find(self, tenant: str, identifier: str) -> Noted | None:
        """A tenant's answer and what was said before it; None where it is not kept."""
        session = session_of(identifier)
        return None if session is None else await self._llm.reader.stored.noted(tenant, session, identifier)

    async def items(self, tenant: str, item_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Items of a tenant's answers by their ids, with all others of these answers."""
        answers = dict.fromkeys(answer for item_id in item_ids if (answer := answer_of(item_id)) is not None)
        found = [await self.find(tenant, answer) for answer in answers]
        return {item["id"]: item for noted in found if noted for item in noted.values["response"]["output"]}

    async def delete(self, tenant: str, identifier: str) -> bool:
        """Forget an answer and those that go on from it, text and KV; whether it was there."""
        session, found = session_of(identifier), await self.find(tenant, identifier)
        if found is None or session is None:
            return False
        gone, turns = {identifier}, [found.turn_id]
        for note in await self._llm.reader.stored.notes(tenant, session, after=found.turn_id):
            if note.values.get("response", {}).get("previous_response_id") in gone:
                gone.add(note.values["id"])
                turns.append(note.turn_id)
        for turn_id in reversed(turns):
            try:
                await self._llm.forget(turn=turn_id, tenant=tenant)
            except NotStoredError:
                log.info("turn %d was forgotten meanwhile", turn_id)
        return True


def history_of(found: Noted) -> list[dict[str, Any]]:
    """The messages up to a kept answer, the answer included. Instructions were for it alone and are left out."""
    response = found.values["response"]
    before = found.messages[1:] if response.get("instructions") is not None else found.messages
    items = response["output"]
    calls = [item for item in items if item["type"] == "function_call"]
    if not calls:
        # As it was written, which is what its KV is of.
        return [*before, {"role": "assistant", "content": found.answer}]
    said = "".join(item["content"][0]["text"] for item in items if item["type"] == "message")
    told = [
        {"id": c["call_id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
        for c in calls
    ]
    return [*before, {"role": "assistant", "content": said, "tool_calls": told}]


def not_found(identifier: str, status: int = 404, param: str | None = None) -> APIError:
    """What is said of an answer that is not kept."""
    code = "response_not_found" if param is None else "previous_response_not_found"
    what = "Response" if param is None else "Previous response"
    told = "it was never stored, was deleted, or is another caller's"
    return APIError(status, f"{what} with id {identifier!r} not found: {told}", code, param)
