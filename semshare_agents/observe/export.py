"""A turn's reuse map as one HTML file, from the templates that the server's page uses too."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from semshare_agents.observe.reuse_map import TurnMap

WEB = Path(__file__).parent / "web"


def when(seconds: float) -> str:
    """A moment as people read it."""
    return datetime.fromtimestamp(seconds).strftime("%d %b %H:%M")


def environment(*folders: Path) -> Environment:
    """Templates of these folders and of this package; everything put into them is escaped."""
    made = Environment(
        loader=FileSystemLoader([*folders, WEB]), autoescape=True, undefined=StrictUndefined, auto_reload=False
    )
    made.globals["when"] = when
    return made


def exported(turn: TurnMap) -> str:
    """An HTML page that needs no other file."""
    parts = {"base": "reuse.css", "style": "page.css", "script": "reuse.js"}
    texts = {name: (WEB / file).read_text() for name, file in parts.items()}
    return environment().get_template("export.html").render(turn=turn, **texts)
