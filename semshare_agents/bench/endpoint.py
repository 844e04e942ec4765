"""A server that speaks OpenAI's API, as `semshare bench serve` asks it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from semshare_agents.bench.made import Message
from semshare_agents.bench.serve import Ended
from semshare_agents.errors import ConfigurationError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

SILENCE_SECONDS = 1800.0
"""Longest wait for a server's next event: many cold prompts on a slow machine take their time."""
CONNECT_SECONDS = 10.0


class Endpoint:
    """A model of a server; made by `endpoint`.

    Args:
        client: Of the server.
        url: The server's address, for messages.
        model: The model's name there.
    """

    def __init__(self, client: AsyncOpenAI, url: str, model: str):
        self._client = client
        self._url = url
        self.model = model

    async def ask(self, messages: Sequence[Message], tokens: int) -> AsyncGenerator[str | Ended]:
        """See `bench.serve.Target`. Only fields that every server knows are sent.

        Raises:
            ConfigurationError: the server cannot be reached, refuses the prompt, or breaks off.
        """
        said: Any = list(messages)
        ended, events = Ended(), 0
        with told(self._url):
            answer = await self._client.chat.completions.create(
                messages=said,
                model=self.model,
                max_tokens=tokens,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
            async with answer as stream:
                async for event in stream:
                    events += 1
                    yield _text_of(event)
                    ended = _ended(event, ended)
        if not events:
            raise ConfigurationError(f"{self._url} sent no chat completion; is it the address that ends in /v1?")
        yield ended


@asynccontextmanager
async def endpoint(url: str, model: str | None = None, key: str | None = None) -> AsyncIterator[Endpoint]:
    """A server's model, the first that it lists unless one is named.

    Raises:
        ConfigurationError: the package `openai` is missing, the address is none, or the server cannot be asked.
    """
    try:
        import openai
    except ImportError as e:
        raise ConfigurationError(
            "asking a server needs the package openai: pip install 'semshare-agents[bench]'"
        ) from e
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"url must begin with http:// or https://, as http://127.0.0.1:8080/v1; got {url!r}")
    timeout = openai.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    # A server without keys takes any.
    async with openai.AsyncOpenAI(base_url=url, api_key=key or "none", max_retries=0, timeout=timeout) as client:
        yield Endpoint(client, url, model or await _first_model(client, url))


async def _first_model(client: AsyncOpenAI, url: str) -> str:
    with told(url):
        listed = getattr(await client.models.list(), "data", None)
    if not listed:
        raise ConfigurationError(f"{url} lists no models: name one with --model, and see that the address ends in /v1")
    return str(listed[0].id)


@contextmanager
def told(url: str) -> Iterator[None]:
    """What a client raises, as an error that names the server.

    Raises:
        ConfigurationError: the server cannot be reached, refuses, breaks off, or sends what is no JSON.
    """
    import openai

    try:
        yield
    except openai.APITimeoutError as e:
        raise ConfigurationError(f"{url} did not answer in time") from e
    except openai.APIConnectionError as e:
        raise ConfigurationError(f"{url} cannot be reached or broke off ({e.__cause__ or e}); is it running?") from e
    except openai.APIStatusError as e:
        said = e.message.removeprefix(f"Error code: {e.status_code} - ")
        raise ConfigurationError(f"{url} answered with status {e.status_code}: {said}") from e
    except openai.APIError as e:
        raise ConfigurationError(f"{url} ended an answer with an error: {e.message}") from e
    except ValueError as e:
        raise ConfigurationError(f"{url} sent what is no JSON: {e}") from e


def _text_of(event: Any) -> str:
    """What is new of the answer; thoughts, which some servers tell apart, are part of it."""
    said = ""
    for choice in event.choices or ():
        more = choice.delta.model_extra or {}
        said += choice.delta.content or more.get("reasoning_content") or more.get("reasoning") or ""
    return said


def _ended(event: Any, before: Ended) -> Ended:
    """Counts that an event brings: usage, and the tokens by kind of servers of this package."""
    reused, usage = (event.model_extra or {}).get("semshare", {}).get("tokens") or before.reused, event.usage
    if usage is None:
        return Ended(before.prompt_tokens, before.completion_tokens, reused)
    details = usage.prompt_tokens_details
    cached = None if details is None else details.cached_tokens
    if not reused and cached is not None:
        reused = {"computed": usage.prompt_tokens - cached, "cached": cached}
    return Ended(usage.prompt_tokens, usage.completion_tokens, reused)
