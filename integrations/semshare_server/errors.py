"""Errors in OpenAI's shape with the status that clients act on."""

from __future__ import annotations

import logging
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from semshare_agents.errors import (
    ClosedError,
    ConfigurationError,
    ContextLengthError,
    InvalidSchemaError,
    InvalidToolsError,
    PromptError,
    RegistryError,
    SemShareError,
)
from semshare_server.wording import first_fault

log = logging.getLogger(__name__)

CODES = {413: "body_too_large"}
TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}

ANTHROPIC_PATHS = ("/v1/messages",)
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Every error's body."""

    error: ErrorBody


RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": told}
    for status, told in {
        400: "The request is wrong; the message says what to change.",
        401: "The API key is missing or unknown.",
        404: "There is no such model.",
        413: "The body is larger than allowed.",
        429: "Too many requests wait; `Retry-After` says when to come back.",
        503: "The server is ending, or its database does not answer.",
    }.items()
}


class APIError(Exception):
    """An error with a status.

    Args:
        status: HTTP status.
        message: What is wrong and what to do.
        code: Word for programs.
        param: The field that is wrong.
        headers: Response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The error as JSON values."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self, path: str) -> JSONResponse:
        """The whole response, in the shape of the API that has the path."""
        body = anthropic_body(self) if path.startswith(ANTHROPIC_PATHS) else self.body()
        return JSONResponse(body, self.status, headers=self.headers)


def anthropic_body(error: APIError) -> dict[str, Any]:
    """An error as the Anthropic API tells it; its clients compact a history by the words of one that is too long."""
    kind = ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    long = error.code == "context_length_exceeded"
    message = f"prompt is too long: {error.message}" if long else error.message
    return {"type": "error", "error": {"type": kind, "message": message}}


class QueueFullError(APIError):
    """Too many requests wait already."""

    def __init__(self, waiting: int, retry_seconds: int):
        message = f"{waiting} requests wait already: try again in {retry_seconds} s"
        super().__init__(429, message, "rate_limit_exceeded", headers={"Retry-After": str(retry_seconds)})


def of_package(error: SemShareError) -> APIError:
    """An error of the package as one for clients; faults of the server tell them no details."""
    if isinstance(error, ContextLengthError):
        return APIError(400, str(error), "context_length_exceeded", "messages")
    if isinstance(error, InvalidToolsError):
        return APIError(400, str(error), "invalid_tools", "tools")
    if isinstance(error, InvalidSchemaError):
        return APIError(400, str(error), "invalid_schema")
    if isinstance(error, PromptError):
        return APIError(400, str(error), "invalid_prompt", "messages")
    if isinstance(error, ConfigurationError):
        return APIError(400, str(error), "invalid_value")
    if isinstance(error, ClosedError | RegistryError):
        log.error("a request failed: %s", error)
        return APIError(503, "the server cannot answer now: try again", "unavailable", headers={"Retry-After": "5"})
    log.error("a request failed: %s", error)
    return APIError(500, "the server could not answer; its log says why", "internal_error")


def of_validation(error: RequestValidationError) -> APIError:
    """What is wrong with a body, in words; of several things the first."""
    if isinstance(error.body, bytes):
        return APIError(400, "the body must be JSON: send it with `Content-Type: application/json`", "invalid_request")
    place, message = first_fault(error.errors(), error.body)
    place = place.encode("utf-8", "replace").decode()
    told = _told_place(place)
    return APIError(400, f"{told}: {message}" if told else message, "invalid_request", place or None)


def _told_place(place: str) -> str:
    """A place in the body in words: `messages.3.role` is the role of message 3."""
    found = re.fullmatch(r"messages\.(\d+)(?:\.(.+))?", place)
    return place if found is None else f"message {found[1]}{f', {found[2]}' if found[2] else ''}"


def install(app: FastAPI) -> None:
    """Let every error leave in the shape of its route's API."""

    @app.exception_handler(APIError)
    async def _api(request: Request, error: APIError) -> JSONResponse:
        return error.response(request.url.path)

    @app.exception_handler(SemShareError)
    async def _package(request: Request, error: SemShareError) -> JSONResponse:
        return of_package(error).response(request.url.path)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return of_validation(error).response(request.url.path)

    @app.exception_handler(500)
    async def _fault(request: Request, _: Exception) -> JSONResponse:
        # The framework raises it again afterwards, so that it is logged with its traceback.
        error = APIError(500, "the server could not answer; its log says why", "internal_error")
        return error.response(request.url.path)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        code, headers = CODES.get(error.status_code), dict(error.headers or {})
        return APIError(error.status_code, str(error.detail), code, headers=headers).response(request.url.path)
