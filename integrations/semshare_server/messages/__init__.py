"""`/v1/messages`: the Anthropic API."""

from semshare_server.messages.routes import MessagesRoutes

__all__ = ["MessagesRoutes"]
