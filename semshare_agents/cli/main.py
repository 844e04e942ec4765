"""The `semshare` command: settings shared by all, errors as one line."""

from __future__ import annotations

import sys

import typer

from semshare_agents.cli import (
    bench,
    bench_serve,
    calibrate,
    chat,
    db,
    demo,
    doctor,
    evict,
    forget,
    inspect,
    maps,
    models,
    pins,
    serve,
    speeds,
)
from semshare_agents.errors import SemShareError

app = typer.Typer(
    name="semshare",
    help="A KV-cache memory for conversational agents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("chat")(chat.chat)
app.command("serve")(serve.serve)
app.command("stats")(inspect.stats)
app.command("verify")(inspect.verify)
app.command("forget")(forget.forget)
app.command("pin")(pins.pin)
app.command("unpin")(pins.unpin)
app.command("pins")(pins.pins)
app.command("doctor")(doctor.doctor)
app.command("speeds")(speeds.speeds)
app.command("calibrate")(calibrate.calibrate)
turns_app = typer.Typer()
turns_app.callback(invoke_without_command=True)(inspect.turns)
turns_app.command("show")(maps.show)
turns_app.command("export")(maps.export)
app.add_typer(turns_app, name="turns")
app.add_typer(serve.keys_app, name="keys")
app.add_typer(models.app, name="models")
app.add_typer(db.app, name="db")
app.add_typer(evict.app, name="evict")
bench.app.command("serve")(bench_serve.serve)
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run the command; the package's own errors end it with one line and status 2."""
    try:
        app()
    except SemShareError as e:
        typer.secho(f"error: {e}", fg=typer.colors.RED, err=True)
        sys.exit(2)
