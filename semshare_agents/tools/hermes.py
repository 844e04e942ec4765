"""Calls between tags, as Hermes, Qwen and many others write them; ours for models whose template knows no tools."""

from __future__ import annotations

import json

from semshare_agents.tools.base import CallReader, ObjectReader, Schemas, ToolFormat


class Hermes(ToolFormat):
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, one after the other."""

    trigger = "<tool_call>"
    begin = "<tool_call>\n"
    separator = "\n</tool_call>\n<tool_call>\n"
    end = "\n</tool_call>"
    after = "}"
    marks = ("</tool_call>",)

    @classmethod
    def fits(cls, template: str) -> bool:
        """See `ToolFormat.fits`."""
        return cls.trigger in template

    def before(self, name: str) -> str:
        """See `ToolFormat.before`."""
        return f'{{"name": {json.dumps(name)}, "arguments": '

    def reader(self, schemas: Schemas) -> CallReader:
        """See `ToolFormat.reader`."""
        return ObjectReader()
