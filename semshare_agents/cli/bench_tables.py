"""What `semshare bench` shows of what it measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from semshare_agents.bench.serve import TurnFigures


def pair_line(row: dict[str, Any]) -> str:
    """A measured pair, in one line."""
    return (
        f"{row['id']:<28} {row['kind']:<20} {row['n_tokens']:>5} tokens  {row['class']:<8} "
        f"{row['ttft_cold_s']:6.2f} s -> {row['ttft_reuse_s']:6.3f} s  {row['speedup']:5.1f}x  "
        f"KL {row['kl_mean']:.5f}  top-1 {row['top1_agreement']:.2f}"
        + ("  STALE" if row.get("stale") else "")
        + ("  fresh fact lost" if row.get("fresh_lost") else "")
        + (f"  (reference text: KL {row['kl_reference_text']:.5f})" if "kl_reference_text" in row else "")
    )


def pairs_table(summary: dict[str, Any]) -> Table:
    """Medians and means of each kind of pair."""
    table = Table(title="medians of each kind")
    for name in (
        "kind",
        "pairs",
        "tokens",
        "class",
        "cold s",
        "reuse s",
        "speed-up",
        "KL (mean)",
        "KL (worst)",
        "top-1 (mean)",
        "ROUGE-L",
    ):
        table.add_column(name, justify="left" if name in ("kind", "class") else "right")
    for kind, figures in summary.items():
        middle, average = figures["median"], figures["mean"]
        table.add_row(
            kind,
            str(figures["pairs"]),
            f"{middle['n_tokens']:.0f}",
            ", ".join(f"{c} {n}" for c, n in figures["classes"].items()),
            f"{middle['ttft_cold_s']:.2f}",
            f"{middle['ttft_reuse_s']:.3f}",
            f"{middle['speedup']:.1f}x",
            f"{average['kl_mean']:.6f}",
            f"{figures['worst']['kl_mean']:.4f}",
            f"{average['top1_agreement']:.3f}",
            f"{average['rouge_l']:.3f}",
        )
    return table


def facts_line(kind: str, facts: dict[str, int]) -> str:
    """How many answers state an old fact."""
    return (
        f"{kind}: {facts['stale']} of {facts['pairs']} reuse answers state an old fact that the cold one does not; "
        f"of {facts['fresh_cold']} new facts in cold answers {facts['fresh_lost']} are lost"
    )


def repair_table(summary: dict[str, Any]) -> Table:
    """How drift dies out at each rate of repair."""
    buckets = list(dict.fromkeys(name for figures in summary["rates"] for name in figures["kl"]))
    table = Table(
        title="mean KL to cold by token of the answer (pairs), medians of speed",
        caption=f"{summary['pairs']} pairs, {summary['cold']} of them ran cold and are left out",
    )
    for name in ("rows a step", *buckets, "tokens/s", "to rate 0", "exact up to"):
        table.add_column(name, justify="right")
    for figures in summary["rates"]:
        kl = (f"{figures['kl'][b]['mean']:.4f} ({figures['kl'][b]['pairs']})" for b in buckets)
        speed, ratio = figures["tokens_per_second"], figures["speed_ratio"]
        table.add_row(
            str(figures["rate"]),
            *kl,
            "-" if speed is None else f"{speed:.1f}",
            "-" if ratio is None else f"{ratio:.2f}",
            f"{figures['exact_share']:.0%}",
        )
    return table


def retention_table(summary: list[dict[str, Any]]) -> Table:
    """What each policy keeps and costs."""
    table = Table(title="means of each kind")
    for name in ("kind", "policy", "share", "int8", "pairs", "KV bytes", "KL added", "top-1", "ROUGE-L"):
        table.add_column(name, justify="left" if name in ("kind", "policy") else "right")
    for row in summary:
        table.add_row(
            row["kind"],
            row["policy"],
            f"{row['share']:.2f}",
            "yes" if row["int8"] else "no",
            str(row["pairs"]),
            f"{row['kv_bytes_share'] - 1:+.1%}",
            f"{row['kl_added']:.5f}",
            f"{row['top1_agreement']:.3f}",
            f"{row['rouge_l']:.3f}",
        )
    return table


def serve_line(row: TurnFigures) -> str:
    """A turn of a replay, in one line."""
    return (
        f"session {row.session:<3} turn {row.turn:<3} {_count(row.prompt_tokens)} tokens  "
        f"first {row.ttft_seconds:7.3f} s  turn {row.turn_seconds:7.3f} s  gap {row.gap_seconds:6.3f} s  "
        f"{_count(row.completion_tokens)} generated  {_kinds(row.reused)}"
    )


def serve_table(summary: dict[str, Any], title: str) -> Table:
    """What a replay came to."""
    table = Table(title=title, show_header=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    speed = summary["tokens_per_second"]
    for name, value in (
        ("time to first token, median", f"{summary['ttft_seconds_median']:.3f} s"),
        ("time to first token, p95", f"{summary['ttft_seconds_p95']:.3f} s"),
        ("whole turn, median", f"{summary['turn_seconds_median']:.3f} s"),
        ("longest gap in a stream", f"{summary['gap_seconds_longest']:.3f} s"),
        ("tokens generated", _count(summary["completion_tokens"])),
        ("tokens a second over all", "not told" if speed is None else f"{speed:.1f}"),
        ("wall time", f"{summary['wall_seconds']:.1f} s"),
        ("prompt tokens", _count(summary["prompt_tokens"])),
        ("of them", _kinds(summary["reused"]) or "not told"),
    ):
        table.add_row(name, value.strip())
    return table


def _count(tokens: int | None) -> str:
    return "not told" if tokens is None else f"{tokens:5}"


def _kinds(reused: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {tokens}" for kind, tokens in reused.items() if tokens)
