"""Adapters that plan, load or decode otherwise than their settings say."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from semshare_agents.bench.ablations import damaged
from semshare_agents.llm import SemShareLLM
from semshare_agents.turn import Pipeline


def use(llm: SemShareLLM, pipeline: Pipeline) -> None:
    """Let an adapter's turns go another way from now on."""
    llm._work = replace(llm._running, pipeline=pipeline)


def replan(llm: SemShareLLM, **changes: Any) -> None:
    """Let an adapter plan otherwise from now on; changes are fields of its planner."""
    use(llm, replace(llm.pipeline, planner=replace(llm.pipeline.planner, **changes)))


@contextmanager
def broken(llm: SemShareLLM, ablations: Collection[str]) -> Iterator[None]:
    """Turns of an adapter with parts of the method broken or left out, see `semshare_agents.bench.ablations`."""
    whole = llm.pipeline
    use(llm, damaged(whole, ablations))
    try:
        yield
    finally:
        use(llm, whole)
