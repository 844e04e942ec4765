"""The page at `/`: sessions, turns and their reuse maps, of the caller's tenant alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from semshare_agents.llm import SemShareLLM
from semshare_agents.observe.export import WEB, environment
from semshare_agents.observe.reuse_map import turn_map
from semshare_agents.registry.browsing import TurnRow
from semshare_server.errors import APIError

KINDS = ("exact", "moved", "semantic", "computed")
SHOWN = 50
HISTORY = 400
BUCKETS = 48
FALLBACKS = 8
MIB = 1024**2
SAVED = {"saved": "seconds", "saved_low": "low", "saved_high": "high"}
BIGGEST = 2**63 - 1
STATIC = {"reuse.css": "text/css", "page.css": "text/css", "reuse.js": "text/javascript"}


def shares(reports: list[dict[str, Any]]) -> dict[str, float]:
    """Shares of all prompt tokens by kind."""
    counts = {kind: sum(r["tokens"].get(kind, 0) for r in reports) for kind in KINDS}
    total = sum(counts.values()) or 1
    return {kind: count / total for kind, count in counts.items()}


def savings(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """What turns saved together, net, between which bounds, and of how many turns nobody knows."""
    known = [saved for report in reports if (saved := report.get("saved"))]
    sums = {name: sum(saved[key] for saved in known) for name, key in SAVED.items()}
    return {**sums, "known": len(known), "unknown": len(reports) - len(known)}


def buckets(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stacked bars over time, oldest first.

    Args:
        reports: Oldest first.
    """
    size = max(1, -(-len(reports) // BUCKETS))
    bars = []
    for x, start in enumerate(range(0, len(reports), size)):
        parts, top, of_bucket = [], 1.0, shares(reports[start : start + size])
        for kind, share in of_bucket.items():
            top -= share
            parts.append({"kind": kind, "y": round(top, 4), "height": round(share, 4)})
        bars.append({"x": x, "parts": parts, "shares": of_bucket})
    return bars


def line(row: TurnRow, report: dict[str, Any]) -> dict[str, Any]:
    """A turn as the list shows it."""
    parts, x, of_turn = [], 0.0, shares([report])
    for kind, share in of_turn.items():
        if share:
            parts.append({"kind": kind, "x": round(x, 2), "width": round(100 * share, 2)})
        x += 100 * share
    told = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in of_turn.items() if share)
    return {**vars(row), "parts": parts, "told": told, "saved": report.get("saved")}


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:,.1f}"


class Page:
    """The routes of the page.

    Args:
        llm: The adapter whose memory is shown.
        model: The served model's name.
    """

    def __init__(self, llm: SemShareLLM, model: str):
        self._llm = llm
        self._model = model
        templates = environment(Path(__file__).parent / "web")
        self._index_page, self._turn_page = (templates.get_template(f"{name}.html") for name in ("index", "turn"))
        self._static = {name: (WEB / name).read_bytes() for name in STATIC}
        self.router = APIRouter(include_in_schema=False)
        self.router.add_api_route("/", self.index, methods=["GET"])
        self.router.add_api_route("/turn", self.turn, methods=["GET"])
        self.router.add_api_route("/static/{name}", self.static, methods=["GET"])

    async def index(self, request: Request, session: str | None = None, before: int | None = None) -> HTMLResponse:
        """The newest turns, and on the first page what the memory does."""
        stored, tenant = self._llm.reader.stored, request.state.tenant
        first = session is None and before is None
        # Larger numbers than a database knows are no turn's.
        asked = before if before is None or 0 < before <= BIGGEST else 1
        rows = await stored.browse(tenant, session=session, before=asked, limit=HISTORY if first else SHOWN + 1)
        more: dict[str, Any] = {}
        if first:
            more = {"sessions": await stored.sessions(tenant, 20), "drift": await stored.drift_of(tenant)}
        values = {"tenant": tenant, "session": session, "before": before, **more}
        return HTMLResponse(await asyncio.to_thread(self._index, rows, values))

    def _index(self, rows: list[TurnRow], values: dict[str, Any]) -> str:
        reports = [json.loads(row.report) for row in rows]
        narrowed = [{"id": row.id, **report} for row, report in zip(rows, reports, strict=True) if report["reason"]]
        by_kind = shares(reports)
        totals = {
            "shares": by_kind,
            "reused": 1 - by_kind["computed"] if rows else 0,
            "ttft": sum(row.ttft_seconds for row in rows),
            **savings(reports),
        }
        tiers = [
            {
                "name": tier.name,
                "used": _mib(tier.used_bytes),
                "budget": f"{_mib(tier.budget_bytes)} MiB",
            }
            for tier in self._llm.reader.tiers
        ]
        shown = [line(row, report) for row, report in zip(rows[:SHOWN], reports[:SHOWN], strict=True)]
        return self._index_page.render(
            model=self._model,
            turns=shown,
            older=shown[-1]["id"] if len(rows) > SHOWN else None,
            history=rows,
            chart=buckets(reports[::-1]),
            kinds=KINDS,
            totals=totals,
            tiers=tiers,
            fallbacks=narrowed[:FALLBACKS],
            **values,
        )

    async def turn(self, request: Request, id: int) -> HTMLResponse:
        """A turn with its map."""
        tenant = request.state.tenant
        found = await self._llm.reader.stored.turn(id, tenant) if 0 < id <= BIGGEST else None
        if found is None:
            raise APIError(404, "there is no such turn", "turn_not_found", "id")
        row, tokens = found
        return HTMLResponse(await asyncio.to_thread(self._turn, row, tokens, tenant))

    def _turn(self, row: TurnRow, tokens: Any, tenant: str) -> str:
        model = self._llm.reader.model
        tokenizer = model.tokenizer if row.model == model.name else None
        return self._turn_page.render(turn=turn_map(row, tokens, tokenizer), model=self._model, tenant=tenant)

    async def static(self, name: str) -> Response:
        """Style and script."""
        if name not in self._static:
            raise APIError(404, "there is no such file")
        return Response(self._static[name], media_type=STATIC[name], headers={"Cache-Control": "max-age=600"})
