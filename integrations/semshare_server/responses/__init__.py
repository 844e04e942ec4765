"""`/v1/responses`: OpenAI's Responses API."""

from semshare_server.responses.routes import ResponsesRoutes

__all__ = ["ResponsesRoutes"]
