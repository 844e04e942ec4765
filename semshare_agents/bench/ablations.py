"""Deliberate damage, for measuring what each part of the method is worth: other planners and loaders."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from semshare_agents.engine import Priority, Within
from semshare_agents.kv.layout import fill
from semshare_agents.model.loading import LoadedModel
from semshare_agents.model.run import RowRun
from semshare_agents.request.request import Request
from semshare_agents.store.loaded import NO_OWNER, Owner
from semshare_agents.turn import Pipeline
from semshare_agents.turn.load import Loader
from semshare_agents.turn.planner import Planner
from semshare_agents.values import Alignment, Ints, Plan, Scope

NO_ROTATION, NO_RECOMPUTE, RANDOM_MAP, ZERO_KV = "no-rotation", "no-recompute", "random-map", "zero-kv"
ABLATIONS = frozenset({NO_ROTATION, NO_RECOMPUTE, RANDOM_MAP, ZERO_KV})


@dataclass(frozen=True)
class DamagedLoader(Loader):
    """A loader that brings the wrong KV.

    Attributes:
        scrambled: Every reused token takes the KV of a random token of its donor.
        zeroed: What is loaded is zeroed.
    """

    scrambled: bool = False
    zeroed: bool = False

    async def load(
        self,
        scope: Scope,
        alignment: Alignment,
        positions: Ints,
        run: RowRun,
        owner: Owner = NO_OWNER,
        within: Within = nullcontext,
        priority: Priority = Priority.ANSWER,
    ) -> Mapping[str, str]:
        """See `Loader.load`."""
        taken = _scrambled(alignment) if self.scrambled else alignment
        missing = await super().load(scope, taken, positions, run, owner, within, priority)
        if self.zeroed:
            fill(run.buffer, torch.as_tensor(positions), 0)
        return missing


@dataclass(frozen=True)
class UnmendedPlanner(Planner):
    """A planner whose near ties stand: what a broken part does to answers is to be seen."""

    def plan(self, alignment: Alignment, request: Request, model: LoadedModel, on_disk: Callable[[str], bool]) -> Plan:
        """See `Planner.plan`."""
        return replace(super().plan(alignment, request, model, on_disk), spread_logits=0.0)


def damaged(pipeline: Pipeline, ablations: Collection[str]) -> Pipeline:
    """A pipeline with parts of the method broken or left out.

    Args:
        pipeline: The whole one; it stays as it is.
        ablations: Names among `ABLATIONS`.
    """
    planner, loader = pipeline.planner, pipeline.loader
    if ablations:
        planner = UnmendedPlanner(**_fields(planner, Planner))
    if NO_RECOMPUTE in ablations:
        nothing = replace(planner.settings, head_tokens=0, semantic_share=0.0, look_share=0.0)
        planner = replace(planner, settings=nothing)
    if NO_ROTATION in ablations:
        loader = replace(loader, mover=None)
    if {RANDOM_MAP, ZERO_KV} & set(ablations):
        loader = DamagedLoader(
            **_fields(loader, Loader), scrambled=RANDOM_MAP in ablations, zeroed=ZERO_KV in ablations
        )
    return replace(pipeline, planner=planner, loader=loader)


def _fields(whole: Any, of: type) -> dict[str, Any]:
    return {field.name: getattr(whole, field.name) for field in fields(of)}


def _scrambled(alignment: Alignment) -> Alignment:
    rng = np.random.default_rng(0)
    source = alignment.source.copy()
    for index, donor in enumerate(alignment.donors):
        mine = np.flatnonzero(alignment.donor == index)
        source[mine] = rng.choice(np.flatnonzero(donor.stored()), len(mine))
    return replace(alignment, source=source)
