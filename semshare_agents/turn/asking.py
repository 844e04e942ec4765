"""From a request to token ids, and to who will draw its answer."""

from __future__ import annotations

from dataclasses import replace

from semshare_agents.concurrency import threads
from semshare_agents.errors import InvalidMessagesError
from semshare_agents.messages.cleaning import Chat, clean_messages
from semshare_agents.model.generate import Sampler
from semshare_agents.model.loading import LoadedModel
from semshare_agents.model.tokenise import check_length, checked_ids, tokenise_text
from semshare_agents.request.output import OutputControl
from semshare_agents.request.request import Request
from semshare_agents.timing.clock import Clock
from semshare_agents.turn.state import Asked
from semshare_agents.values import Ints


async def tokenised(model: LoadedModel, output: OutputControl, request: Request, clock: Clock) -> Asked:
    """A request as the model is asked it.

    Args:
        model: The model.
        output: Makes prompts, and holds answers to what is asked for.
        request: What is asked for.
        clock: Of the call.

    Raises:
        PromptError: the messages are malformed or too long, or the answer cannot be held to what is wanted.
    """
    with clock.stage("tokenise"):
        request = replace(request, messages=clean_messages(request.messages))
        prompt = await threads.work(_prompt, model, output, request)
        return await threads.work(asked_of, model, output, request, prompt)


def _prompt(model: LoadedModel, output: OutputControl, request: Request) -> Ints:
    """Token ids of a request, shape `(tokens,)`."""
    messages: Chat = list(request.messages)  # type: ignore[arg-type]
    if request.prompt_ids is not None:
        return checked_ids(request.prompt_ids, len(model.embeddings))
    if request.raw:
        return tokenise_text(model.tokenizer, messages, _has_encoder(model))
    return output.prompt(messages, request.response)


def asked_of(model: LoadedModel, output: OutputControl, request: Request, prompt: Ints) -> Asked:
    """A tokenised request with who will draw its answer; may block.

    Args:
        model: The model.
        output: Holds answers to what is asked for.
        request: What is asked for, messages cleaned.
        prompt: Token ids, shape `(tokens,)`.

    Raises:
        PromptError: it is too long, or the answer cannot be held to what is wanted.
    """
    if request.prompt_logprobs is not None and _has_encoder(model):
        raise InvalidMessagesError("an encoder reads this model's prompts: its tokens have no probabilities")
    sampling, support = request.sampling, model.support
    constraint = output.constraint(request.response, prompt)
    room = check_length(len(prompt), sampling.max_new_tokens, model.context_tokens, support.window_tokens)
    return Asked(request, prompt, Sampler(sampling, prompt, model.model.device, constraint), room)


def _has_encoder(model: LoadedModel) -> bool:
    return bool(model.model.config.is_encoder_decoder)
