"""Named combinations of strategy, matching and ablation, and the pipelines that they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from semshare_agents.bench.ablations import NO_RECOMPUTE, NO_ROTATION, RANDOM_MAP, ZERO_KV, damaged
from semshare_agents.errors import ConfigurationError
from semshare_agents.match.matchers import MATCHERS, make_matcher
from semshare_agents.reuse.strategies import STRATEGIES, make_strategy
from semshare_agents.settings import Settings
from semshare_agents.turn import Pipeline


@dataclass(frozen=True)
class Configuration:
    """One way of reusing KV semantically.

    Attributes:
        name: What it is called in tables and plots.
        strategy: A name of `STRATEGIES`.
        matching: A name of `MATCHERS`.
        ablations: See `semshare_agents.bench.ablations`.
    """

    name: str
    strategy: str
    matching: str = "path"
    ablations: frozenset[str] = frozenset()


PAPER = Configuration("paper", "deviation", "nearest")
"""SemShareKV's own (arXiv 2509.24832): nearest tokens by LSH on RoPE-carrying embeddings, rows by their deviation at a
shallow layer, exponentially fewer of them from layer to layer."""


def configurations() -> dict[str, Configuration]:
    """Everything that can be drawn as a line: each strategy on our matching, and the paper's combination."""
    return {**{name: Configuration(name, name) for name in STRATEGIES}, PAPER.name: PAPER}


def chosen(names: Sequence[str]) -> list[Configuration]:
    """Configurations by name, all of them where none is named.

    Raises:
        ConfigurationError: there is no such configuration.
    """
    known = configurations()
    if unknown := [name for name in names if name not in known]:
        raise ConfigurationError(f"unknown strategy {', '.join(unknown)}; known: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)] or list(known.values())


def ablated(whole: Configuration) -> list[Configuration]:
    """A configuration with one part of the method broken or left out at a time."""
    broken = [
        replace(whole, name=name, ablations=frozenset({name}))
        for name in (RANDOM_MAP, ZERO_KV, NO_ROTATION, NO_RECOMPUTE)
    ]
    matched = [replace(whole, name=f"{name} matching", matching=name) for name in MATCHERS if name != whole.matching]
    return broken + matched


def default_configuration(settings: Settings) -> Configuration:
    """What the settings say, under the strategy's name."""
    return Configuration(settings.strategy, settings.strategy, settings.matching)


def configured(pipeline: Pipeline, configuration: Configuration, share: float) -> Pipeline:
    """A pipeline that reuses as a configuration says; model, buffers and stored turns are the same.

    The cost model's veto is off: a point of a frontier is what a configuration does, also where a cold prefill would be
    the better choice.

    Args:
        pipeline: The memory's own; it stays as it is.
        configuration: What to use.
        share: Share of the semantically matched rows that is computed again.
    """
    planner = replace(
        pipeline.planner,
        strategy=make_strategy(configuration.strategy),
        matcher=make_matcher(configuration.matching),
        settings=replace(pipeline.planner.settings, semantic_share=share, min_gain=0.0),
    )
    return damaged(replace(pipeline, planner=planner), configuration.ablations)
