"""`semshare turns`, `stats` and `verify`: look at the memory without loading a model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from semshare_agents.cli.common import HomeOption, console, settings_of
from semshare_agents.cli.presence import alone_at, alone_with
from semshare_agents.errors import ConfigurationError
from semshare_agents.timing.clock import WAIT

if TYPE_CHECKING:
    from semshare_agents.operate.audit import Audit
    from semshare_agents.registry import Registry
    from semshare_agents.settings import Settings

MIB = 1024**2
SHOWN_KEYS = 5

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def turns(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="Most turns to show.")] = 20,
    home: HomeOption = None,
) -> None:
    """Show the newest turns and what they reused; `show` and `export` show the reuse map of one."""
    if context.invoked_subcommand is not None:
        return
    rows = asyncio.run(_turns(settings_of(home=home), limit))
    if not rows:
        console.print("no turns yet")
        return
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption="computed to semantic: the prompt's tokens; TTFT, wait (in it, for other turns), saved (net, by "
        "measured full prefills): seconds to the first piece",
        caption_justify="left",
    )
    for name in ("turn", "when", "tenant", "session", "class"):
        table.add_column(name, no_wrap=name in ("turn", "when", "class"), overflow="fold")
    for name in ("computed", "exact", "moved", "semantic", "TTFT", "wait", "saved"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        report = json.loads(row.report)
        tokens, saved = report["tokens"], report.get("saved")
        table.add_row(
            str(row.id),
            _when(row.created_at),
            row.tenant,
            row.session or "-",
            row.reuse_class,
            *(_count(tokens.get(kind, 0)) for kind in ("computed", "exact", "moved", "semantic")),
            f"{row.ttft_seconds:.2f}",
            f"{report['stages_seconds'].get(WAIT, 0.0):.2f}",
            "-" if saved is None else f"{saved['seconds']:+.2f}",
        )
    console.print(table)


def stats(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what the memory holds and what it has saved."""
    figures = asyncio.run(_stats(settings_of(home=home)))
    if as_json:
        typer.echo(json.dumps(figures, indent=1))
        return
    tables = [_classes_table(figures["turns"], figures["saved"]), _events_table(figures["tokens_by_event"])]
    tables.append(_memory_table(figures))
    guard = figures["guard"]
    tables += [_drift_table(guard["samples"])] if guard["samples"] else []
    tables += [_limits_table(guard["limits"])] if guard["limits"] else []
    for table in tables:
        console.print(table)


def verify(
    fix: Annotated[
        bool, typer.Option("--fix", help="Drop rows and delete files that are wrong; only while nothing else runs.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Check every registry row against its KV file, and every file against the rows."""
    settings = settings_of(home=home)
    found, left, alone = asyncio.run(_verify(settings, fix))
    console.print(_findings_table(found, alone))
    for key, problem in found.damaged[:SHOWN_KEYS]:
        console.print(f"damaged: {key}: {problem}", markup=False, highlight=False, soft_wrap=True)
    problems = found.problems(alone)
    if not problems:
        console.print("[green]rows and files agree[/]")
    elif not fix:
        console.print(f"[red]{problems} problems[/]; `semshare verify --fix` puts them right, turns keep their text")
        raise typer.Exit(1)
    elif left:
        console.print(f"[red]{left} problems are left[/]: run `semshare verify` again to see them")
        raise typer.Exit(1)
    else:
        console.print(f"[green]{problems} problems put right[/]")


# --- reading


@asynccontextmanager
async def open_registry(settings: Settings, **options: Any) -> AsyncIterator[Registry]:
    """The registry, which must be there already: looking at a memory does not make one; options of `Registry.open`."""
    from semshare_agents.registry import Registry
    from semshare_agents.security.encryption import make_cipher

    if settings.database_url is None and not (settings.home / "registry.db").is_file():
        raise ConfigurationError(f"no memory in {settings.home} yet: `semshare chat` makes one, --home names another")
    with alone_at(settings.home) as alone:
        may_upgrade = alone and settings.registry_url.startswith("sqlite")
        registry = await Registry.open(
            settings.registry_url,
            timeout_seconds=settings.database_timeout_seconds,
            upgrade=may_upgrade,
            cipher=make_cipher(settings.encryption_keys),
            **options,
        )
    try:
        yield registry
    finally:
        await registry.close()


async def _turns(settings: Settings, limit: int) -> list[Any]:
    async with open_registry(settings) as registry:
        return list(await registry.turns(limit))


async def _stats(settings: Settings) -> dict[str, Any]:
    async with open_registry(settings) as registry:
        figures = {**await registry.statistics(), "guard": await registry.guard_statistics()}
        figures["saved"] = await registry.savings()
    files, size = await asyncio.to_thread(_disk_use, settings.kv_dir)
    tier = {"folder": str(settings.kv_dir), "files": files, "bytes": size, "budget_bytes": settings.disk_bytes}
    return {**figures, "disk": tier}


def _disk_use(folder: Path) -> tuple[int, int]:
    """Block files and their bytes; the folder may not be there, and files may go while we look."""
    sizes: list[int] = []
    for path in folder.glob("*/*.safetensors"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return len(sizes), sum(sizes)


async def _verify(settings: Settings, fix: bool) -> tuple[Audit, int, bool]:
    """Audit, repair where asked for, count what is left after that; the last value: whether nobody else was there."""
    from semshare_agents.operate.audit import audit, repair
    from semshare_agents.security.encryption import make_cipher
    from semshare_agents.store.disk import DiskStore

    async with open_registry(settings) as registry, alone_with(registry, settings.home) as alone:
        if fix and not alone:
            raise ConfigurationError(f"another process uses {settings.home}: end it, then run `semshare verify --fix`")
        store = await asyncio.to_thread(DiskStore, settings.kv_dir, None, make_cipher(settings.encryption_keys))
        with _bar() as bar:
            task = bar.add_task("blocks")
            tell = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
            found = await audit(registry, store, tell)
            if not fix or not found.problems(alone):
                return found, 0, alone
            await repair(registry, store, found)
            bar.update(task, description="checking the repair", completed=0)
            again = await audit(registry, store, tell)
            # Files of processes that ended are everybody's now, and read for the first time.
            await repair(registry, store, again)
            left = (await audit(registry, store, tell)).problems(alone) if again.problems(alone) else 0
            return found, left, alone


# --- showing


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


def _when(seconds: float) -> str:
    """The time of today's turns, the day of earlier ones."""
    then = datetime.fromtimestamp(seconds)
    return then.strftime("%H:%M" if then.date() == datetime.now().date() else "%d %b")


def _count(tokens: int) -> str:
    return f"{tokens:,}" if tokens else "-"


def _classes_table(classes: dict[str, dict[str, Any]], saved: dict[str, dict[str, float]]) -> Table:
    table = Table(
        title="turns",
        title_justify="left",
        caption="saved: net, to the first token, by measured full prefills of like length, of the newest 10,000 turns; "
        "of unknown ones none of like length was measured",
        caption_justify="left",
    )
    table.add_column("class")
    for name in ("turns", "prompt tokens", "TTFT s (sum)", "saved s", "between", "unknown turns"):
        table.add_column(name, justify="right")
    for name, row in classes.items():
        net = saved.get(name, {"known": 0, "unknown": row["turns"]})
        table.add_row(
            name,
            f"{row['turns']:,}",
            f"{row['prompt_tokens']:,}",
            f"{row['ttft_seconds']:.1f}",
            f"{net['seconds']:+.1f}" if net["known"] else "-",
            f"{net['low']:+.1f} and {net['high']:+.1f}" if net["known"] else "-",
            f"{net['unknown']:,}",
        )
    return table


def _events_table(events: dict[str, int]) -> Table:
    table = Table(title="log of reuse", title_justify="left")
    table.add_column("event")
    table.add_column("tokens", justify="right")
    for kind, tokens in events.items():
        table.add_row(kind, _count(tokens))
    return table


def _memory_table(figures: dict[str, Any]) -> Table:
    disk = figures["disk"]
    table = Table(title="memory", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("figure", overflow="fold")
    table.add_row("tenants, sessions", f"{figures['tenants']:,}, {figures['sessions']:,}")
    table.add_row("blocks in the registry", f"{figures['blocks']:,} ({figures['block_bytes'] / MIB:,.1f} MiB)")
    budget = f"{disk['budget_bytes'] / MIB:,.0f} MiB"
    table.add_row("files on disk", f"{disk['files']:,} ({disk['bytes'] / MIB:,.1f} MiB of {budget})")
    table.add_row("folder", disk["folder"])
    return table


def _drift_table(samples: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="guard: sampled turns against cold runs", title_justify="left")
    table.add_column("class")
    for name in ("samples", "mean KL", "agreement"):
        table.add_column(name, justify="right")
    for name, row in samples.items():
        table.add_row(name, f"{row['samples']:,}", f"{row['kl_mean']:.4f}", f"{row['agreement']:.3f}")
    return table


def _limits_table(limits: list[dict[str, Any]]) -> Table:
    table = Table(title="guard: what is narrowed", title_justify="left")
    for name in ("tenant", "session", "reuse up to", "since", "why"):
        table.add_column(name, overflow="fold")
    for row in limits:
        since = datetime.fromtimestamp(row["since"]).strftime("%d %b %H:%M")
        table.add_row(row["tenant"], row["session"] or "all", row["reuse"], since, row["reason"])
    return table


def _findings_table(found: Audit, alone: bool) -> Table:
    table = Table()
    table.add_column("checked")
    table.add_column("count", justify="right")
    table.add_row("rows", f"{found.rows:,}")
    table.add_row("files", f"{found.files:,}")
    held = "rows of processes that ended" if alone else "rows in other processes' RAM (fine)"
    for name, findings, wrong in (
        ("rows whose file is gone", found.gone, True),
        ("rows whose file is damaged", found.damaged, True),
        ("files that no row names", found.orphans, True),
        ("leftovers of interrupted writes", found.temporary_files, True),
        ("block files in a wrong folder", found.misplaced, True),
        ("rows that no turn uses", found.unused, True),
        ("links to rows that are gone", range(found.broken_links), True),
        ("forgetting that was interrupted", range(found.unerased), True),
        (held, found.held, alone),
    ):
        count = f"{len(findings):,}"
        table.add_row(name, f"[red]{count}[/]" if wrong and findings else count)
    return table
