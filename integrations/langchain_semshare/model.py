"""What the chat model and the completion model have in common: parameters, the adapter, options of a call."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any, Self

from langchain_core.runnables.config import RunnableConfig, ensure_config
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from langchain_semshare.errors import ModelNotFoundError, translated
from langchain_semshare.host import Host, OwnHost, Pieces, host_of
from semshare_agents.errors import ConfigurationError, InvalidSchemaError, SemShareError
from semshare_agents.llm import SemShareLLM
from semshare_agents.model.loading import context_here
from semshare_agents.request.counting import PromptCounter, counter_here
from semshare_agents.request.options import said
from semshare_agents.settings import Settings, load_settings
from semshare_agents.values import Generation, Piece

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
"""Fields that nobody knows are refused: a caller must not believe that they did something."""
OF_CONFIG = ("tenant", "session", "reuse", "fidelity")
"""What a `RunnableConfig` may say in its `configurable`."""
OF_MODEL = ("temperature", "top_p", "top_k", "repetition_penalty", "frequency_penalty", "seed", "store", *OF_CONFIG)
"""Options of a call that are given as the model's fields too, under one name."""


class AdapterModel(BaseModel):
    """A LangChain model over a `SemShareLLM`."""

    model_config = STRICT

    llm: SemShareLLM | None = Field(default=None, exclude=True, repr=False)
    """An open adapter to use; without it, one with `settings` is opened with the first call and shared."""
    model: str = Field(default_factory=lambda: load_settings().model)
    """`default`, a folder, a .gguf file or a hub id; that of `llm` where one is given."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the adapter; see `semshare_agents.settings.Settings`."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    """Longest answer; default: the adapter's setting."""
    stop: list[str] | None = None
    """Strings of any number of tokens that end an answer."""
    timeout: float | None = None
    """Seconds that an answer may take."""
    max_retries: int | None = None
    """As every LangChain model has it; a local model has no connection that could fail."""
    streaming: bool = False
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """As every LangChain model has it; a local model needs none."""

    tenant: str | None = None
    """Whose memory is used."""
    session: str | None = None
    """The session under which turns are kept."""
    reuse: str | None = None
    """`off`, `exact`, `moved` or `semantic`."""
    fidelity: str | float | None = None
    """`strict`, `balanced`, `fast` or a mean KL in nats."""
    store: bool | None = None
    """Whether turns are remembered; default: they are."""

    _host: Host | None = PrivateAttr(default=None)
    _counter: PromptCounter | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any, /) -> None:
        """The name of an adapter's model is the model's."""
        super().model_post_init(context)
        if self.llm is not None:
            self._host = Host(self.llm.loop, self.llm)
            self.model = self.llm.reader.model.name

    # --- the adapter

    @property
    def host(self) -> Host:
        """The adapter and its event loop.

        Raises:
            ConfigurationError: a setting is not allowed.
        """
        if self._host is None or (isinstance(self._host, OwnHost) and self._host.closed):
            self._host = host_of({"model": self.model, **self.settings})
        return self._host

    def close(self) -> None:
        """Close the adapter that this model opened, and with it that of every model with the same settings."""
        if isinstance(self._host, OwnHost):
            self._host.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def identity(self) -> dict[str, Any]:
        """What tells this model's answers from another's."""
        return self.model_dump(include=set(AdapterModel.model_fields), exclude_none=True)

    # --- counting

    @property
    def counter(self) -> PromptCounter:
        """Counts tokens as the model does; what is not loaded for that stays so, and no network is asked.

        Raises:
            ModelNotFoundError: the model's files are not on this machine.
        """
        if self._counter is None:
            if self.llm is not None:
                self._counter = self.llm.reader.counter()
            else:
                with translated(None):
                    settings = self._adapter_settings()
                    self._counter = counter_here(self.model, settings.home, settings.control_tokens)
        return self._counter

    def _adapter_settings(self) -> Settings:
        return load_settings(**{"model": self.model, **self.settings})

    def _context_tokens(self) -> int | None:
        """The model's context, of an open adapter or of its configuration; None where that is not on this machine."""
        if self.llm is not None:
            return self.llm.reader.model.context_tokens
        try:
            return context_here(self.model, self._adapter_settings().home)
        except SemShareError:
            return None

    # --- a call

    @abstractmethod
    def _told(self, prompt: Any) -> list[dict[str, Any]]:
        """A prompt of LangChain's as messages of the adapter's."""

    def _options(self, stop: list[str] | None, given: dict[str, Any]) -> dict[str, Any]:
        """Options of the adapter's call; what is given wins over the model's fields, and None is not given.

        Raises:
            ConfigurationError: the longest answer is given twice.
            ModelNotFoundError: another model is asked for.
            InvalidSchemaError: the response format is unknown.
        """
        given = said(given)
        model = given.pop("model", self.model)
        if model != self.model:
            raise ModelNotFoundError(f"this model is {self.model!r}: make another one for {model!r}")
        for name in ("stream", "timeout", "strict"):
            given.pop(name, None)
        if {"max_tokens", "max_new_tokens"} <= given.keys():
            raise ConfigurationError("max_tokens and max_new_tokens are one option: give one of them")
        options = {name: getattr(self, name) for name in OF_MODEL}
        options |= {"max_new_tokens": given.pop("max_tokens", self.max_tokens)}
        options |= {"stop": self.stop if stop is None else stop}
        if "response_format" in given:
            options["response_schema"] = _schema_of(given.pop("response_format"))
        return said({**options, **given})

    def _pieces(
        self, prompt: Any, stop: list[str] | None, given: dict[str, Any], timeout_seconds: float | None
    ) -> Pieces:
        messages, options = self._told(prompt), self._options(stop, given)
        strict = _strict_schemas(options.get("tools"), given.get("strict"))

        async def pieces(llm: SemShareLLM) -> AsyncGenerator[Piece]:
            for schema in strict:
                await llm.reader.check_schema(schema)
            async with asyncio.timeout(timeout_seconds), aclosing(llm.stream(messages, **options)) as stream:
                async for piece in stream:
                    yield piece

        return pieces

    def _timeout(self, given: dict[str, Any]) -> float | None:
        timeout: float | None = said(given).get("timeout", self.timeout)
        return timeout

    def _answer(self, prompt: Any, stop: list[str] | None, given: dict[str, Any]) -> Generation:
        timeout = self._timeout(given)
        with translated(timeout):
            return self.host.generate(self._pieces(prompt, stop, given, timeout))

    async def _aanswer(self, prompt: Any, stop: list[str] | None, given: dict[str, Any]) -> Generation:
        timeout = self._timeout(given)
        with translated(timeout):
            return await self.host.agenerate(self._pieces(prompt, stop, given, timeout))

    def _parts(self, prompt: Any, stop: list[str] | None, given: dict[str, Any]) -> Iterator[Piece]:
        timeout = self._timeout(given)
        with translated(timeout):
            yield from self.host.stream(self._pieces(prompt, stop, given, timeout))

    async def _aparts(self, prompt: Any, stop: list[str] | None, given: dict[str, Any]) -> AsyncIterator[Piece]:
        timeout = self._timeout(given)
        with translated(timeout):
            async with aclosing(self.host.astream(self._pieces(prompt, stop, given, timeout))) as stream:
                async for piece in stream:
                    yield piece

    # --- what a RunnableConfig says

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """See the base class; tenant, session, reuse and fidelity may stand in the config's `configurable`."""
        return super().invoke(input, config, **configured(config, kwargs))  # type: ignore[misc]

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """See `invoke`."""
        return await super().ainvoke(input, config, **configured(config, kwargs))  # type: ignore[misc]

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """See `invoke`."""
        yield from super().stream(input, config, **configured(config, kwargs))  # type: ignore[misc]

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        """See `invoke`."""
        async with aclosing(super().astream(input, config, **configured(config, kwargs))) as parts:  # type: ignore[misc]
            async for part in parts:
                yield part


def configured(config: RunnableConfig | None, given: dict[str, Any]) -> dict[str, Any]:
    """Options of a call with what its config says; LangGraph's thread is the session where none is named."""
    told = ensure_config(config).get("configurable", {})
    options = said({name: told.get(name) for name in OF_CONFIG})
    if "session" not in options and told.get("thread_id") is not None:
        options["session"] = str(told["thread_id"])
    return {**options, **said(given)}


def _strict_schemas(tools: Any, strict: bool | None) -> list[dict[str, Any]]:
    """Schemas of tools that a call has to keep to in full: those that say so, or with `strict` all of them."""
    functions = [tool.get("function", {}) for tool in tools or () if isinstance(tool, dict)]
    return [f["parameters"] for f in functions if f.get("parameters") and f.get("strict", strict)]


def _schema_of(response_format: Any) -> dict[str, Any] | None:
    """The schema of a response format in OpenAI's form."""
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema" and isinstance(response_format.get("json_schema", {}).get("schema"), dict):
        schema: dict[str, Any] = response_format["json_schema"]["schema"]
        return schema
    if kind == "text":
        return None
    raise InvalidSchemaError(
        f"response_format must be of type text, json_object or json_schema; got {response_format!r}"
    )
