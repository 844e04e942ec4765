"""What integrations, pages and metrics may read of an adapter; nothing here changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from semshare_agents.registry.browsing import TurnRow
    from semshare_agents.registry.notes import Note, Noted
    from semshare_agents.request.counting import PromptCounter
    from semshare_agents.store import Tier


class ServedModel(Protocol):
    """The model that answers."""

    @property
    def name(self) -> str:
        """What it was loaded from."""

    @property
    def context_tokens(self) -> int:
        """The longest prompt and answer."""

    @property
    def advised_sampling(self) -> dict[str, Any]:
        """How its makers advise to draw tokens, as fields of `semshare_agents.values.Sampling`."""

    @property
    def tokenizer(self) -> Any:
        """A transformers tokenizer; None where the model has none."""


class Stored(Protocol):
    """Past turns, to be read; see the methods of the same names of `semshare_agents.registry.Registry`."""

    async def browse(
        self, tenant: str, *, session: str | None = None, before: int | None = None, limit: int = 50
    ) -> list[TurnRow]:
        """A tenant's newest turns, newest first."""

    async def turn(self, turn_id: int, tenant: str | None = None) -> tuple[TurnRow, Any] | None:
        """A turn and its tokens, prompt first; None where there is none."""

    async def sessions(self, tenant: str, limit: int = 50) -> list[dict[str, Any]]:
        """A tenant's sessions, the one used last first: `name`, `used_at`, `turns`."""

    async def drift_of(self, tenant: str) -> list[dict[str, Any]]:
        """A tenant's drift samples by class: `reuse_class`, `samples`, `kl_mean`, `agreement`."""

    async def history(self, tenant: str, session: str) -> list[dict[str, Any]]:
        """The messages of a session's newest turn and its answer."""

    async def notes(self, tenant: str, session: str, after: int = 0) -> list[Note]:
        """Notes of a session's turns with ids past `after`, oldest first."""

    async def noted(self, tenant: str, session: str, name: str) -> Noted | None:
        """The turn of a session whose note has the `id` name, with what was said; None where there is none."""

    async def newest_forget(self) -> int:
        """The newest act of forgetting; 0 where there was none."""

    async def forgotten(self, tenant: str, session: str | None, since: int) -> bool:
        """Whether a session was touched by an act of forgetting after `since`."""


@dataclass(frozen=True)
class Reader:
    """An adapter, to be read: `SemShareLLM.reader`.

    Attributes:
        model: The model that answers.
        tiers: Where KV is kept, fastest first.
        stored: Past turns.
        output: Makes prompts of messages and holds answers to schemas (`OutputControl`).
    """

    model: ServedModel
    tiers: tuple[Tier, ...]
    stored: Stored
    output: Any

    def counter(self) -> PromptCounter:
        """Counts the tokens of texts and messages as the model's prompts have them."""
        from semshare_agents.request.counting import PromptCounter

        return PromptCounter(self.model.tokenizer, self.output)

    async def check_schema(self, schema: Mapping[str, Any]) -> None:
        """Check that an answer can be held to a JSON schema.

        Raises:
            InvalidSchemaError: the schema is malformed or not supported.
            ConfigurationError: that needs llguidance, which is not installed.
        """
        from semshare_agents.request.output import ResponseSpec

        await asyncio.to_thread(self.output.constraint, ResponseSpec(schema=schema))
