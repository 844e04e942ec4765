"""What a frontier is made of, without a model: configurations, summary, plots, tables."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from semshare_agents.bench.ablations import ABLATIONS
from semshare_agents.bench.configurations import ablated, chosen, configurations
from semshare_agents.bench.frontier import FrontierOptions, frontier_table, summarise
from semshare_agents.bench.frontier_plot import draw_frontier
from semshare_agents.bench.output import markdown, prepare_folder
from semshare_agents.bench.plots import (
    Panel,
    Series,
    draw_bars,
    draw_panels,
    require_matplotlib,
    spread,
)
from semshare_agents.errors import ConfigurationError
from semshare_agents.match.matchers import MATCHERS
from semshare_agents.reuse.strategies import STRATEGIES

PNG = b"\x89PNG\r\n\x1a\n"


def row(
    name: str, configuration: str, kl: float, speedup: float, found: str = "semantic", **more: Any
) -> dict[str, Any]:
    figures = {"ttft_reuse_s": 1.0, "rows_share": 0.1, "top1_agreement": 0.5, "rouge_l": 0.5, "kl_mean": kl}
    names = {"id": name, "configuration": configuration, "share": 0.03, "ablation": False, "class": found}
    return {**names, **figures, "speedup": speedup, **more}


def baseline(name: str, kl: float = 0.2) -> dict[str, Any]:
    floor = {"kl_floor": 1e-12, "agreement_floor": 1.0}
    return {"id": name, "kl_reference_text": kl, "agreement_reference_text": 0.8, **floor}


def example() -> dict[str, Any]:
    rows = [
        row("a", c, kl / share**0.2, 1 / share**0.5, share=share)
        for c, kl in (("static", 0.1), ("paper", 0.3))
        for share in (0.01, 0.1, 0.5)
    ]
    return summarise([*rows, row("a", "zero-kv", 6.0, 9.0, ablation=True)], [baseline("a")])


def test_every_strategy_is_a_line_and_the_paper_is_one_more() -> None:
    known = configurations()
    assert set(known) == {*STRATEGIES, "paper"}
    assert (known["paper"].strategy, known["paper"].matching) == ("deviation", "nearest")
    assert chosen([]) == list(known.values())
    assert [c.name for c in chosen(["paper", "static", "paper"])] == ["paper", "static"]
    with pytest.raises(ConfigurationError, match="unknown strategy best; known: question, static"):
        chosen(["static", "best"])


def test_ablations_break_one_part_each() -> None:
    broken = ablated(configurations()["static"])
    assert {a for c in broken for a in c.ablations} == ABLATIONS
    assert {c.matching for c in broken} == set(MATCHERS)
    assert all(len(c.ablations) + (c.matching != "path") == 1 for c in broken)
    assert len({c.name for c in broken}) == len(broken)


def test_points_are_lines_times_shares_and_ablations_once() -> None:
    lines = tuple(chosen(["static", "paper"]))
    options = FrontierOptions(lines, (0.1, 0.2), tuple(ablated(lines[0])), 0.03)
    assert [(c.name, share) for c, share, broken in options.points() if not broken] == [
        ("static", 0.1),
        ("static", 0.2),
        ("paper", 0.1),
        ("paper", 0.2),
    ]
    assert {share for _, share, broken in options.points() if broken} == {0.03}
    for shares in ((), (0.1, 1.5), (-0.1,)):
        with pytest.raises(ConfigurationError, match="shares must lie between 0 and 1"):
            FrontierOptions(lines, shares)


def test_summary_counts_pairs_that_all_configurations_reused_alike() -> None:
    rows = [
        row("a", "static", 0.1, 4.0),
        row("b", "static", 0.3, 8.0),
        row("c", "static", 9.0, 99.0),
        row("a", "paper", 0.2, 2.0),
        row("b", "paper", 0.4, 3.0),
        row("c", "paper", 0.0, 1.0, "cold"),
    ]
    summary = summarise(rows, [baseline("a", 0.2), baseline("b", 0.4), baseline("c", 7.0)])
    assert (summary["pairs"], summary["left_out"]) == (2, ["c"])
    static, paper = summary["points"]
    assert (static["speedup"], static["kl"]) == (6.0, pytest.approx(0.2))
    assert (paper["speedup"], paper["kl"]) == (2.5, pytest.approx(0.3))
    assert summary["baselines"]["reference_text"]["kl"] == pytest.approx(0.3)
    assert "bfloat16" not in summary["baselines"]
    with pytest.raises(ConfigurationError, match="no pair was reused"):
        summarise([row("a", "static", 0.0, 1.0, "cold")], [baseline("a")])


def test_frontier_is_drawn_as_png_and_svg(tmp_path: Path) -> None:
    png, svg = draw_frontier(example(), "a title", tmp_path / "frontier")
    assert png.read_bytes().startswith(PNG)
    assert ET.parse(svg).getroot().tag.endswith("svg")
    told = svg.read_text()
    for word in ("static", "paper", "zero-kv", "reference text", "cold noise floor"):
        assert word in told, word


def test_lines_and_bars_are_drawn(tmp_path: Path) -> None:
    panels = [Panel([Series("cold", [1, 2], [0.0, 1.0]), Series("reuse", [1, 2], [1.0, 2.0])], "x", "y", True, True)]
    for drawn in (
        draw_panels(panels, "t", "c", tmp_path / "lines"),
        draw_bars({"KL": {"a": 0.0, "b": 2.0}, "top-1": {"a": 1.0, "b": 0.5}}, "", "t", "c", tmp_path / "bars"),
    ):
        assert drawn[0].read_bytes().startswith(PNG)
        assert ET.parse(drawn[1]).getroot().tag.endswith("svg")


@pytest.mark.parametrize("places", [[], [5.0], [1.0, 1.0, 1.0], [90.0, 95.0, 100.0, 100.0], [0.0, 50.0, 51.0]])
def test_labels_are_kept_apart_and_inside(places: list[float]) -> None:
    found = spread(places, 10.0, 0.0, 100.0)
    assert all(b - a >= 10.0 - 1e-9 for a, b in pairwise(found))
    assert all(0.0 <= place <= 100.0 for place in found)
    assert len(found) == len(places)


def test_table_names_points_and_baselines() -> None:
    text = markdown(frontier_table(example()))
    lines = text.splitlines()
    assert lines[1].startswith("| --- | ---: |")
    assert any(line.startswith("| static | 1 % |") for line in lines)
    assert any("reference text" in line and "0.2" in line for line in lines)
    assert len({line.count("|") for line in lines}) == 1


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'semshare-agents\[bench\]'"):
        require_matplotlib()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot write to"):
        prepare_folder(tmp_path / "file" / "below")
