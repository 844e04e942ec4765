"""`semshare bench serve`: many sessions at once, against this adapter or any server with OpenAI's API."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semshare_agents.cli.bench import JsonOption, TokensOption
from semshare_agents.cli.bench_tables import serve_line, serve_table
from semshare_agents.cli.common import HomeOption, console, load_model, quiet_libraries, settings_of
from semshare_agents.errors import ConfigurationError

if TYPE_CHECKING:
    from semshare_agents.bench.made import Message
    from semshare_agents.bench.serve import TurnFigures

Prompts = list[list[list["Message"]]]


def serve(
    file: Annotated[
        Path | None, typer.Argument(help='A JSON list of {"role", "content"} messages; default: made-up chats.')
    ] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Chats that go on at once.")] = 4,
    turns: Annotated[int, typer.Option(min=1, help="Questions asked in each.")] = 3,
    mode: Annotated[
        str, typer.Option(help="What changes from turn to turn: append, clock, window or tools.")
    ] = "append",
    answer: TokensOption = 32,
    history: Annotated[int, typer.Option(min=0, help="Messages that a chat begins with; an even number.")] = 24,
    seed: Annotated[int, typer.Option(help="Draws the texts.")] = 0,
    url: Annotated[str | None, typer.Option(help="Measure this server instead: an address that ends in /v1.")] = None,
    api_key: Annotated[str | None, typer.Option(help="The server's key.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="'default', a folder, a .gguf file or a hub id; with --url its name there, default: the first."
        ),
    ] = None,
    home: HomeOption = None,
    json_out: JsonOption = None,
) -> None:
    """Replay chats over many sessions at once, against this adapter or any OpenAI-compatible server."""
    quiet_libraries()
    from semshare_agents.bench.chats import ChatOptions, Mode, made_chats, prompts, read_chats
    from semshare_agents.bench.output import prepare_folder, write_json

    options = ChatOptions(Mode.parse(mode), sessions, turns, history, answer, seed)
    chats = made_chats(options) if file is None else read_chats(file, options)
    asked = [prompts(chat, options, number) for number, chat in enumerate(chats)]
    if url is None and api_key is not None:
        raise ConfigurationError("--api-key is of a server: give its address with --url")
    if url is not None and home is not None:
        raise ConfigurationError("--home is of this adapter, and --url measures a server: leave one of them out")
    if json_out is not None:
        prepare_folder(json_out.parent)
    measured = _here(asked, answer, model, home) if url is None else _there(asked, answer, url, model, api_key)
    console.print(serve_table(measured["summary"], f"{measured['model']}: {mode}, {sessions} sessions x {turns} turns"))
    if json_out is not None:
        what = {"command": "serve", "mode": mode, "sessions": sessions, "turns": turns, "history": history}
        what |= {"answer": answer, "seed": seed, "file": None if file is None else str(file), "url": url}
        write_json(json_out, {**what, **measured})
        console.print(f"written to {json_out}")


def _here(asked: Prompts, answer: int, model: str | None, home: Path | None) -> dict[str, Any]:
    """Against the adapter, with an empty memory."""
    from semshare_agents.bench.pairs import fresh_memory
    from semshare_agents.bench.serve import Adapter, replay

    settings = settings_of(model, home)
    loaded = load_model(settings)

    async def measure() -> dict[str, Any]:
        async with fresh_memory(loaded, settings) as llm:
            return await replay(Adapter(llm), asked, answer, _shown)

    return {"model": loaded.name, **asyncio.run(measure())}


def _there(asked: Prompts, answer: int, url: str, model: str | None, key: str | None) -> dict[str, Any]:
    """Against a server."""
    from semshare_agents.bench.endpoint import endpoint
    from semshare_agents.bench.serve import replay

    async def measure() -> dict[str, Any]:
        async with endpoint(url, model, key) as server:
            return {"model": server.model, **await replay(server, asked, answer, _shown)}

    return asyncio.run(measure())


def _shown(row: TurnFigures) -> None:
    # A line a turn, no bar: its thread would take part of what is measured.
    console.print(serve_line(row), highlight=False, soft_wrap=True)
