"""Metrics, spans and logs tell what the reports say, and no text."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2 as httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from semshare_agents.llm import SemShareLLM
from semshare_agents.observe.metrics import REASONS, Metrics, reason_word
from semshare_agents.observe.observers import JsonLines
from semshare_agents.observe.tracing import Tracing
from semshare_agents.registry import DriftSample
from semshare_agents.reuse.certain import NEAR_TIE
from tests import tiny
from tests.serving import serving

OpenLLM = Callable[..., Awaitable[SemShareLLM]]
DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana.json"
SERVER_DOCS = DASHBOARD.with_name("server.md")
SECRET = tiny.words(30, seed=1)


async def test_metrics_add_up_to_the_reports(open_llm: OpenLLM) -> None:
    llm = await open_llm()
    async with serving(llm) as url, httpx.AsyncClient(base_url=url) as http:
        replies = [await llm.generate([tiny.user(SECRET)], session="alice") for _ in range(3)]
        text = (await http.get("/metrics")).text
        text = (await http.get("/metrics")).text
    for kind in ("computed", "exact", "moved", "semantic"):
        total = sum(r.report.tokens[kind] for r in replies)
        assert f'semshare_prompt_tokens_total{{kind="{kind}"}} {total}.0' in text
    assert 'semshare_turns_total{class="cold"} 1.0' in text
    assert 'semshare_ttft_seconds_count{class="exact"} 2.0' in text
    assert 'semshare_fallbacks_total{reason="nothing-stored"} 1.0' in text
    for stage in ("look-up", "load", "compute"):
        assert re.search(rf'semshare_stage_seconds_count{{stage="{stage}"}} [123]\.0', text), stage
    memory = next(t for t in llm.turns.tiers.tiers if t.name == "memory")
    assert float(re.search(r'semshare_tier_bytes{tier="memory"} (\S+)', text)[1]) == memory.used_bytes > 0  # type: ignore[index]
    assert 'semshare_requests_total{route="/metrics",status="200"} 1.0' in text
    assert "alice" not in text
    assert SECRET[:9] not in text


async def test_evictions_are_counted_by_tier_and_reason(open_llm: OpenLLM) -> None:
    llm = await open_llm(memory_bytes=300_000)
    for seed in range(5):
        await llm.generate([tiny.user(tiny.words(40, seed=seed))])
    metrics = Metrics(llm.turns.tiers.tiers)
    labels = {"tier": "memory", "reason": "budget"}
    assert metrics.registry.get_sample_value("semshare_evictions_total", labels)
    assert metrics.registry.get_sample_value("semshare_evicted_bytes_total", labels)


def test_guard_samples_become_a_histogram() -> None:
    metrics = Metrics()
    metrics.drift(DriftSample(1, "moved", 0.02, 0.9, 5))
    assert metrics.registry.get_sample_value("semshare_guard_kl_sum", {"class": "moved"}) == 0.02


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("reuse is off", "off"),
        ("nothing stored matches this prompt", "nothing-stored"),
        ("the most similar turn has similarity 0.31, below the threshold", "not-similar"),
        ("reuse would take 1.00 s, a cold prefill 0.50 s", "cold-is-faster"),
        ("facts or wording differ from the most similar turn in 3% of the prompt; reuse would take 1.00 s", "facts"),
        ("the drift is predicted at up to 0.3 nats, more than strict allows", "fidelity"),
        (NEAR_TIE, "near-tie"),
        (f"the model turns its RoPE; {NEAR_TIE}", "near-tie"),
        ("narrowed to exact by the guard: mean KL 0.3 over 8 moved turns; nothing stored matches", "guard"),
        ("900 tokens reach past the model's sliding window of 400", "window"),
    ],
)
def test_reasons_have_few_words(reason: str, word: str) -> None:
    assert reason_word(reason) == word
    assert word in {w for _, w in REASONS}


async def test_spans_have_the_genai_names_and_no_text(open_llm: OpenLLM) -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    llm = await open_llm()
    llm.observers.append(Tracing(provider))
    with provider.get_tracer("app").start_as_current_span("request") as parent:
        reply = await llm.generate([tiny.user(SECRET)], session="alice", tenant="acme")
    span = next(s for s in kept.get_finished_spans() if s.name == "chat tiny-llama")
    assert span.parent is not None
    assert span.parent.span_id == trace.get_current_span(trace.set_span_in_context(parent)).get_span_context().span_id
    told = dict(span.attributes or {})
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.usage.input_tokens"] == reply.usage.prompt_tokens
    assert told["gen_ai.usage.output_tokens"] == reply.usage.completion_tokens
    assert told["gen_ai.usage.cache_read.input_tokens"] == reply.usage.cached_tokens
    assert told["gen_ai.server.time_to_first_token"] == reply.report.ttft_seconds
    assert told["gen_ai.response.finish_reasons"] == ("length",)
    assert span.end_time is not None
    assert span.start_time is not None
    assert (span.end_time - span.start_time) / 1e9 >= reply.report.ttft_seconds
    assert SECRET[:9] not in str(told)


async def test_tracing_is_a_setting(open_llm: OpenLLM) -> None:
    llm = await open_llm(tracing=True)
    assert any(isinstance(o, Tracing) for o in llm.observers)


@pytest.mark.parametrize("with_text", [False, True])
async def test_log_lines_are_json_without_text_by_default(open_llm: OpenLLM, with_text: bool) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    log = logging.getLogger("semshare_agents.turns")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        llm = await open_llm(log_text=with_text)
        reply = await llm.generate([tiny.user(SECRET)], tenant="acme")
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    (line,) = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert line["event"] == "turn"
    assert line["tenant"] == "acme"
    assert line["class"] == reply.report.reuse_class
    assert line["computed_tokens"] == reply.report.tokens["computed"]
    assert (SECRET in stream.getvalue()) is with_text


async def test_dashboard_and_docs_know_the_metrics_there_are(open_llm: OpenLLM) -> None:
    """Dashboard and docs against a server's own scrape: names, and the labels by which the dashboard sums."""
    llm = await open_llm(memory_bytes=300_000)
    async with serving(llm) as url, httpx.AsyncClient(base_url=url) as http:
        for seed in range(4):
            await llm.generate([tiny.user(tiny.words(40, seed=seed))])
        for observer in llm.observers:
            observer.drift(DriftSample(1, "moved", 0.02, 0.9, 5))
        await http.get("/metrics")
        families = list(text_string_to_metric_families((await http.get("/metrics")).text))
    labels = {s.name: set(s.labels) for family in families for s in family.samples if not s.name.endswith("_created")}
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [x["expr"] for p in dashboard["panels"] for x in p["targets"]]
    assert asked
    for expression in asked:
        names = re.findall(r"semshare_\w+", expression)
        assert names
        assert set(names) <= set(labels), expression
        for by in re.findall(r"by \(([^)]*)\)", expression):
            assert {word.strip() for word in by.split(",")} <= labels[names[0]], expression
    rows = re.findall(r"^\| (`semshare_.*?) \| (.*?) \|", SERVER_DOCS.read_text(), re.MULTILINE)
    told = {name: set(re.findall(r"`(\w+)`", marks)) for names, marks in rows for name in re.findall(r"`(\w+)`", names)}
    ends = {"counter": "_total", "histogram": "", "gauge": ""}
    there = {f"{f.name}{ends[f.type]}": f for f in families if not f.name.endswith("_created")}
    assert set(told) == set(there)
    for name, family in there.items():
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == told[name], name
