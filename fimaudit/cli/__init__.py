"""The command line: one thin file a command, loaded when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from fimaudit.cli.group import Group
from fimaudit.errors import FimauditError
from fimaudit.storage.durable_files import last_resort

__all__ = ["COMMANDS", "app", "load_command", "main"]

#: Every command, named as its module, and the first sentence of its help: all that ``fimaudit --help`` needs.
COMMANDS = {
    "audit": "Measure how violently a model's answer can change when its input changes a little.",
    "inspect": (
        "Show what was found: shapes, batch, classes, features, repeatability, rounding, first answers under each link."
    ),
    "plan": "Show rows, requests, bytes, time, money and the interval to expect; sends nothing.",
    "compare": "Compare two models, or rank more, on the same inputs, with intervals.",
    "bounds": "Bound a network's sensitivity from its weights alone, and say which layer to regularise.",
    "validate": "Check on your own model whether the metric predicts vulnerability: attack each input and correlate.",
    "gate": "Decide a policy on confidence bounds: pass (exit 0), fail or undecided (exit 1).",
    "report": "Write report.html into a run folder: one file for people, without any network.",
    "plot": "Draw one figure of a run with matplotlib.",
    "bundle": "Pack report, inputs, ledger, policy and verdict into one archive with a manifest of SHA-256 sums.",
    "verify": (
        "Check every hash and the signature, and compute summary and verdict again from the inputs: exit 1 on a mismatch."
    ),
    "demo": "Train two small networks, export them to ONNX, audit them from probabilities only, beside the exact values.",
    "endpoint": "Endpoint files of known services, and one row sent to see whether a file is right.",
}

app = typer.Typer(
    name="fimaudit",
    cls=Group,
    help="Audit deployed classifiers from nothing but the probabilities they return.",
    epilog=(
        "Exit codes: 0 done, and within the policy; 1 outside it or undecided (gate), or a mismatch (verify); 2 wrong use "
        "or bad input, found before anything is measured; 3 the model failed or the budget ran out, and the run can be "
        "resumed; 130 interrupted (Ctrl-C)."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def load_command(name: str) -> Any:
    """The command of a module of this package: the function of its name, or its ``app`` where it has several."""
    module = import_module(f"fimaudit.cli.{name}")
    own: typer.Typer | None = getattr(module, "app", None)
    if own is None:
        from fimaudit.cli.command import Command

        own = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
        own.command(name, cls=Command)(getattr(module, name))
    return typer.main.get_command(own)


class _Later(TyperCommand):
    """Stands for a command until it is called: what the commands need takes longer to load than a help page to print."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """See ``TyperCommand``."""
        return load_command(str(self.name)).make_context(info_name, args, parent, **extra)


def _called_by_its_own_context() -> None:
    """The body of a command that stands for another."""


for _name, _help in COMMANDS.items():
    app.command(_name, cls=_Later, help=_help)(_called_by_its_own_context)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

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
        from fimaudit.cli.output import print_failure

        print_failure(error)
        sys.exit(error.exit_code)
