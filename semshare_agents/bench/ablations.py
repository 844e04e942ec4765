"""Deliberate damage, for measuring what each part of the method is worth: other planners and loaders."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from semshare_agents.engine import Priority
from semshare_agents.engine.engine import Within
from semshare_agents.kv.layout import fill
from semshare_agents.model.run import RowRun
from semshare_agents.store.loaded import NO_OWNER, Owner
from semshare_agents.turn import Pipeline
from semshare_agents.turn.load import Loader
from semshare_agents.values import Alignment, Ints, Scope

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


def damaged(pipeline: Pipeline, ablations: Collection[str]) -> Pipeline:
    """A pipeline with parts of the method broken or left out.

    Args:
        pipeline: The whole one; it stays as it is.
        ablations: Names among `ABLATIONS`.
    """
    planner, loader = pipeline.planner, pipeline.loader
    if ablations:
        # What a broken part does to answers is to be seen: no step mends it.
        planner = replace(planner, settings=replace(planner.settings, may_hurry=False))
    if NO_RECOMPUTE in ablations:
        nothing = replace(planner.settings, head_tokens=0, semantic_share=0.0, look_share=0.0)
        planner = replace(planner, settings=nothing)
    if NO_ROTATION in ablations:
        loader = replace(loader, mover=None)
    if {RANDOM_MAP, ZERO_KV} & set(ablations):
        whole = {field.name: getattr(loader, field.name) for field in fields(Loader)}
        loader = DamagedLoader(**whole, scrambled=RANDOM_MAP in ablations, zeroed=ZERO_KV in ablations)
    return replace(pipeline, planner=planner, loader=loader)


def _scrambled(alignment: Alignment) -> Alignment:
    rng = np.random.default_rng(0)
    source = alignment.source.copy()
    for index, donor in enumerate(alignment.donors):
        mine = np.flatnonzero(alignment.donor == index)
        source[mine] = rng.choice(np.flatnonzero(donor.stored()), len(mine))
    return replace(alignment, source=source)
