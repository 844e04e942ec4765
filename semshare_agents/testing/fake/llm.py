"""The adapter's face without a model, for the tests of applications. Neither torch nor pytest is loaded for it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from semshare_agents.errors import ClosedError, ConfigurationError
from semshare_agents.messages.cleaning import clean_messages
from semshare_agents.model.tokenise import check_length
from semshare_agents.observe.observers import Observer, TurnLog, TurnSeen
from semshare_agents.observe.reader import Reader
from semshare_agents.request.options import request_of
from semshare_agents.settings import Settings, load_settings
from semshare_agents.testing.fake.memory import FakeMemory
from semshare_agents.testing.fake.script import Answers, Script, Token, drawn, echo
from semshare_agents.testing.fake.turn import (
    FakeCall,
    FakeOutput,
    FakeReader,
    check_grammar,
    generation_of,
    prompt_of,
    report_of,
)
from semshare_agents.timing.clock import Clock
from semshare_agents.values import Generation, Messages, Piece, Report, ToolCall

if TYPE_CHECKING:
    from semshare_agents.llm import SemShareLLM
    from semshare_agents.registry import Forgotten, Pin
    from semshare_agents.request.request import Request
    from semshare_agents.session import Session

    Face = SemShareLLM
else:
    Face = object

CONTEXT_TOKENS = 8192


class FakeLLM(Face):
    """Stands in for `SemShareLLM` where an application is tested: scripted answers, streamed word by word.

    What is asked is checked as the real adapter checks it, with the same errors. Each word counts as a token; a prompt
    that begins like an earlier turn's reuses it exactly, and the report says so. It is given wherever an adapter is:
    `ChatSemShare(llm=...)`, the server's `create_app`. Tests without an event loop use ``with`` instead of
    ``async with``: it then lives on a thread of its own.

    Example:
        .. code-block:: python

            async with FakeLLM(["Paris.", tool_call("search", query="Rhine")]) as llm:
                reply = await llm.generate([{"role": "user", "content": "Capital of France?"}])
                assert reply.text == "Paris."
                assert llm.calls[0].messages[-1]["content"] == "Capital of France?"

    Args:
        answers: The answers to the calls in their order, each a text, a `ToolCall`, a list of both, or an exception
            that is raised; one text for all calls; or a function of the messages. Default: the last message's text.
        context_tokens: The longest prompt and answer.
        delay_seconds: What each token takes, for tests of timeouts and of clients that go away.
        settings: Overrides of `semshare_agents.settings.Settings`; `model` is the name that is reported.

    Raises:
        ConfigurationError: a setting is not allowed.
    """

    def __init__(
        self,
        answers: Answers = echo,
        *,
        context_tokens: int = CONTEXT_TOKENS,
        delay_seconds: float = 0.0,
        **settings: Any,
    ):
        self.settings: Settings = load_settings(**{"model": "fake", **settings})
        self.calls: list[FakeCall] = []
        self.observers: list[Observer] = [TurnLog(self.settings.log_text)]
        self._script = Script(answers)
        self._delay_seconds = delay_seconds
        self._memory = FakeMemory(self.settings.model)
        model = SimpleNamespace(
            name=self.settings.model, context_tokens=context_tokens, advised_sampling={}, tokenizer=None
        )
        self._reader = FakeReader(model, (), self._memory, FakeOutput())
        self._fake_loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @classmethod
    def open(cls, *, loaded: Any | None = None, progress: Callable[[str], None] | None = None, **settings: Any) -> Self:
        """As `SemShareLLM.open`, for code that opens its adapter itself: put the class in its place.

        Args:
            loaded: Not used.
            progress: Not used: nothing is slow.
            settings: Overrides of `semshare_agents.settings.Settings`.

        Raises:
            ConfigurationError: a setting is not allowed.
        """
        return cls(**settings)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The adapter's class once that is loaded, as a mock with a `spec` has it: `isinstance` takes it for one."""
        module = sys.modules.get("semshare_agents.llm")
        return type(self) if module is None else module.SemShareLLM

    def __await__(self) -> Generator[Any, None, Self]:
        return self._started().__await__()

    async def __aenter__(self) -> Self:
        return await self._started()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="fake-llm", daemon=True)
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._started(), loop).result()

    def __exit__(self, *_: object) -> None:
        loop, thread = self.loop, self._thread
        assert thread is not None
        asyncio.run_coroutine_threadsafe(self.aclose(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    async def _started(self) -> Self:
        self._fake_loop = self._fake_loop or asyncio.get_running_loop()
        return self

    async def aclose(self) -> None:
        """Close it; calls are refused from now on. Closing twice is fine."""
        self._closed = True

    async def flush(self) -> None:
        """Nothing waits to be written."""

    async def settle(self) -> None:
        """Nothing waits to be repaired or measured."""

    @property
    def reader(self) -> Reader:
        """What may be read of it: its name, past turns, counts of words.

        Raises:
            ClosedError: it is closed or was never started.
        """
        self._check_open()
        return self._reader

    def _check_open(self) -> None:
        if self._closed or self._fake_loop is None:
            raise ClosedError("this FakeLLM is closed or was not started: use `async with FakeLLM(...)`")

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it serves.

        Raises:
            ClosedError: it was never started.
        """
        if self._fake_loop is None:
            raise ClosedError("this FakeLLM was not started: use `async with FakeLLM(...)`")
        return self._fake_loop

    # --- use

    def session(self, name: str, *, tenant: str | None = None, system: str | None = None, **defaults: Any) -> Session:
        """A conversation whose history is kept in RAM; see `SemShareLLM.session`."""
        from semshare_agents.llm import SemShareLLM

        return SemShareLLM.session(self, name, tenant=tenant, system=system, **defaults)

    async def generate(self, messages: Messages, **options: Any) -> Generation:
        """The script's next answer; options and errors as in `SemShareLLM.generate`.

        Raises:
            AssertionError: the script has no answer left, or calls a tool that the call does not have.
        """
        if options.get("n") not in (None, 1):
            raise ConfigurationError("n: several answers come from `stream`, whose pieces say which they belong to")
        generation: Generation | None = None
        async with aclosing(self.stream(messages, **options)) as pieces:
            async for piece in pieces:
                generation = piece.generation
        assert generation is not None
        return generation

    def stream(self, messages: Messages, *, clock: Clock | None = None, **options: Any) -> AsyncGenerator[Piece]:
        """The script's next answer word by word; the last piece carries the whole `Generation`."""
        return self._answered(messages, options)

    async def _answered(self, messages: Messages, options: dict[str, Any]) -> AsyncGenerator[Piece]:
        model, request, began = self.reader.model, request_of(self.settings, messages, options), time.time()
        start = time.perf_counter()
        cleaned = clean_messages(request.messages)
        request = replace(request, messages=cleaned)
        prompt = prompt_of(request)
        check_grammar(request.response)
        room = check_length(len(prompt), request.sampling.max_new_tokens, model.context_tokens)
        self.calls.append(FakeCall(cleaned, dict(options), request))
        report = report_of(self._memory, request, prompt, start)
        for choice in range(request.choices):
            async with aclosing(self._drawn(request, prompt, room, report)) as pieces:
                async for piece in pieces:
                    generation = piece.generation
                    if generation is not None:
                        generation = replace(generation, choice=choice)
                    if generation is not None and not choice:
                        generation = self._ended(request, prompt, generation, began)
                    yield replace(piece, choice=choice, generation=generation)

    async def _drawn(self, request: Request, prompt: list[int], room: int, report: Report) -> AsyncGenerator[Piece]:
        """One answer of the script."""
        text, calls = self._script.next([dict(message) for message in request.messages])
        calls = self._named(calls, request)
        tokens, stopped = drawn(text, calls, request.sampling.stop)
        said = list[Token]()
        for token in tokens[:room]:
            await asyncio.sleep(self._delay_seconds)
            said.append(token)
            if token.text or token.calls:
                yield Piece(token.text, None, token.calls)
        cut = len(tokens) + (not stopped) > room
        yield Piece("", generation_of(said, len(prompt), report, cut=cut, stopped=stopped))

    def _ended(self, request: Request, prompt: list[int], generation: Generation, began: float) -> Generation:
        """Keep a turn and tell observers of it; gives its answer."""
        if request.store:
            generation = self._remember(request, prompt, generation)
        seen = TurnSeen(self.reader.model.name, request, generation, began, time.time())
        for observer in self.observers:
            observer.turn(seen)
        return generation

    def _named(self, calls: list[ToolCall], request: Request) -> list[ToolCall]:
        """Calls with ids of their own; a call of a tool that is not there is the script's mistake."""
        names = [tool["function"]["name"] for tool in request.response.tools]
        for call in calls:
            if call.name not in names:
                raise AssertionError(f"the script calls {call.name!r}; the tools that were given are {names}")
        place = len(self.calls)
        return [call if call.id else replace(call, id=f"call{place:03d}{i:02d}") for i, call in enumerate(calls)]

    def _remember(self, request: Request, prompt: list[int], generation: Generation) -> Generation:
        """Keep a turn; gives its answer with the turn's number."""
        report = replace(generation.report, turn_id=self._memory.next_id)
        self._memory.add(
            tenant=request.tenant,
            session=request.session,
            messages=[dict(message) for message in request.messages],
            answer=generation.raw,
            tokens=[*prompt, *generation.tokens],
            prompt_tokens=len(prompt),
            report=report.as_stored(),
        )
        return replace(generation, report=report)

    # --- forgetting and pins

    async def forget(
        self,
        *,
        turn: int | None = None,
        session: str | None = None,
        tenant: str | None = None,
        dry_run: bool = False,
    ) -> Forgotten:
        """Remove a turn, a session, or with `tenant` alone all of a tenant; see `SemShareLLM.forget`."""
        if (turn is None and session is None and tenant is None) or (turn is not None and session is not None):
            raise ConfigurationError("say what to forget: turn=, session= or, for all of a tenant, tenant= alone")
        return await self._open_memory.forget(self._whose(tenant), session=session, turn_id=turn, dry_run=dry_run)

    async def note(self, turn: int, values: Mapping[str, Any], *, tenant: str | None = None) -> None:
        """Keep a note with a turn; see `SemShareLLM.note`."""
        self._open_memory.note(self._whose(tenant), turn, values)

    async def pin(
        self,
        *,
        turn: int | None = None,
        session: str | None = None,
        tenant: str | None = None,
        seconds: float | None = None,
    ) -> Pin:
        """Pin a turn or a session; see `SemShareLLM.pin`. Nothing is ever evicted here."""
        from semshare_agents.memory.pins import one_of

        one_of(session, turn)
        if seconds is not None and not 0 < seconds < float("inf"):
            raise ConfigurationError(f"a pin lasts a positive number of seconds, not {seconds:g}; none: until unpinned")
        return self._open_memory.pin(self._whose(tenant), session, turn, seconds)

    async def unpin(self, *, turn: int | None = None, session: str | None = None, tenant: str | None = None) -> bool:
        """End a pin; whether there was one."""
        from semshare_agents.memory.pins import one_of

        one_of(session, turn)
        return self._open_memory.unpin(self._whose(tenant), session, turn)

    async def pins(self, *, tenant: str | None = None) -> list[Pin]:
        """What of a tenant is pinned, oldest first."""
        return await self._open_memory.pins(self._whose(tenant))

    @property
    def _open_memory(self) -> FakeMemory:
        """What it remembers.

        Raises:
            ClosedError: it is closed or was never started.
        """
        self._check_open()
        return self._memory

    def _whose(self, tenant: str | None) -> str:
        return self.settings.tenant if tenant is None else tenant
