"""The command line: one thin file a command."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from fimaudit.cli.audit import audit
from fimaudit.cli.demo import demo
from fimaudit.cli.inspect import inspect
from fimaudit.errors import FimauditError

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
app.command()(audit)
app.command()(inspect)
app.command()(demo)


def main() -> None:
    """Run a command; an error of ours is one sentence on stderr and its exit code."""
    try:
        app()
    except FimauditError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"fimaudit: {error}", markup=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("\nfimaudit: interrupted; finished inputs are kept, go on with --resume", file=sys.stderr)
        sys.exit(130)
