"""`semshare serve` and `semshare keys`: the OpenAI-compatible server and who may call it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from semshare_agents.cli.common import HomeOption, ModelOption, console, quiet_libraries, settings_of, waiting
from semshare_agents.errors import ConfigurationError
from semshare_agents.settings import ServerSettings, Settings, load_server_settings

NEEDS = "the server needs more packages: pip install 'semshare-agents[server]'"

keys_app = typer.Typer(help="API keys of the server.", no_args_is_help=True)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: the setting, 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; default: the setting, 8000.")] = None,
    keys_file: Annotated[Path | None, typer.Option(help="File of hashed API keys.")] = None,
    log_format: Annotated[str | None, typer.Option(help="plain or json.")] = None,
    model: ModelOption = None,
    home: HomeOption = None,
) -> None:
    """Serve the OpenAI API, metrics and a page that shows the reuse."""
    server = load_server_settings(host=host, port=port, keys_file=keys_file, log_format=log_format)
    quiet_libraries()
    asyncio.run(_serve(settings_of(model, home), server))


async def _serve(settings: Settings, server: ServerSettings) -> None:
    try:
        from semshare_server.serve import checked_keys, log_to_terminal, serve
    except ImportError as e:
        raise ConfigurationError(NEEDS) from e
    from semshare_agents.llm import SemShareLLM

    log_to_terminal(server.log_format)
    keyring = checked_keys(server)
    with waiting("starting") as tell:
        llm = await SemShareLLM(settings, progress=tell)
    try:
        await serve(llm, server, keyring)
    finally:
        await llm.aclose()


@keys_app.command("add")
def add(
    tenant: Annotated[str, typer.Argument(help="Whose memory the key opens.")],
    file: Annotated[Path | None, typer.Option(help="Where its digest is kept; default: api-keys in --home.")] = None,
    home: HomeOption = None,
) -> None:
    """Make an API key and print it once; the file keeps only its digest."""
    try:
        from semshare_server.keys import add_key
    except ImportError as e:
        raise ConfigurationError(NEEDS) from e
    path = file or settings_of(home=home).home / "api-keys"
    key = add_key(path, tenant)
    typer.echo(key)
    console.print(f"`semshare serve --keys-file {path}` accepts it", style="dim", soft_wrap=True, highlight=False)
