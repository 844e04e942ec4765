"""`semshare demo`: three people, the notes of one project, and what each prompt reuses of the ones before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text
from sqlalchemy.engine import make_url

from semshare_agents.cli import story
from semshare_agents.cli.common import HomeOption, ModelOption, console, quiet_libraries, settings_of, waiting
from semshare_agents.values import Reuse

if TYPE_CHECKING:
    from semshare_agents.llm import SemShareLLM
    from semshare_agents.model.loading import LoadedModel
    from semshare_agents.settings import Settings

Chat = list[dict[str, str]]
KINDS = ("computed", "exact", "moved", "semantic")
LEAST_TOKENS = 8


@dataclass(frozen=True)
class Step:
    """One turn of the story.

    Attributes:
        title: What is new about it.
        session: Who speaks.
        reuse: Loosest kind of reuse allowed.
        question: What is asked.
        prompt: The messages, from Dana's chat so far and the question.
    """

    title: str
    session: str
    reuse: Reuse
    question: str
    prompt: Callable[[Chat, str], Chat]


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _notes(system: str, days: Sequence[str], question: str) -> Chat:
    """A chat into which the notes were pasted day by day, and then a question."""
    chat = [{"role": "system", "content": system}]
    for day in days:
        chat += [_user(day), {"role": "assistant", "content": "Noted."}]
    return [*chat, _user(question)]


def _trimmed(chat: Chat, question: str) -> Chat:
    """The chat without its oldest day, as an agent does when the history grows too long."""
    return [chat[0], *chat[3:], _user(question)]


STEPS = (
    Step(
        "first turn",
        "dana",
        Reuse.MOVED,
        "What was found in the lantern room, and what was decided about it?",
        lambda chat, question: _notes(story.PLANNER, story.DAYS, question),
    ),
    Step(
        "next turn",
        "dana",
        Reuse.MOVED,
        "Thank you. Which glass was chosen, and why?",
        lambda chat, question: [*chat, _user(question)],
    ),
    Step(
        "new system prompt",
        "ravi",
        Reuse.MOVED,
        "Which condition did the foundation set for the curved glass?",
        lambda chat, question: _notes(story.REVIEWER, story.DAYS, question),
    ),
    Step("trimmed history", "dana", Reuse.MOVED, "And when is the opening?", _trimmed),
    Step(
        "reworded notes",
        "mei",
        Reuse.SEMANTIC,
        "How does the sea get into the cellar, and what helped against it?",
        lambda chat, question: _notes(story.PLANNER, story.RETOLD, question),
    ),
    Step(
        "unrelated",
        "mei",
        Reuse.SEMANTIC,
        story.UNRELATED,
        lambda chat, question: [{"role": "system", "content": "You are a patient baker."}, _user(question)],
    ),
)


def demo(
    max_new_tokens: Annotated[int, typer.Option(min=LEAST_TOKENS, help="Tokens of each answer.")] = 24,
    model: ModelOption = None,
    home: HomeOption = None,
) -> None:
    """Play a story of three sessions on a real model and measure each turn against a cold run."""
    quiet_libraries()
    from semshare_agents.model.loading import load

    settings = settings_of(model, home, reuse=Reuse.MOVED)
    with waiting("loading the model") as tell:
        loaded = load(settings.model, settings.home, settings.device, settings.dtype, tell, settings.reorder_weights)
    console.print(
        "Three people ask one model about the notes of one project. Every turn is stored, so that the next\n"
        "ones can reuse its KV; each is measured against the stock prefill of its prompt, in this run."
    )
    rows = asyncio.run(_play(settings, loaded, max_new_tokens))
    _transcript(rows)
    _close(rows, settings)


async def _play(settings: Settings, model: LoadedModel, max_new_tokens: int) -> list[dict[str, Any]]:
    """Play all steps in a memory of their own, so that every run of the demo begins with nothing."""
    from semshare_agents.bench.pairs import fresh_memory, warm_up

    rows: list[dict[str, Any]] = []
    with Live(console=console, refresh_per_second=8) as live:

        def show(doing: str = "") -> None:
            table = _table(rows)
            live.update(Group(table, Spinner("dots", Text(doing))) if doing else table, refresh=True)

        show("measuring this machine's speed")
        async with fresh_memory(model, settings, "memory") as llm:
            chat: Chat = []
            await warm_up(llm, {"target": [_user(story.UNRELATED)]})
            for number, step in enumerate(STEPS, start=1):
                label = f"{number} of {len(STEPS)}: {step.title}: "
                row = await _measure(llm, step, chat, max_new_tokens, _after(label, show))
                if step.session == "dana":
                    chat = [*row["messages"], {"role": "assistant", "content": row["reuse_text"]}]
                rows.append(row)
        show()
    return rows


def _after(label: str, show: Callable[[str], None]) -> Callable[[str], None]:
    return lambda what: show(label + what)


async def _measure(
    llm: SemShareLLM, step: Step, chat: Chat, max_new_tokens: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """A turn cold, then with reuse, then for good: stored, for the next ones to find."""
    from semshare_agents.bench.pairs import PairsOptions, measure_turn

    messages = step.prompt(chat, step.question)
    options = PairsOptions(reuse=step.reuse, max_new_tokens=max_new_tokens)
    _, row = await measure_turn(llm, messages, options, step.session, tell)
    tell("storing")
    await llm.generate(messages, session=step.session, reuse=step.reuse, max_new_tokens=1)
    return {"step": step, "messages": messages, **row}


# --- showing


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption="cold, TTFT: seconds to the first token; KL: cold to reuse, mean over the answer, in nats",
        caption_justify="left",
    )
    table.add_column("step", no_wrap=True)
    table.add_column("who", no_wrap=True)
    for name in ("tokens", *KINDS, "cold", "TTFT", "speed-up", "KL"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["step"].title,
            row["step"].session,
            f"{row['n_tokens']:,}",
            *(f"{count:,}" if (count := row["tokens"][kind]) else "-" for kind in KINDS),
            f"{row['ttft_cold_s']:.2f}",
            f"{row['ttft_reuse_s']:.2f}",
            f"{row['speedup']:.1f}x",
            _kl(row["kl_mean"]),
            style="bold" if row["class"] != "cold" else "",
        )
    return table


def _kl(nats: float) -> str:
    return f"{nats:.4f}" if nats >= 1e-4 or not nats else f"{nats:.0e}"


def _transcript(rows: Sequence[dict[str, Any]]) -> None:
    console.print("\n[bold]What was said[/] (the first line of each answer)")
    for row in rows:
        step: Step = row["step"]
        asked = step.question if len(step.question) <= 90 else step.question[:87].rsplit(" ", 1)[0] + " ..."
        for speaker, line, style in ((step.session, asked, "cyan"), ("model", _first_line(row["reuse_text"]), "green")):
            text = Text(f"{speaker:>6}  ", style=style).append(line, style="default")
            console.print(text, no_wrap=True, overflow="ellipsis")


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "(nothing)")


def _close(rows: Sequence[dict[str, Any]], settings: Settings) -> None:
    reused = [row for row in rows if row["class"] != "cold"]
    console.print(
        "\n[bold]What the kinds mean[/]\n"
        "  computed  nothing to reuse, or computed again on purpose: the prompt's end, heads of moved text\n"
        "  exact     the same text after the same text: KV as it was stored, equal to a cold run\n"
        "  moved     the same text elsewhere: keys rotated to their new place\n"
        "  semantic  other words for the same: KV of the closest tokens, the worst matches computed again;\n"
        "            approximate, so it is used only where it is asked for"
    )
    if reused:
        cold, took = sum(r["ttft_cold_s"] for r in reused), sum(r["ttft_reuse_s"] for r in reused)
        console.print(
            f"\n{len(reused)} of {len(rows)} turns reused KV: first tokens after {took:.2f} s together instead of "
            f"{cold:.2f} s, [bold]{cold / took:.1f} times as fast[/].",
            highlight=False,
        )
    for row in rows:
        if row["reason"]:
            console.print(f"  {row['step'].title}: {row['reason']}", markup=False, highlight=False, style="dim")
    console.print(
        "\nThe demo's own memory is gone again. The one that `semshare chat` keeps:\n"
        f"  registry  {make_url(settings.registry_url).render_as_string(hide_password=True)}\n"
        f"  KV files  {settings.kv_dir}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    console.print(
        "\n[bold]Next[/]\n"
        "  semshare chat     talk; run it twice and it goes on where it was\n"
        "  semshare turns    what each turn reused\n"
        "  semshare stats    what the memory holds and has saved\n"
        "  semshare verify   rows against files"
    )
