"""The package's errors as LangChain's, each of both kinds, so that either can be caught."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core import exceptions as langchain

from semshare_agents import errors as ours


class ContextOverflowError(langchain.ContextOverflowError, ours.ContextLengthError):
    """Prompt and answer do not fit into the model's context window."""


class InvalidRequestError(langchain.ModelInvalidRequestError, ours.PromptError, ours.ConfigurationError):
    """Messages, tools, schema or an option are wrong."""


class ModelNotFoundError(langchain.ModelNotFoundError, ours.ModelNotFoundError):
    """There is no such model, or another one is loaded."""


class AnswerTimeoutError(langchain.ModelTimeoutError, ours.SemShareError, TimeoutError):
    """The answer was not complete in time; its computation has ended."""


@contextmanager
def translated(timeout_seconds: float | None) -> Iterator[None]:
    """Raise the package's errors as LangChain's.

    Args:
        timeout_seconds: How long the answer may take, for the message.
    """
    try:
        yield
    except langchain.ModelError:
        raise
    except ours.ContextLengthError as e:
        raise ContextOverflowError(str(e)) from e
    except (ours.PromptError, ours.ConfigurationError) as e:
        raise InvalidRequestError(str(e)) from e
    except ours.ModelNotFoundError as e:
        raise ModelNotFoundError(str(e)) from e
    except TimeoutError as e:
        raise AnswerTimeoutError(f"no answer within {timeout_seconds} seconds") from e
