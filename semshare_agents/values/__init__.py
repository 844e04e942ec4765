"""The frozen values that the stages of a turn hand on."""

from semshare_agents.values.answer import CallPart, Generation, Piece, TokenLogprob, ToolCall, Usage
from semshare_agents.values.arrays import Floats, Ints
from semshare_agents.values.memory import Alignment, BlockRef, Donor, Hit, Kind, Scope
from semshare_agents.values.plan import Look, Plan
from semshare_agents.values.reason import Reason, ReasonCode
from semshare_agents.values.report import Report, Saved
from semshare_agents.values.request import AUTO, FAST, Fidelity, Messages, Reuse, Sampling
from semshare_agents.values.reuse_map import Span

__all__ = [
    "AUTO",
    "FAST",
    "Alignment",
    "BlockRef",
    "CallPart",
    "Donor",
    "Fidelity",
    "Floats",
    "Generation",
    "Hit",
    "Ints",
    "Kind",
    "Look",
    "Messages",
    "Piece",
    "Plan",
    "Reason",
    "ReasonCode",
    "Report",
    "Reuse",
    "Sampling",
    "Saved",
    "Scope",
    "Span",
    "TokenLogprob",
    "ToolCall",
    "Usage",
]
