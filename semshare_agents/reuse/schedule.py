"""Row sets that shrink from layer to layer, as a plan's shares ask for."""

from __future__ import annotations

import numpy as np
import torch

from semshare_agents.model.rows import RowPruning
from semshare_agents.values import Plan


def narrowing(plan: Plan) -> RowPruning | None:
    """What drops rows between layers; None for a plan whose layers all compute the same rows.

    Above the check layer each layer keeps the required rows and, of the others, those that deviated most, as many as
    its share allows.
    """
    if not plan.layer_shares:
        return None
    alive_required = np.isin(plan.rows, plan.required)
    candidates = int((~alive_required).sum())

    def narrow(layer: int, deviation: torch.Tensor) -> torch.Tensor | None:
        nonlocal alive_required
        budget = round(plan.layer_shares[layer] * candidates)
        free = np.flatnonzero(~alive_required)
        if budget >= len(free):
            return None
        worst = free[np.argsort(-deviation.float().cpu().numpy()[free], kind="stable")[:budget]]
        kept = np.sort(np.concatenate((np.flatnonzero(alive_required), worst)))
        alive_required = alive_required[kept]
        return torch.as_tensor(kept, device=deviation.device)

    return narrow
