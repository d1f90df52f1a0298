"""``fimaudit report``: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    folder: Annotated[Path, typer.Argument(help="Run folder of a finished audit.", metavar="DIR")],
    pictures: Annotated[bool, typer.Option(help="Show the most sensitive inputs themselves.")] = True,
) -> None:
    """Write report.html into a run folder: one file for people, without any network."""
    from fimaudit.report import render

    print(render(folder, pictures=pictures))
