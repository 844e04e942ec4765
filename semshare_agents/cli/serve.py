"""`semshare serve` and `semshare keys`: the OpenAI-compatible server and who may call it."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from semshare_agents.cli.common import HomeOption, ModelOption, console, quiet_libraries, settings_of, waiting
from semshare_agents.errors import ConfigurationError
from semshare_agents.settings import ServerSettings, Settings, load_server_settings

NEEDS = "the server needs more packages: pip install 'semshare-agents[server]'"

SHOWN_DIGITS = 12
KeysFileOption = Annotated[Path | None, typer.Option(help="The file of digests; default: api-keys in --home.")]

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
    file: KeysFileOption = None,
    home: HomeOption = None,
) -> None:
    """Make an API key and print it once; the file keeps only its digest."""
    path = _keys_file(file, home)
    from semshare_server.keys import add_key

    key = add_key(path, tenant)
    typer.echo(key)
    console.print(f"`semshare serve --keys-file {path}` accepts it", style="dim", soft_wrap=True, highlight=False)


@keys_app.command("list")
def show(file: KeysFileOption = None, home: HomeOption = None) -> None:
    """List the keys of a file: the beginning of each digest, and whose memory it opens."""
    path = _keys_file(file, home)
    from semshare_server.keys import list_keys

    for digest, tenant in list_keys(path):
        typer.echo(f"{digest[:SHOWN_DIGITS]}  {tenant}")


@keys_app.command("remove")
def remove(
    digest: Annotated[str, typer.Argument(help="The beginning of its digest, as `semshare keys list` shows it.")],
    file: KeysFileOption = None,
    home: HomeOption = None,
) -> None:
    """Take a key out of a file; servers that run keep to it from their next start."""
    path = _keys_file(file, home)
    from semshare_server.keys import remove_key

    typer.echo(f"removed a key of {remove_key(path, digest)}")


def _keys_file(file: Path | None, home: Path | None) -> Path:
    """The file of keys.

    Raises:
        ConfigurationError: the server's packages are not installed.
    """
    if find_spec("semshare_server") is None:
        raise ConfigurationError(NEEDS)
    return file or settings_of(home=home).home / "api-keys"
