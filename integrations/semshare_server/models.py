"""The model that is served: its names, and what clients ask of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from semshare_agents.model.hub import DEFAULT_HUB_ID
from semshare_agents.observe.reader import ServedModel
from semshare_server import schemas
from semshare_server.bodies import BoundedRoute
from semshare_server.errors import RESPONSES, APIError


def served_name(model: str) -> str:
    """The name clients use: a hub id as it is, of a path its last part."""
    if model == "default":
        return DEFAULT_HUB_ID
    return Path(model).name if Path(model).is_absolute() or model.startswith((".", "~")) else model


class Names:
    """Under which names the one model is served.

    Args:
        model: The model.
        aliases: Other names of it.
        strict: Refuse names that are none of its own; else every name is served.
    """

    def __init__(self, model: ServedModel, aliases: tuple[str, ...], strict: bool):
        self.model = model
        self.served = served_name(model.name)
        self.aliases = aliases
        self._strict = strict

    def known(self, name: str) -> bool:
        """Whether a name is the model's own, an alias, or one of them behind a provider's prefix."""
        own = (self.served, self.model.name, self.served.rpartition("/")[2], *self.aliases)
        return any(name == mine or name.endswith(f"/{mine}") for mine in own)

    def check(self, name: str | None) -> None:
        """Refuse a name that is not served.

        Raises:
            APIError: it is none of the model's, and the server is strict.
        """
        if self._strict and (name is None or not self.known(name)):
            raise self.unknown()

    def unknown(self) -> APIError:
        """What is said of a model that is not here."""
        return APIError(
            404, f"there is no such model here; this server has {self.served!r}", "model_not_found", "model"
        )


class Models:
    """`/v1/models`.

    Args:
        names: The model and its names.
    """

    def __init__(self, names: Names):
        self._names = names
        self._since = int(time.time())
        self.router = APIRouter(prefix="/v1", responses=RESPONSES, route_class=BoundedRoute)
        add = self.router.add_api_route
        add("/models", self.models, methods=["GET"], response_model=schemas.ModelList)
        add("/models/{name:path}", self.one, methods=["GET"], response_model=schemas.ModelInfo)

    async def models(self) -> dict[str, Any]:
        """The model served, under each of its names."""
        names = (self._names.served, *self._names.aliases)
        return {"object": "list", "data": [self._info(name) for name in dict.fromkeys(names)]}

    async def one(self, name: str) -> dict[str, Any]:
        """One model."""
        if not self._names.known(name):
            raise self._names.unknown()
        return self._info(self._names.served)

    def _info(self, name: str) -> dict[str, Any]:
        model, tokens = self._names.model, self._names.model.context_tokens
        root = served_name(model.name)
        lengths = dict.fromkeys(("max_model_len", "context_length", "context_window"), tokens)
        known = {"id": name, "object": "model", "created": self._since, "owned_by": "semshare", "root": root}
        return {**known, **lengths, "aliases": list(self._names.aliases)}
