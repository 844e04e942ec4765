"""Prometheus metrics under stable names (`semshare_...`); needs the extra `server`.

Labels have few values: no tenant, session or text is ever one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from semshare_agents.observe.observers import TurnSeen
    from semshare_agents.registry import DriftSample
    from semshare_agents.store import Tier

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
NATS = (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
STAGES = {"tokenise": "tokenise", "find": "look-up", "align": "look-up"}


class Metrics:
    """An observer that counts; `registry` is what a scrape reads.

    Args:
        tiers: Whose bytes and evictions are told.
    """

    def __init__(self, tiers: Iterable[Tier] = ()):
        self.registry = CollectorRegistry()
        registry = self.registry
        self._turns = Counter("semshare_turns", "Turns answered.", ["class"], registry=registry)
        self._tokens = Counter(
            "semshare_prompt_tokens", "Prompt tokens by where their KV came from.", ["kind"], registry=registry
        )
        self._answered = Counter("semshare_completion_tokens", "Tokens generated.", registry=registry)
        self._drafted = Counter("semshare_drafted_tokens", "Tokens drafted from earlier text.", registry=registry)
        self._accepted = Counter(
            "semshare_accepted_tokens", "Drafted tokens that came out the same.", registry=registry
        )
        self._ttft = Histogram(
            "semshare_ttft_seconds", "From the call to the first piece.", ["class"], buckets=SECONDS, registry=registry
        )
        self._cold = Counter(
            "semshare_predicted_cold_seconds",
            "What full prefills were predicted to take.",
            ["class"],
            registry=registry,
        )
        self._saved = Counter(
            "semshare_saved_seconds",
            "What reuse saved of the time to the first token, net, where it did; by measured full prefills.",
            ["class"],
            registry=registry,
        )
        self._lost = Counter(
            "semshare_lost_seconds", "What the memory cost, net, where it saved nothing.", ["class"], registry=registry
        )
        self._unknown = Counter(
            "semshare_saved_unknown_turns",
            "Turns of which nobody knows what they saved: no full prefill of like length was measured.",
            ["class"],
            registry=registry,
        )
        self._stage = Histogram(
            "semshare_stage_seconds",
            "Seconds of each stage of a turn.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._fallbacks = Counter(
            "semshare_fallbacks", "Turns that ran cold or narrower than asked for.", ["reason"], registry=registry
        )
        self._misses = Counter(
            "semshare_misses", "Blocks that were promised and could not be served.", registry=registry
        )
        self._kl = Histogram(
            "semshare_guard_kl",
            "Mean KL of sampled turns to cold runs, in nats.",
            ["class"],
            buckets=NATS,
            registry=registry,
        )
        self.registry.register(TierCollector(tuple(tiers)))

    def turn(self, seen: TurnSeen) -> None:
        """Count a turn."""
        report = seen.generation.report
        self._turns.labels(report.reuse_class).inc()
        for kind, count in report.tokens.items():
            self._tokens.labels(kind).inc(count)
        self._answered.inc(seen.generation.usage.completion_tokens)
        self._drafted.inc(report.drafted_tokens)
        self._accepted.inc(report.accepted_tokens)
        self._ttft.labels(report.reuse_class).observe(report.ttft_seconds)
        self._cold.labels(report.reuse_class).inc(report.predicted_cold_seconds)
        if report.saved is None:
            self._unknown.labels(report.reuse_class).inc()
        else:
            self._saved.labels(report.reuse_class).inc(max(0.0, report.saved.seconds))
            self._lost.labels(report.reuse_class).inc(max(0.0, -report.saved.seconds))
        stages: dict[str, float] = {}
        for name, took in report.stages_seconds.items():
            word = STAGES.get(name, name)
            stages[word] = stages.get(word, 0.0) + took
        for word, took in stages.items():
            self._stage.labels(word).observe(took)
        if report.reason_code:
            self._fallbacks.labels(report.reason_code).inc()
        self._misses.inc(report.misses)

    def drift(self, sample: DriftSample) -> None:
        """Count what the guard measured."""
        self._kl.labels(sample.reuse_class).observe(sample.kl)


class TierCollector(Collector):
    """Reads the tiers when a scrape asks.

    Args:
        tiers: The tiers.
    """

    def __init__(self, tiers: tuple[Tier, ...]):
        self._tiers = tiers

    def collect(self) -> Iterable[Metric]:
        """Bytes, blocks and evictions by tier."""
        size = GaugeMetricFamily("semshare_tier_bytes", "KV bytes held.", labels=["tier"])
        budget = GaugeMetricFamily("semshare_tier_budget_bytes", "KV bytes allowed.", labels=["tier"])
        blocks = GaugeMetricFamily("semshare_tier_blocks", "KV blocks held.", labels=["tier"])
        count = CounterMetricFamily("semshare_evictions", "Blocks evicted.", labels=["tier", "reason"])
        gone = CounterMetricFamily("semshare_evicted_bytes", "KV bytes evicted.", labels=["tier", "reason"])
        failures = CounterMetricFamily(
            "semshare_tier_failures", "Blocks that a tier could not keep or give back.", labels=["tier", "what"]
        )
        for tier in self._tiers:
            for what, number in dict(tier.failures).items():
                failures.add_metric([tier.name, what], number)
            size.add_metric([tier.name], tier.used_bytes)
            budget.add_metric([tier.name], tier.budget_bytes)
            blocks.add_metric([tier.name], len(tier))
            for reason, number in dict(tier.evicted).items():
                count.add_metric([tier.name, reason], number)
                gone.add_metric([tier.name, reason], tier.evicted_bytes[reason])
        return [size, budget, blocks, count, gone, failures]
