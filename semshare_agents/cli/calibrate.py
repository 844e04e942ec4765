"""`semshare calibrate`: fit the drift predictor of the fidelity dial to a model and to data like one's own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from semshare_agents.cli.common import (
    HomeOption,
    ModelOption,
    console,
    load_model,
    progress_bar,
    quiet_libraries,
    settings_of,
)


def calibrate(
    file: Annotated[Path, typer.Argument(help="Pairs, one JSON object a line, as `bench pairs` takes them.")],
    kind: Annotated[list[str] | None, typer.Option(help="Only kinds that begin with this; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most pairs of a kind.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens over which drift is measured.")] = 32,
    model: ModelOption = None,
    home: HomeOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do not keep the result.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write figures and a plot into this folder.")] = None,
) -> None:
    """Measure drift on pairs and fit the predictor that the fidelity dial uses."""
    quiet_libraries()
    from semshare_agents.bench.calibrate import MeasuredTurn, measure_turns, tested
    from semshare_agents.bench.calibrate import calibrate as fitted
    from semshare_agents.bench.output import console_table, described, prepare_folder, write
    from semshare_agents.bench.pairs import read_pairs
    from semshare_agents.bench.plots import draw_calibration, require_matplotlib
    from semshare_agents.reuse.drift import FEATURES, calibration_path, save

    pairs = read_pairs(file, kind or (), limit)
    settings = settings_of(model, home)
    if out is not None:
        require_matplotlib()
        prepare_folder(out)
    loaded = load_model(settings)
    with progress_bar() as bar:
        task = bar.add_task("pairs", total=len(pairs))
        finished: set[str] = set()

        def done(turn: MeasuredTurn) -> None:
            finished.add(turn.pair)
            bar.update(task, completed=len(finished))

        turns = asyncio.run(measure_turns(pairs, loaded, settings, max_new_tokens, done))
    calibration, test = fitted(loaded.fingerprint, turns), tested(turns)
    rows = [
        {
            "target KL": f"{t['target_kl']:g}",
            "pairs": str(t["pairs"]),
            "within": f"{100 * t['within']:.0f} %",
            "of the reused": f"{100 * t['reused_within']:.0f} %",
            "cold": str(t["cold"]),
            "mean share": f"{t['share']:.2f}",
        }
        for t in test["targets"]
    ]
    console.print(console_table("the dial, on pairs that were not fitted", rows))
    console.print(f"measured KL within the predicted bound: {100 * test['within_bound']:.0f} % of {len(turns)} turns")
    weights = ", ".join(f"{name} {w:.3g}" for name, w in zip(FEATURES, calibration.weights, strict=True))
    console.print(f"nats per unit: {weights}; margin {calibration.margin:.2f}")
    if out is not None:
        drawn = draw_calibration(test["turns"], f"{loaded.name} model ({described()})", out / "calibration")
        written = write(out / "calibration", {"command": "calibrate", **test, "calibration": vars(calibration)}, rows)
        console.print(f"written to {', '.join(str(path) for path in (*written, *drawn))}")
    if not dry_run:
        path = calibration_path(settings.home, loaded.fingerprint)
        save(calibration, path)
        console.print(f"kept in {path}")
