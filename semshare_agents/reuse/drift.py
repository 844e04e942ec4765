"""The drift predictor: how far a plan's answer is likely to be from a cold run's, before anything is computed.

Drift adds up over the tokens whose KV is not a cold run's, and how much a token adds depends on what is wrong with it:
moved text (it saw other text before it), moved text whose donor never saw much of what precedes it here, or saw much
that is gone, semantic matches, and semantic matches of unlike tokens. The weights come from measured turns (`semshare
calibrate`), and so does the margin that turns an expected drift into one that is kept in nearly all turns.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from semshare_agents.errors import CalibrationError
from semshare_agents.reuse.look import gone_tokens, unseen_tokens
from semshare_agents.security import files as private
from semshare_agents.values import Alignment, Floats, Kind, Plan

log = logging.getLogger(__name__)

FORMAT = 2
COVERAGE = 0.98
"""Share of calibration turns whose measured drift is within the bound."""
FEATURES = ("moved", "unseen", "gone", "semantic", "distance", "inherited")
FIT_STEPS = 2000
LEAST_KL = 1e-5
LONG_TOKENS = 2000
"""In longer prompts the same share of moved text drifts less: an answer needs fewer of their passages."""
LEAST_TURNS = 20


def features(alignment: Alignment, plan: Plan) -> Floats:
    """What is not a cold run's KV in a plan, per prompt token.

    Rows that a second pass or a layer's share will choose count as what their average candidate is; those that decoding
    steps compute later do not count, a drift has to be kept from the first token on.

    Args:
        alignment: Where the KV comes from.
        plan: What is computed.

    Returns:
        In the order of `FEATURES`: share of moved tokens; moved tokens times what their donor had not seen, as a share
        of the prompt; the same for what their donor saw and is gone (these three are less in prompts over
        `LONG_TOKENS`); share of semantic tokens; their summed LSH distance over the prompt's tokens; share of tokens
        whose donor was approximate itself.
    """
    tokens = len(alignment)
    reused = np.ones(tokens, np.float32)
    reused[plan.rows] = 0.0
    if plan.layer_shares:
        reused[np.setdiff1d(plan.rows, plan.required)] = 1.0 - float(np.mean(plan.layer_shares))
    for look in (look for look in plan.looks if not look.late):
        reused[look.candidates] *= 1.0 - look.rows / len(look.candidates)
    moved = np.where(alignment.kind == Kind.MOVED, reused, 0.0)
    semantic = np.where(alignment.kind == Kind.SEMANTIC, reused, 0.0)
    unseen = gone = 0.0
    for start, end in alignment.runs():
        if alignment.kind[start] == Kind.MOVED and moved[start:end].any():
            count = float(moved[start:end].sum())
            unseen += count * min(1.0, unseen_tokens(alignment, start) / (end - start))
            gone += count * min(1.0, gone_tokens(alignment, start) / (end - start))
    depth = np.asarray([d.depth > 0 for d in alignment.donors] + [False])
    inherited = (moved + semantic) * depth[alignment.donor]
    long = min(1.0, LONG_TOKENS / tokens)
    sums = (
        moved.sum() * long,
        unseen * long,
        gone * long,
        semantic.sum(),
        (alignment.distance * semantic).sum(),
        inherited.sum(),
    )
    out: Floats = (np.asarray(sums) / tokens).astype(np.float32)
    return out


@dataclass(frozen=True)
class Calibration:
    """What one unit of each feature adds to the drift, for one model.

    Attributes:
        fingerprint: The model; empty for the defaults.
        weights: KL in nats for one unit of each of `FEATURES`.
        margin: Factor from the expected drift to one that `COVERAGE` of the turns keep.
        turns: How many turns were measured.
    """

    fingerprint: str
    weights: tuple[float, ...]
    margin: float
    turns: int

    def expected_kl(self, measured: Floats) -> float:
        """Expected mean KL of a turn with such `features`, in nats."""
        return float(np.dot(np.asarray(self.weights), measured))

    def bound_kl(self, measured: Floats) -> float:
        """Mean KL that nearly no turn with such `features` exceeds, in nats."""
        return self.margin * self.expected_kl(measured)


DEFAULTS = Calibration("", (0.003, 0.016, 0.032, 0.03, 0.125, 0.01), 6.0, 0)
"""For models that were not calibrated. Semantic text: what 112 turns of the default model gave on 34 pairs
(`semshare calibrate`). Moved text: what 95 % of 68 turns of 0.2k to 2.7k tokens kept, by quantile regression."""


def fit(fingerprint: str, measured: Sequence[Floats], kls: Sequence[float]) -> Calibration:
    """Fit a calibration.

    Args:
        fingerprint: The model.
        measured: `features` of each turn.
        kls: Its measured mean KL to the cold run, in nats.

    Raises:
        CalibrationError: there are too few turns to fit.
    """
    if len(kls) < LEAST_TURNS:
        raise CalibrationError(f"{len(kls)} measured turns are too few to calibrate; {LEAST_TURNS} are needed")
    weights = _weights(np.stack(measured), np.asarray(kls))
    expected = np.maximum(np.stack(measured) @ weights, LEAST_KL)
    factors = np.maximum(np.asarray(kls), LEAST_KL) / expected
    return Calibration(fingerprint, tuple(weights.tolist()), float(np.quantile(factors, COVERAGE)), len(kls))


def _weights(measured: Floats, kls: Floats) -> Floats:
    """Weights above zero that make the logarithm of the sum fit, by gradient descent; deterministic."""
    x = torch.as_tensor(measured, dtype=torch.float64)
    goal = torch.as_tensor(kls, dtype=torch.float64).clamp_min(LEAST_KL).log()
    start = torch.as_tensor(DEFAULTS.weights, dtype=torch.float64).log()
    logs = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([logs], lr=0.02)
    for _ in range(FIT_STEPS):
        optimiser.zero_grad()
        error = ((x @ logs.exp()).clamp_min(LEAST_KL).log() - goal).square().mean()
        # Features that never occur keep their defaults.
        loss = error + 1e-3 * (logs - start).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    out: Floats = logs.detach().exp().numpy()
    return out


def calibration_path(home: Path, fingerprint: str) -> Path:
    """Where a model's calibration is kept."""
    return home / "calibration" / f"{fingerprint[:32]}.json"


def save(calibration: Calibration, path: Path) -> None:
    """Write a calibration, whole or not at all."""
    private.write(path, json.dumps({"format": FORMAT, **asdict(calibration)}, indent=1))


def read(path: Path, fingerprint: str) -> Calibration:
    """Read a calibration for a model; `DEFAULTS` where an older version wrote it, whose features were others.

    Raises:
        CalibrationError: the file is unreadable, or belongs to another model.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        found = raw.pop("format")
        calibration = Calibration(**{**raw, "weights": tuple(float(w) for w in raw["weights"])})
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise CalibrationError(f"{path} is no calibration: {e}; run `semshare calibrate` again or delete it") from e
    if found != FORMAT:
        log.warning("%s has format %s, this version needs %s: run `semshare calibrate` again", path, found, FORMAT)
        return DEFAULTS
    if len(calibration.weights) != len(FEATURES):
        raise CalibrationError(f"{path} has {len(calibration.weights)} weights: run `semshare calibrate` again")
    if calibration.fingerprint != fingerprint:
        raise CalibrationError(
            f"{path} was measured on another model (fingerprint {calibration.fingerprint[:12]}, not "
            f"{fingerprint[:12]}): run `semshare calibrate` with this model"
        )
    return calibration


def calibration_for(home: Path, fingerprint: str) -> Calibration:
    """A model's calibration, or `DEFAULTS` where it was never calibrated.

    Raises:
        CalibrationError: there is one, but it is not for this model or not readable.
    """
    path = calibration_path(home, fingerprint)
    return read(path, fingerprint) if path.exists() else DEFAULTS
