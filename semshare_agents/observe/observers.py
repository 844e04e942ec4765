"""Who watches turns: the contract, and the structured log of every turn."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from semshare_agents.timing.clock import WAIT
from semshare_agents.values import Generation

if TYPE_CHECKING:
    from semshare_agents.registry import DriftSample
    from semshare_agents.request.request import Request

log = logging.getLogger("semshare_agents.turns")


@dataclass(frozen=True)
class TurnSeen:
    """A finished turn.

    Attributes:
        model: The model's name.
        request: What was asked for.
        generation: The answer.
        began: When the call began, in seconds since the epoch.
        ended: When the answer was complete.
    """

    model: str
    request: Request
    generation: Generation
    began: float
    ended: float


class Observer(Protocol):
    """Told of what happens, on the event loop's thread; must be quick and may not raise."""

    def turn(self, seen: TurnSeen) -> None:
        """A turn is finished."""

    def drift(self, sample: DriftSample) -> None:
        """The guard has measured a turn."""


class TurnLog:
    """One log record a turn, without the texts unless asked for; never with those of a turn that is not remembered.

    Args:
        with_text: Whether prompts and answers are logged.
    """

    def __init__(self, with_text: bool = False):
        self._with_text = with_text

    def turn(self, seen: TurnSeen) -> None:
        """Log a turn; its figures are the record's `fields`."""
        report, usage = seen.generation.report, seen.generation.usage
        fields: dict[str, Any] = {
            "event": "turn",
            "turn_id": report.turn_id,
            "tenant": seen.request.tenant,
            "session": seen.request.session,
            "class": report.reuse_class,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            **{f"{kind}_tokens": count for kind, count in report.tokens.items()},
            "ttft_seconds": round(report.ttft_seconds, 4),
            "wait_seconds": round(report.stages_seconds.get(WAIT, 0.0), 4),
            "saved_seconds": None if report.saved is None else round(report.saved.seconds, 4),
            "predicted_cold_seconds": round(report.predicted_cold_seconds, 4),
            "seconds": round(seen.ended - seen.began, 4),
            "misses": report.misses,
            "drafted_tokens": report.drafted_tokens,
            "accepted_tokens": report.accepted_tokens,
            "reason": report.reason,
            "reason_codes": [str(code) for code in report.reason_codes],
        }
        if self._with_text and seen.request.store:
            fields["messages"] = [dict(m) for m in seen.request.messages]
            fields["answer"] = seen.generation.text
        log.info("turn %s, %s", report.turn_id, report.reuse_class, extra={"fields": fields})

    def drift(self, sample: DriftSample) -> None:
        """Log what the guard measured."""
        log.info(
            "drift of turn %d: %.4g", sample.turn_id, sample.kl, extra={"fields": {"event": "drift", **vars(sample)}}
        )


class JsonLines(logging.Formatter):
    """Log records as JSON, one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's time, level, logger and message, with its `fields` where it has some."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
