"""KV-cache memory for conversational agents. Names load on first use, so importing the package stays cheap."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semshare_agents.errors import (
        ClosedError,
        ConfigurationError,
        ContextLengthError,
        InvalidMessagesError,
        InvalidSchemaError,
        InvalidToolsError,
        ModelError,
        PinError,
        PromptError,
        RegistryError,
        SchemaVersionError,
        SealedError,
        SemShareError,
        StoreError,
        TemplateError,
    )
    from semshare_agents.llm import SemShareLLM
    from semshare_agents.session import Session
    from semshare_agents.settings import Settings
    from semshare_agents.values import CallPart, Generation, Piece, Report, Reuse, Sampling, ToolCall, Usage

__version__ = "0.1.0"

_HOMES = {
    "llm": ("SemShareLLM",),
    "session": ("Session",),
    "settings": ("Settings",),
    "values": ("CallPart", "Generation", "Piece", "Report", "Reuse", "Sampling", "ToolCall", "Usage"),
    "errors": (
        "ClosedError",
        "ConfigurationError",
        "ContextLengthError",
        "InvalidMessagesError",
        "InvalidSchemaError",
        "InvalidToolsError",
        "ModelError",
        "PinError",
        "PromptError",
        "RegistryError",
        "SchemaVersionError",
        "SealedError",
        "SemShareError",
        "StoreError",
        "TemplateError",
    ),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 - in the order a reader meets them
    "SemShareLLM",
    "Session",
    "Settings",
    "Generation",
    "CallPart",
    "Piece",
    "Report",
    "Reuse",
    "Sampling",
    "ToolCall",
    "Usage",
    "ClosedError",
    "ConfigurationError",
    "ContextLengthError",
    "InvalidMessagesError",
    "InvalidSchemaError",
    "InvalidToolsError",
    "ModelError",
    "PinError",
    "PromptError",
    "RegistryError",
    "SchemaVersionError",
    "SealedError",
    "SemShareError",
    "StoreError",
    "TemplateError",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
