"""Drafts: tokens that an answer may well go on with, from texts that the same tenant has seen.

They are proposed here and verified in the turn, as further rows of a decoding step: a wrong one costs time, no token.
"""

from semshare_agents.drafts.drafts import Drafts
from semshare_agents.drafts.live import LiveText
from semshare_agents.drafts.search import Match

__all__ = ["Drafts", "LiveText", "Match"]
