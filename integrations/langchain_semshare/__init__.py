"""LangChain's face of `semshare_agents`: a chat model and a completion model over local weights with a KV memory."""

from __future__ import annotations

from langchain_semshare.chat import ChatSemShare
from langchain_semshare.completion import SemShareCompletion

__all__ = ["ChatSemShare", "SemShareCompletion"]
