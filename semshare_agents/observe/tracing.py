"""OpenTelemetry spans with the GenAI attribute names (extra `otel`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from semshare_agents.errors import ConfigurationError

if TYPE_CHECKING:
    from semshare_agents.observe.observers import TurnSeen
    from semshare_agents.registry import DriftSample

NANO = 1e9


class Tracing:
    """A span for each turn, a child of the caller's span; no text is in it.

    Args:
        provider: A tracer provider; default: the process's own, which the application sets up.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """

    def __init__(self, provider: Any | None = None):
        try:
            from opentelemetry import trace
        except ImportError as e:
            raise ConfigurationError("tracing needs OpenTelemetry: pip install 'semshare-agents[otel]'") from e
        self._kind = trace.SpanKind.INTERNAL
        self._tracer = trace.get_tracer("semshare_agents", tracer_provider=provider)

    def turn(self, seen: TurnSeen) -> None:
        """Record a turn with the times it really had."""
        report, usage, sampling = seen.generation.report, seen.generation.usage, seen.request.sampling
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "text_completion" if seen.request.raw else "chat",
            "gen_ai.provider.name": "semshare",
            "gen_ai.request.model": seen.model,
            "gen_ai.response.model": seen.model,
            **({} if (most := sampling.max_new_tokens) is None else {"gen_ai.request.max_tokens": most}),
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            "gen_ai.response.finish_reasons": [seen.generation.finish_reason],
            "gen_ai.server.time_to_first_token": report.ttft_seconds,
            "semshare.class": report.reuse_class,
            "semshare.reason": report.reason,
            "semshare.reason_codes": [str(code) for code in report.reason_codes],
            **{f"semshare.tokens.{kind}": count for kind, count in report.tokens.items()},
            **{f"semshare.stage.{name}_seconds": took for name, took in report.stages_seconds.items()},
        }
        if report.saved is not None:
            attributes["semshare.saved_seconds"] = report.saved.seconds
        if seen.request.session is not None:
            attributes["gen_ai.conversation.id"] = seen.request.session
        name = f"{attributes['gen_ai.operation.name']} {seen.model}"
        span = self._tracer.start_span(name, kind=self._kind, attributes=attributes, start_time=int(seen.began * NANO))
        span.add_event("gen_ai.first_token", timestamp=int((seen.began + report.ttft_seconds) * NANO))
        span.end(int(seen.ended * NANO))

    def drift(self, sample: DriftSample) -> None:
        """Drift is measured after the turn's span has ended; metrics and logs have it."""
