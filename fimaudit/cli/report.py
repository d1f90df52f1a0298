"""``fimaudit report``: the page of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from fimaudit.cli.flag_blocks import in_blocks
from fimaudit.cli.flags import Folder
from fimaudit.cli.output import OutputFlags

__all__ = ["report"]


@in_blocks
def report(
    output: OutputFlags,
    folder: Folder,
    pictures: Annotated[bool, typer.Option(help="Show the most sensitive inputs themselves.")] = True,
) -> None:
    """Write report.html into a run folder: one file for people, without any network."""
    from fimaudit.report.page import render

    page = render(folder, pictures=pictures)
    output.tell(lambda: {"page": str(page)}, lambda: print(page))
