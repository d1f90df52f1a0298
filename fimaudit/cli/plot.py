"""``fimaudit plot``: a figure for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fimaudit.audit_report import PlotKind
from fimaudit.cli.flag_blocks import in_blocks
from fimaudit.cli.flags import Folder
from fimaudit.cli.output import OutputFlags

__all__ = ["plot"]


@in_blocks
def plot(
    output: OutputFlags,
    folder: Folder,
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the figure goes: .png, .svg or .pdf.")],
    kind: Annotated[
        PlotKind, typer.Option(metavar="WORD", help="What is drawn: distribution, profile, contrast or worst.")
    ] = "distribution",
) -> None:
    """Draw one figure of a run with matplotlib."""
    from fimaudit.report.plots import plot as draw

    figure = draw(folder, kind, out)
    output.write(lambda: {"figure": str(figure)}, lambda: print(figure))
