"""``fimaudit endpoint``: endpoint files of known services, and one row sent to see whether a file is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fimaudit.cli.command import Command
from fimaudit.cli.data_flags import TableFlags
from fimaudit.cli.flag_blocks import in_blocks
from fimaudit.cli.flags import LinkName
from fimaudit.cli.group import Group
from fimaudit.cli.model_flags import EndpointFlags
from fimaudit.cli.output import OutputFlags
from fimaudit.cli.terminal import Terminal
from fimaudit.data.arrays import Inputs
from fimaudit.data.dataset import about
from fimaudit.errors import DataError, TargetError
from fimaudit.models.classifier import Options

__all__ = ["app"]

Name = Annotated[str, typer.Argument(help="Name of a preset, as fimaudit endpoint list gives it.")]

app = typer.Typer(
    cls=Group,
    name="endpoint",
    help="Endpoint files of known services, and one row sent to see whether a file is right.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command("list", cls=Command)
@in_blocks
def list_presets(output: OutputFlags) -> None:
    """Name the services on the shelf."""
    from fimaudit_adapters.http.shelf import presets

    def show() -> None:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for one in presets():
            table.add_row(one.name, one.about)
        Terminal(highlight=False).print(table)

    output.write(lambda: {"presets": [{"name": one.name, "about": one.about} for one in presets()]}, show)


@app.command("show", cls=Command)
@in_blocks
def show(name: Name, output: OutputFlags) -> None:
    """Say what a preset is, the page that describes its format, and its settings."""
    _write_preset(name, output)


@app.command("new", cls=Command)
@in_blocks
def new(name: Name, output: OutputFlags) -> None:
    """Write a preset to standard output: fimaudit endpoint new NAME > endpoint.yaml, then fill in what stands in <>."""
    _write_preset(name, output)


def _write_preset(name: str, output: OutputFlags) -> None:
    from fimaudit_adapters.http.shelf import preset

    found = preset(name)
    facts = {"name": found.name, "about": found.about, "page": found.page, "text": found.text}
    output.write(lambda: facts, lambda: print(found.text, end=""), product=True)


@app.command("try", cls=Command)
@in_blocks
def try_it(
    target: Annotated[str, typer.Argument(help="Endpoint file, or a URL.")],
    data: Annotated[str, typer.Option("--data", help="Inputs; the first is sent.")],
    asked: EndpointFlags,
    table: TableFlags,
    output: OutputFlags,
    endpoint: Annotated[Path | None, typer.Option("--endpoint", help="YAML file with an endpoint's settings.")] = None,
    link: LinkName = "auto",
) -> None:
    """Send one row, once, and show request, answer, and how each part of it was read; secrets are masked."""
    from fimaudit_adapters.http.trial import as_facts, try_endpoint

    inputs = table.read(data)
    first = next(inputs.rows([0]), None) if len(inputs) else None
    if first is None or first.x is None:
        raise DataError(f"expected at least one input in {data}")
    parts = [*([] if endpoint is None else [str(endpoint)]), *asked.options().get("endpoint", [])]
    extra: dict[str, Any] = {"endpoint": parts} if parts else {}
    if isinstance(inputs, Inputs) and inputs.names is not None:
        extra["data_columns"] = list(inputs.names)
    trial = try_endpoint(target, Options(link=link, extra=extra, **about(inputs)), first.x[None])
    facts = as_facts(trial)
    output.write(lambda: facts, lambda: _show(Terminal(highlight=False, soft_wrap=True), facts))
    if trial.error is not None:
        raise trial.failure or TargetError(trial.error)


def _show(console: Console, facts: dict[str, Any]) -> None:
    def line(text: str) -> None:
        console.print(text, markup=False)

    line(f"request: {facts['request']}")
    for name, value in facts["headers"].items():
        line(f"  {name}: {value}")
    if facts["sent"]:
        line(f"  {facts['sent']}")
    if facts["came"]:
        line(f"answer:\n  {facts['came']}")
    for path, found in facts["steps"].items():
        text = found if isinstance(found, str) else json.dumps(found, default=str)
        line(f"{path}\n  gives {text[:400]}")
    if facts["answer"] is not None:
        line(f"read as: {json.dumps(facts['answer'])[:400]}")
    for name, p in list(facts["probabilities"].items())[:20]:
        line(f"  {name}: {p:.6g}")
    if facts["probabilities"]:
        line("one row was sent")
