"""``fimaudit report``: the page of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from fimaudit.cli import options as o

__all__ = ["report"]


def report(
    folder: o.Folder,
    pictures: Annotated[bool, typer.Option(help="Show the most sensitive inputs themselves.")] = True,
) -> None:
    """Write report.html into a run folder: one file for people, without any network."""
    from fimaudit.report.page import render

    print(render(folder, pictures=pictures))
