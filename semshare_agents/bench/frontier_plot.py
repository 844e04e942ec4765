"""The plot of the frontier: speed-up against drift, a line a configuration, a point a share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semshare_agents.bench.plots import (
    COLOURS,
    GREY,
    LEAST_KL,
    MARKERS,
    Label,
    label_beside,
    new_figure,
    plain_ticks,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAR_BELOW = 30.0
"""A floor so many times below all points is named under the axis instead of stretching it."""


def draw_frontier(summary: dict[str, Any], title: str, base: Path) -> list[Path]:
    """Speed-up against KL and against agreement, a line a configuration, a point a share.

    Args:
        summary: As from `semshare_agents.bench.frontier.summarise`.
        title: What was measured on what.
        base: File name without suffix.

    Returns:
        The files written.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    figure, axes = new_figure(2, title, frontier_caption(summary))
    names = list(dict.fromkeys(p["configuration"] for p in summary["points"] if not p["ablation"]))
    for ax, figure_name in zip(axes, ("kl", "agreement"), strict=True):
        labels = []
        for index, name in enumerate(names):
            mine = [p for p in summary["points"] if p["configuration"] == name and not p["ablation"]]
            mine.sort(key=lambda p: float(p["share"]))
            x, y = [p["speedup"] for p in mine], [max(p[figure_name], LEAST_KL) for p in mine]
            colour = COLOURS[index % len(COLOURS)]
            ax.plot(x, y, marker=MARKERS[index % len(MARKERS)], color=colour, linewidth=1.6, markersize=6)
            labels.append(Label(x[0], y[0], name, colour))
            if index == 0:
                _name_shares(ax, mine, y)
        for point in (p for p in summary["points"] if p["ablation"]):
            y0 = max(point[figure_name], LEAST_KL)
            ax.plot([point["speedup"]], [y0], marker="x", color=GREY, markersize=7, markeredgewidth=2)
            labels.append(Label(point["speedup"], y0, point["configuration"], GREY))
        _frontier_scales(ax, figure_name)
        label_beside(ax, labels + _baselines(ax, summary["baselines"], figure_name))
    return save(figure, base)


def frontier_caption(summary: dict[str, Any]) -> str:
    """What the lines of a frontier mean."""
    floor = (
        "Cold noise floor: the stock prefill against the same prompt computed by the row path in two halves, nothing "
        f"reused (KL {summary['baselines']['floor']['kl']:.1g})."
    )
    if "bfloat16" in summary["baselines"]:
        floor += " bfloat16: the stock prefill against a stock cold run of the same weights in bfloat16."
    return (
        f"Pairs: {summary['pairs']}. Speed-up: stock cold prefill over everything from message list to first token "
        "with reuse, median. KL of the cold run to reuse in nats and top-1 agreement: means over the cold answer. "
        "Along a line: the share of semantically matched rows computed again. Crosses: ablations. Reference text: the "
        f"target's question asked of the reference's text, computed in full. {floor}"
    )


def _frontier_scales(ax: Axes, figure_name: str) -> None:
    ax.set_xscale("log")
    ax.set_xlabel("TTFT speed-up over a cold prefill (log)")
    low, high = ax.get_xlim()
    ax.set_xlim(low, high * 1.1)
    plain_ticks(ax, "x")
    if figure_name == "kl":
        ax.set_yscale("log")
        plain_ticks(ax, "y")
        # Room for the line that names a floor far below.
        low, high = ax.get_ylim()
        ax.set_ylim(low / (high / low) ** 0.08, high)
        ax.set_ylabel("KL of cold to reuse, nats (log; lower is better)")
    else:
        ax.set_ylabel("top-1 agreement with cold (higher is better)")


def _baselines(ax: Axes, baselines: dict[str, dict[str, float]], figure_name: str) -> list[Label]:
    """Horizontal lines and their labels; what lies far off the points is named at the axis' edge instead."""
    words = {"reference_text": "reference text", "floor": "cold noise floor", "bfloat16": "bfloat16 cold run"}
    labels = []
    bottom = ax.get_ylim()[0]
    for name, style in (("reference_text", "--"), ("bfloat16", "-."), ("floor", ":")):
        if name not in baselines:
            continue
        value = max(baselines[name][figure_name], LEAST_KL)
        if figure_name == "kl" and value * FAR_BELOW < bottom:
            said = f"{words[name]}: {value:.1g}, far below this axis ↓"
            ax.annotate(said, (0.02, 0.015), xycoords="axes fraction", fontsize=9, color=GREY)
            continue
        ax.axhline(value, linestyle=style, color=GREY, linewidth=1.2)
        labels.append(Label(ax.get_xlim()[1], value, f"{words[name]} {value:.2g}", GREY))
    return labels


def _name_shares(ax: Axes, points: Sequence[dict[str, Any]], y: Sequence[float]) -> None:
    for point, height in zip(points, y, strict=True):
        ax.annotate(
            f"{100 * point['share']:g} %",
            (point["speedup"], height),
            (0, -13),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=COLOURS[0],
        )
