"""The async adapter: sessions, generate, stream."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing
from typing import Any, Self

from semshare_agents.errors import ClosedError, ConfigurationError
from semshare_agents.model.loading import LoadedModel
from semshare_agents.observe.observers import Observer, TurnLog
from semshare_agents.observe.reader import Reader
from semshare_agents.observe.tracing import Tracing
from semshare_agents.operate.startup import Progress, Started, start
from semshare_agents.registry import Forgotten, Pin
from semshare_agents.request.options import request_of, said, tenant_of
from semshare_agents.session import Session, whole
from semshare_agents.settings import Settings, load_settings, unknown_variables
from semshare_agents.timing.clock import Clock
from semshare_agents.turn import Pipeline
from semshare_agents.turn.earlier import Turns
from semshare_agents.values import Generation, Messages, Piece

log = logging.getLogger(__name__)


class SemShareLLM:
    """A causal language model with a memory made of KV.

    Open it with ``async with SemShareLLM.open() as llm`` or ``llm = await SemShareLLM.open()`` followed by `aclose`.
    One instance serves any number of concurrent calls from one event loop.
    """

    def __init__(self, settings: Settings, model: LoadedModel | None = None, progress: Progress | None = None):
        self.settings = settings
        self._given = model
        self._progress = progress or (lambda _: None)
        self._work: Started | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.observers: list[Observer] = [TurnLog(settings.log_text), *([Tracing()] if settings.tracing else [])]

    @classmethod
    def open(
        cls, *, loaded: LoadedModel | None = None, progress: Progress | None = None, **settings: Any
    ) -> SemShareLLM:
        """An adapter that starts when it is awaited or entered.

        Args:
            loaded: A model that is in memory already; it wins over the `model` setting.
            progress: Called with one line at each slow step of starting.
            settings: Overrides of `semshare_agents.settings.Settings`.

        Raises:
            ConfigurationError: a setting is not allowed.
        """
        return cls(load_settings(**settings), loaded, progress)

    def __await__(self) -> Generator[Any, None, SemShareLLM]:
        return self._start().__await__()

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- life

    async def _start(self) -> SemShareLLM:
        if self._work is None and not self._closed:
            self._loop = asyncio.get_running_loop()
            for name, nearest in unknown_variables().items():
                log.warning("%s is no setting and changes nothing%s", name, f": {nearest}?" if nearest else "")
            self._work = await start(self.settings, self._given, self._progress, self.observers)
        return self

    async def aclose(self) -> None:
        """Finish writing what was stored, then close everything. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        if self._work is not None:
            await self._work.aclose()
        if self._given is None:
            gc.unfreeze()

    async def flush(self) -> None:
        """Wait until everything stored so far is on disk."""
        if self._work is not None:
            await self._work.pipeline.underway.settle()
            await self._work.pipeline.memory.flush()

    async def settle(self) -> None:
        """Wait until approximate turns are repaired and sampled ones measured, and everything stored is on disk."""
        await self._running.settle()

    @property
    def _running(self) -> Started:
        if self._closed or self._work is None:
            raise ClosedError("this SemShareLLM is closed or was not started: use `async with SemShareLLM.open()`")
        return self._work

    @property
    def pipeline(self) -> Pipeline:
        """A turn's stages and what they need.

        Raises:
            ClosedError: the adapter is closed or was never started.
        """
        return self._running.pipeline

    @property
    def turns(self) -> Turns:
        """The stages' face up to version 0.1; warns, and goes with the next version."""
        return Turns(self.pipeline)

    @property
    def _background(self) -> frozenset[asyncio.Task[None]]:
        """Turns whose files are being written."""
        return self.pipeline.memory.writes

    @property
    def reader(self) -> Reader:
        """What may be read of it: the model, the tiers, past turns, token counts.

        Raises:
            ClosedError: the adapter is closed or was never started.
        """
        pipeline, memory = self.pipeline, self.pipeline.memory
        return Reader(pipeline.model, memory.tiers.tiers, memory.registry, pipeline.output)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it serves.

        Raises:
            ClosedError: the adapter was never started.
        """
        if self._loop is None:
            raise ClosedError("this SemShareLLM was not started: use `async with SemShareLLM.open()`")
        return self._loop

    # --- use

    def session(self, name: str, *, tenant: str | None = None, system: str | None = None, **defaults: Any) -> Session:
        """A conversation whose history is kept in the registry.

        Args:
            name: Its name; the same name goes on where it left off, also in a later process.
            tenant: Whose memory it uses; default: the setting.
            system: System prompt; it may change from one process to the next.
            defaults: Keyword arguments of `generate` for all its turns.
        """
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"a session needs a name, not {name!r}")
        return Session(self, name, tenant_of(self.settings, tenant), system, said(defaults))

    async def generate(self, messages: Messages, **options: Any) -> Generation:
        """Answer a message list.

        Args:
            messages: `{"role", "content"}` mappings.
            options: `tenant`, `session`, `reuse` (`off`, `exact`, `moved`, `semantic`), `fidelity` (`auto`, `strict`,
                `balanced`, `fast` or a mean KL in nats), `tools` (in OpenAI's form), `tool_choice` (`auto`, `none`,
                `required` or a tool's name), `parallel_tool_calls`, `response_schema` (a JSON schema that the answer
                keeps to; `{"type": "object"}` for any JSON object), `reasoning_effort` (`none`, `minimal`, `low`,
                `medium`, `high`, `xhigh`, `max`), `chat_template_kwargs` (variables of the model's chat template by
                name), `split_thoughts` (thoughts come in `thoughts`, not in `text`), `store`, `raw` (the one message's
                text is the prompt, without a chat template), `prompt_ids` (with `raw`: the prompt as ids; the message
                is their text), `logprobs` and `prompt_logprobs` (how many of the likeliest tokens are told of each
                place of the answer or the prompt, 0 for the token alone; a prompt's are computed without reuse), `n`
                (with `stream`: so many answers from one prefill, of which the first is stored), `sampling` or the
                fields of `semshare_agents.values.Sampling` by name.

        Raises:
            PromptError: messages, tools or schema are malformed, or the messages are too long for the model.
            ConfigurationError: an option is wrong.
            ClosedError: the adapter is closed.
        """
        if options.get("n") not in (None, 1):
            raise ConfigurationError("n: several answers come from `stream`, whose pieces say which they belong to")
        return await whole(self.stream(messages, **options))

    def stream(self, messages: Messages, *, clock: Clock | None = None, **options: Any) -> AsyncGenerator[Piece]:
        """Answer a message list piece by piece; the last piece carries the whole `Generation`.

        Closing the iterator ends the computation and frees everything it held. Options and errors as in `generate`.

        Args:
            messages: As in `generate`.
            clock: Of whoever has waited already, in a queue say; times to the first token count from its beginning.
            options: As in `generate`.
        """
        return self._stream(messages, clock or Clock(), options)

    async def _stream(self, messages: Messages, clock: Clock, options: dict[str, Any]) -> AsyncGenerator[Piece]:
        pipeline, request = self.pipeline, request_of(self.settings, messages, options)
        async with aclosing(pipeline.stream(request, clock)) as pieces:
            async for piece in pieces:
                yield piece

    async def forget(
        self,
        *,
        turn: int | None = None,
        session: str | None = None,
        tenant: str | None = None,
        dry_run: bool = False,
    ) -> Forgotten:
        """Remove a turn, a session, or with `tenant` alone all of a tenant: text, names and KV, in every tier.

        Turns that go on from a removed one hold its text as their history and go too. Turns under way are answered,
        not remembered. Returns once nothing is left in this process and in the files.

        Args:
            turn: The turn's id, as reports give it.
            session: The session's name.
            tenant: Whose they are; default for a turn or a session: the setting.
            dry_run: Only say what would go along, with counts and bytes.

        Raises:
            ConfigurationError: nothing, or both a turn and a session are given.
            NotStoredError: it is not there, and nothing was removed; the message has the nearest names.
            RegistryError: the database fails.
            StoreError: a file cannot be removed; `semshare verify --fix` removes what is left.
        """
        if (turn is None and session is None and tenant is None) or (turn is not None and session is not None):
            raise ConfigurationError("say what to forget: turn=, session= or, for all of a tenant, tenant= alone")
        work, whose = self._running, tenant_of(self.settings, tenant)
        found = await work.pipeline.memory.forget(whose, session=session, turn_id=turn, dry_run=dry_run)
        for idle in (work.repairer, work.monitor):
            if idle is not None and not dry_run:
                idle.give_up(found.turn_ids)
        if work.pipeline.decoding.drafts is not None and not dry_run:
            work.pipeline.decoding.drafts.forget(whose)
        return found

    async def note(self, turn: int, values: Mapping[str, Any], *, tenant: str | None = None) -> None:
        """Keep a note of JSON values with a stored turn: what an integration has to know of it later.

        It is encrypted with the turn and forgotten with it; `reader.stored` finds it by its `id`.

        Args:
            turn: The turn's id, as reports give it.
            values: The note; one that is there already is replaced.
            tenant: Whose turn; default: the setting.

        Raises:
            NotStoredError: the turn is not there.
            RegistryError: the database fails.
        """
        await self.pipeline.memory.registry.note(tenant_of(self.settings, tenant), turn, values)

    async def pin(
        self,
        *,
        turn: int | None = None,
        session: str | None = None,
        tenant: str | None = None,
        seconds: float | None = None,
    ) -> Pin:
        """Keep the KV of a turn, or of a session and the turns that it will have, from being evicted.

        What is pinned already is pinned anew.

        Args:
            turn: The turn's id, as reports give it.
            session: The session's name.
            tenant: Whose; default: the setting.
            seconds: For how long; None: until it is unpinned or forgotten.

        Raises:
            ConfigurationError: not one of turn and session is given, or the time is no positive number.
            PinError: it is not stored, or all that is pinned would not fit a quota or a budget.
            RegistryError: the database fails.
        """
        whose = tenant_of(self.settings, tenant)
        return await self.pipeline.memory.pin(self.settings, whose, session=session, turn=turn, seconds=seconds)

    async def unpin(self, *, turn: int | None = None, session: str | None = None, tenant: str | None = None) -> bool:
        """Let the KV of a turn or a session be evicted again; whether it was pinned.

        Raises:
            ConfigurationError: not one of turn and session is given.
            NotStoredError: it is not there.
            RegistryError: the database fails.
        """
        whose = tenant_of(self.settings, tenant)
        return await self.pipeline.memory.unpin(whose, session=session, turn=turn)

    async def pins(self, *, tenant: str | None = None) -> list[Pin]:
        """What of a tenant is pinned, oldest first; default: the setting's tenant."""
        return await self.pipeline.memory.registry.pins(tenant_of(self.settings, tenant))
