"""The application: routes, gate, errors and metrics over one adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

import semshare_agents
from semshare_agents.llm import SemShareLLM
from semshare_agents.observe.metrics import Metrics
from semshare_agents.settings import ServerSettings
from semshare_server import errors, schemas
from semshare_server.core import Core
from semshare_server.gate import Gate
from semshare_server.head import HeadAsGet, cors
from semshare_server.keys import Keyring
from semshare_server.limits import Admission, Traffic
from semshare_server.messages import MessagesRoutes
from semshare_server.models import Models, Names
from semshare_server.page import Page
from semshare_server.responses import ResponsesRoutes
from semshare_server.routes import Routes
from semshare_server.tokens import Tokens


def create_app(llm: SemShareLLM, settings: ServerSettings, keyring: Keyring, *, close: bool = False) -> FastAPI:
    """An ASGI application.

    Args:
        llm: An adapter that was started.
        settings: Of the server.
        keyring: Who may call; with an empty one, only this machine is served and every caller is the adapter's tenant.
        close: Whether the adapter is closed when the application ends.
    """
    metrics = Metrics(llm.reader.tiers)
    llm.observers.append(metrics)
    admission, traffic = Admission(settings.running, settings.queue), Traffic(metrics.registry)
    metrics.registry.register(admission)
    names = Names(llm.reader.model, settings.model_names, settings.strict)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        llm.observers.remove(metrics)
        if close:
            await llm.aclose()

    app = FastAPI(title="semshare", version=semshare_agents.__version__, lifespan=life, docs_url=None, redoc_url=None)
    errors.install(app)
    core = Core(llm, settings, admission, traffic, names)
    app.include_router(Routes(core).router)
    app.include_router(ResponsesRoutes(core).router)
    app.include_router(MessagesRoutes(core).router)
    app.include_router(Models(names).router)
    app.include_router(Tokens(llm).router)

    @app.get("/health", response_model=schemas.Health)
    async def health() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    @app.get("/metrics", include_in_schema=False)
    async def scrape() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    if settings.page:
        app.include_router(Page(llm, names.served).router)
    app.add_middleware(
        Gate,
        keyring=keyring,
        tenant=llm.settings.tenant,
        body_bytes=settings.body_bytes,
        hosts=settings.host_names,
        count=lambda route, status: traffic.responses.labels(route, str(status)).inc(),
    )
    app.add_middleware(CORSMiddleware, **cors(settings.origins))
    app.add_middleware(HeadAsGet)
    _document_keys(app, bool(keyring))
    return app


def _document_keys(app: FastAPI, keys: bool) -> None:
    """Say in the OpenAPI document how a key is given."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        if keys:
            schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
            schemes["key"] = {"type": "http", "scheme": "bearer"}
            document["security"] = [{"key": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]
