"""`semshare chat`: talk to a model that remembers."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from semshare_agents.cli.common import HomeOption, ModelOption, console, quiet_libraries, settings_of, waiting
from semshare_agents.errors import PromptError

if TYPE_CHECKING:
    from semshare_agents.llm import SemShareLLM
    from semshare_agents.session import Session
    from semshare_agents.settings import Settings
    from semshare_agents.values import Report

ENDS = frozenset({"/exit", "/quit"})


def chat(
    session: Annotated[str, typer.Option(help="Session to go on with; a new name starts a new one.")] = "main",
    tenant: Annotated[str | None, typer.Option(help="Whose memory to use.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt; may change from one run to the next.")] = None,
    reuse: Annotated[str | None, typer.Option(help="off, exact, moved or semantic; default: the setting.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    model: ModelOption = None,
    home: HomeOption = None,
) -> None:
    """Chat on the terminal; the session goes on where its last run ended."""
    quiet_libraries()
    settings = settings_of(model, home, tenant=tenant, reuse=reuse, max_new_tokens=max_new_tokens)
    # The loop runs while there is something to do and rests while the terminal waits for a line: so Ctrl-C breaks
    # off an answer where one is being given, and ends the chat where none is.
    with asyncio.Runner() as runner:
        llm = runner.run(_open(settings))
        try:
            talk = llm.session(session, system=system)
            known = runner.run(talk.messages())
            said = sum(m["role"] != "system" for m in known)
            past = f"{said} messages so far" if said else "new"
            line = f"session '{session}', {past}; /exit or Ctrl-D ends it"
            console.print(line, style="dim", markup=False, highlight=False)
            _talk(runner, llm, talk)
        finally:
            runner.run(llm.aclose())


async def _open(settings: Settings) -> SemShareLLM:
    from semshare_agents.llm import SemShareLLM

    with waiting("starting") as tell:
        return await SemShareLLM(settings, progress=tell)


def _talk(runner: asyncio.Runner, llm: SemShareLLM, talk: Session) -> None:
    while (line := _line()) is not None:
        if not line.strip():
            continue
        if line.strip() in ENDS:
            return
        try:
            runner.run(_answer(llm, talk, line))
        except KeyboardInterrupt:
            console.print("\n(broken off; this turn is forgotten)", style="dim")
        except PromptError as e:
            console.print(f"error: {e}", style="red", markup=False, highlight=False)


def _line() -> str | None:
    """The next line, or None at the end of input."""
    try:
        line = console.input("[bold cyan]you[/] ")
    except (EOFError, KeyboardInterrupt):
        console.print()
        return None
    if not sys.stdin.isatty():
        console.print(line, markup=False, highlight=False)
    return line


async def _answer(llm: SemShareLLM, talk: Session, line: str) -> None:
    report: Report | None = None
    console.print("[bold green]model[/] ", end="")
    async with aclosing(talk.stream(line)) as pieces:
        async for piece in pieces:
            console.print(piece.text, end="", markup=False, highlight=False, soft_wrap=True)
            report = report if piece.generation is None else piece.generation.report
    assert report is not None
    console.print(f"\n{summary(report)}", style="dim", markup=False, highlight=False)
    await llm.flush()


def summary(report: Report) -> str:
    """One line: tokens by kind, time to the first token and what a cold run was predicted to take."""
    tokens = ", ".join(f"{count:,} {kind}" for kind, count in report.tokens.items() if count)
    line = f"[{report.reuse_class}: {tokens} tokens; first token after {report.ttft_seconds:.2f} s"
    if report.saved is not None and report.reuse_class != "cold":
        line += f", saved {report.saved.seconds:.2f} s"
    return line + (f"; {report.reason}]" if report.reason else "]")
