"""What a turn came to: its report, and the answer as callers get it."""

from __future__ import annotations

from dataclasses import replace

from semshare_agents.observe.report import computed_again, make_report, saved
from semshare_agents.reuse.cost import CostModel
from semshare_agents.timing.clock import Clock
from semshare_agents.turn.decode import Answer
from semshare_agents.turn.state import Filled, Prefilled
from semshare_agents.values import Generation, Report, ToolCall, Usage
from semshare_agents.values.reason import joined


def report_of(filled: Filled, layers: int, cost: CostModel | None, clock: Clock) -> Report:
    """What a turn reused and what it cost so far.

    Args:
        filled: The turn.
        layers: Layers of the model.
        cost: What full prefills took; None where it is not known.
        clock: Of the call.
    """
    matched, plan = filled.matched, filled.plan
    again = computed_again(matched.request.reuse, matched.alignment, plan, filled.misses)
    plan = replace(plan, reason=joined(matched.admitted.note, plan.reason or again))
    stages, elapsed = clock.told()
    candidates = len(plan.rows) - len(plan.required)
    report = make_report(matched.alignment, plan, stages, elapsed, filled.misses, layers, candidates)
    if cost is None:
        return report
    return replace(report, saved=saved(stages, plan.cold, cost.like_cold(len(matched.asked.prompt))))


def generation_of(
    prefilled: Prefilled, answer: Answer, turn_id: int | None, content: str, calls: tuple[ToolCall, ...]
) -> Generation:
    """An answer as callers get it.

    Args:
        prefilled: The turn.
        answer: What was drawn.
        turn_id: The stored turn; None where it is not stored.
        content: Its text without calls.
        calls: Its tool calls.
    """
    report = replace(prefilled.report, turn_id=turn_id)
    usage = Usage(len(prefilled.prompt), len(answer.tokens), report.tokens["exact"])
    called = any(call.whole for call in calls) and answer.finish_reason == "stop"
    reason = "tool_calls" if called else answer.finish_reason
    return Generation(
        text=content,
        tokens=tuple(answer.tokens),
        finish_reason=reason,
        usage=usage,
        report=report,
        tool_calls=calls,
        raw=answer.text,
        stop_string=answer.stop_string,
        logprobs=answer.told(),
        prompt_logprobs=prefilled.filled.logprobs,
    )
