"""Calls as a bare JSON object, as Llama 3.1 and later write them."""

from __future__ import annotations

import json

from semshare_agents.tools.base import CallReader, ObjectReader, Schemas, ToolFormat


class Llama3(ToolFormat):
    """`{"name": ..., "parameters": {...}}` and nothing else."""

    trigger = ""
    begin = ""
    separator = "; "
    end = ""
    after = "}"
    marks = (";",)
    only_at_start = True

    @classmethod
    def fits(cls, template: str) -> bool:
        """See `ToolFormat.fits`."""
        return '{"name": ' in template and '"parameters": ' in template

    def before(self, name: str) -> str:
        """See `ToolFormat.before`."""
        return f'{{"name": {json.dumps(name)}, "parameters": '

    def reader(self, schemas: Schemas) -> CallReader:
        """See `ToolFormat.reader`."""
        return ObjectReader()
