"""The command line: one thin file a command."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console

from fimaudit.cli.audit import audit
from fimaudit.cli.bounds import bounds
from fimaudit.cli.bundle import bundle
from fimaudit.cli.compare import compare
from fimaudit.cli.demo import demo
from fimaudit.cli.endpoint import app as endpoint
from fimaudit.cli.gate import gate
from fimaudit.cli.inspect import inspect
from fimaudit.cli.options import Command
from fimaudit.cli.plan import plan
from fimaudit.cli.plot import plot
from fimaudit.cli.report import report
from fimaudit.cli.validate import validate
from fimaudit.cli.verify import verify
from fimaudit.errors import FimauditError
from fimaudit.storage.durable_files import last_resort

__all__ = ["app", "main"]

app = typer.Typer(
    name="fimaudit",
    help="Audit deployed classifiers from nothing but the probabilities they return.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (audit, inspect, plan, compare, bounds, validate, gate, report, plot, bundle, verify, demo):
    app.command(cls=Command)(command)
app.add_typer(endpoint)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"fimaudit {version('fimaudit')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command; an error of ours is one sentence on stderr and its exit code."""
    try:
        with last_resort():
            app()
    except FimauditError as error:
        sentence = " ".join(str(error).split())
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"fimaudit: {sentence}", markup=False)
        for note in getattr(error, "__notes__", ()):
            console.print(note, markup=False)
        sys.exit(error.exit_code)
