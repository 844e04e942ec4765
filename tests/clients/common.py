"""What every client's check has: the server, the tool, the object that is asked for."""

from __future__ import annotations

import os

from pydantic import BaseModel

BASE = os.environ.get("SEMSHARE_BASE", "http://127.0.0.1:8000")
URL = f"{BASE}/v1"
MODEL = "tiny-llama"
KEY = "none"
SAID = "It is so: Rain in Rome."
HELLO = "Hello there, you."


class Trip(BaseModel):
    """A trip."""

    city: str
    days: int


TRIP = Trip(city="Rome", days=3)


def weather(city: str) -> str:
    """Weather of a city.

    Args:
        city: The city.
    """
    return f"Rain in {city}."


def same(found: object, expected: object) -> None:
    """Raise unless two values are equal."""
    if found != expected:
        raise AssertionError(f"{found!r} is not {expected!r}")
