"""Plots of the benches: PNG and SVG, labelled where the data is, told apart by marker as well as by colour."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semshare_agents.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which people with colour-blindness tell apart, without its yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#555555"
LEAST_KL = 1e-15
"""What a KL of zero is drawn as on a logarithmic axis."""


@dataclass(frozen=True)
class Label:
    """A text beside a place of the plot.

    Attributes:
        x: Data coordinate.
        y: Data coordinate.
        text: What it says.
        colour: Of text and leader.
    """

    x: float
    y: float
    text: str
    colour: str


@dataclass(frozen=True)
class Series:
    """A line of a plot.

    Attributes:
        name: Its label.
        x: Ascending.
        y: Beside `x`.
        dashed: Baselines are.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        series: Its lines.
        x_label: Quantity and unit.
        y_label: Quantity and unit.
        log_x: Whether the axis is logarithmic.
        log_y: Whether the axis is logarithmic.
    """

    series: Sequence[Series]
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False


def require_matplotlib() -> None:
    """Find out before hours of measuring whether the result can be drawn.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise ConfigurationError("drawing needs matplotlib: pip install 'semshare-agents[bench]'") from e


def save(figure: Figure, base: Path) -> list[Path]:
    """Write a figure as `base`.png and `base`.svg."""
    paths = [base.with_suffix(".png"), base.with_suffix(".svg")]
    for path in paths:
        figure.savefig(path, dpi=150, facecolor="white")
    return paths


def draw_calibration(turns: Sequence[dict[str, Any]], title: str, base: Path) -> list[Path]:
    """Draw measured against predicted drift, each turn a point.

    Args:
        turns: With `kl`, `expected_kl` and `bound_kl`, in nats.
        title: What was measured, where.
        base: Path of the files without their suffix.

    Returns:
        The files written.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    caption = (
        "Each point is a turn of a pair that the predictor was not fitted on. Circles: expected drift. Triangles: the "
        "bound that the dial keeps within its target. Points under the line drifted less than predicted."
    )
    figure, (ax,) = new_figure(1, title, caption)
    measured = [max(turn["kl"], LEAST_KL) for turn in turns]
    for index, (key, name) in enumerate((("expected_kl", "expected"), ("bound_kl", "bound"))):
        places = [max(turn[key], LEAST_KL) for turn in turns]
        ax.scatter(places, measured, s=22, marker="o^"[index], color=COLOURS[index], alpha=0.7, label=name)
    ends = (min(measured), max(max(turn["bound_kl"] for turn in turns), max(measured)))
    ax.plot(ends, ends, color=GREY, linestyle="--", linewidth=1.0)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("predicted mean KL, nats")
    ax.set_ylabel("measured mean KL, nats")
    ax.legend(frameon=False)
    return save(figure, base)


def draw_panels(panels: Sequence[Panel], title: str, caption: str, base: Path) -> list[Path]:
    """Draw panels of lines side by side.

    Returns:
        The files written.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    figure, axes = new_figure(len(panels), title, caption)
    names = list(dict.fromkeys(s.name for panel in panels for s in panel.series))
    for panel, ax in zip(panels, axes, strict=True):
        labels = []
        for series in panel.series:
            index = names.index(series.name)
            colour = GREY if series.dashed else COLOURS[index % len(COLOURS)]
            marker = "" if series.dashed else MARKERS[index % len(MARKERS)]
            y = [max(v, LEAST_KL) for v in series.y] if panel.log_y else list(series.y)
            ax.plot(series.x, y, marker=marker, color=colour, linestyle="--" if series.dashed else "-", linewidth=1.6)
            labels.append(Label(series.x[-1], y[-1], series.name, colour))
        _scales(ax, panel)
        label_beside(ax, labels)
    return save(figure, base)


def draw_bars(groups: dict[str, dict[str, float]], y_label: str, title: str, caption: str, base: Path) -> list[Path]:
    """Draw horizontal bars, one panel a figure name, one bar an entry.

    Args:
        groups: Values by panel title and entry name; all panels have the same entries.
        y_label: What the entries are.
        title: Above everything.
        caption: Below everything.
        base: File name without suffix.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    figure, axes = new_figure(len(groups), title, caption)
    for number, ((name, values), ax) in enumerate(zip(groups.items(), axes, strict=True)):
        places = range(len(values))
        ax.barh(places, list(values.values()), color=COLOURS[number % len(COLOURS)], height=0.6)
        ax.set_yticks(places, list(values) if number == 0 else [""] * len(values))
        ax.invert_yaxis()
        ax.set_xlabel(name)
        ax.set_xlim(0, max(*values.values(), 1e-9) * 1.2)
        for place, value in zip(places, values.values(), strict=True):
            ax.annotate(f"{value:.3g}", (value, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axes[0].set_ylabel(y_label)
    # The entries' names stand left of the first panel; nothing is labelled on the right.
    figure.subplots_adjust(left=0.24, right=0.96, wspace=0.12)
    return save(figure, base)


def new_figure(panels: int, title: str, caption: str) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, with room for their labels.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    # Without pyplot there is no global state, and any backend that can write files will do.
    figure = Figure(figsize=(7.6 * panels, 6.2))
    axes = [figure.add_subplot(1, panels, i + 1) for i in range(panels)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, which="major", color="#dddddd", linewidth=0.6)
        ax.set_axisbelow(True)
    lines = textwrap.wrap(caption, 92 * panels)
    bottom = (0.75 + 0.17 * len(lines)) / 6.2
    # Room right of each panel belongs to its labels.
    left, right = 0.85 / (7.6 * panels), 1 - 1.9 / (7.6 * panels)
    figure.subplots_adjust(left=left, right=right, top=0.9, bottom=bottom, wspace=0.58)
    figure.suptitle(title, x=left, ha="left", fontsize=13)
    figure.text(left, 0.02, "\n".join(lines), fontsize=9, color=GREY, va="bottom")
    return figure, axes


def _scales(ax: Axes, panel: Panel) -> None:
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)
    if panel.log_x:
        ax.set_xscale("log")
        plain_ticks(ax, "x")
    if panel.log_y:
        ax.set_yscale("log")
        plain_ticks(ax, "y")
    else:
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))


def plain_ticks(ax: Axes, which: str) -> None:
    """1, 2, 5, 10, ... as plain numbers instead of powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def label_beside(ax: Axes, labels: Sequence[Label], least_points: float = 13.0) -> None:
    """Put labels into the right margin, ordered as their places and far enough apart, with a leader to each."""
    if not labels:
        return
    figure = ax.figure
    ax.set_xlim(ax.get_xlim())
    ax.set_ylim(ax.get_ylim())
    placed = sorted(labels, key=lambda label: label.y)
    to_pixels, to_axes = ax.transData.transform, ax.transAxes.inverted().transform
    step = least_points / 72 * figure.dpi
    low, high = ax.bbox.y0, ax.bbox.y1
    heights = spread([float(to_pixels((label.x, label.y))[1]) for label in placed], step, low, high)
    for label, height in zip(placed, heights, strict=True):
        ax.annotate(
            label.text,
            (label.x, label.y),
            (1.03, float(to_axes((0, height))[1])),
            textcoords="axes fraction",
            va="center",
            fontsize=10,
            color=label.colour,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": label.colour,
                "linewidth": 0.6,
                "alpha": 0.6,
                "shrinkB": 4,
            },
        )


def spread(places: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Move ascending places as little as it takes to have them `step` apart and within `low` and `high`."""
    out = [min(max(place, low), high) for place in places]
    for i in range(1, len(out)):
        out[i] = max(out[i], out[i - 1] + step)
    over = out[-1] - high if out else 0.0
    if over > 0:
        out[-1] = high
        for i in range(len(out) - 2, -1, -1):
            out[i] = min(out[i], out[i + 1] - step)
    assert all(b - a >= step * 0.999 for a, b in pairwise(out))
    return out
