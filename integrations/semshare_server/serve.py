"""Listen until a signal ends it, gracefully."""

from __future__ import annotations

import gc
import ipaddress
import logging

import uvicorn

from semshare_agents.constrain.constraint import installed
from semshare_agents.errors import ConfigurationError
from semshare_agents.llm import SemShareLLM
from semshare_agents.observe.observers import JsonLines
from semshare_agents.settings import ServerSettings
from semshare_server.app import create_app
from semshare_server.keys import Keyring

log = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked_keys(settings: ServerSettings) -> Keyring:
    """The keys; none are needed on loopback.

    Raises:
        ConfigurationError: others can reach the server and there are no keys.
    """
    keyring = Keyring.of(settings)
    if not keyring:
        if not is_loopback(settings.host):
            raise ConfigurationError(
                f"{settings.host} can be reached from other machines: make a key with `semshare keys add TENANT` "
                "and give it as SEMSHARE_SERVER_KEYS_FILE, or listen on 127.0.0.1"
            )
        log.warning("no API keys: everyone on this machine may call, as one tenant")
    return keyring


def log_to_terminal(log_format: str) -> None:
    """Send the package's log to stderr, plain or as JSON lines."""
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if log_format == "json" else plain)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("semshare_agents", "semshare_server", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)


async def serve(llm: SemShareLLM, settings: ServerSettings, keyring: Keyring) -> None:
    """Serve until a signal; answers under way are finished, within `shutdown_seconds`, and stored."""
    if installed():
        # The first grammar's tables of the vocabulary hold every thread for a third of a second.
        await llm.reader.check_schema({"type": "object"})
    app = create_app(llm, settings, keyring, close=True)
    # As the adapter does for its own libraries: no collection that stops every thread walks the server's.
    gc.collect()
    gc.freeze()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    await uvicorn.Server(config).serve()
