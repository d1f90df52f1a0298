"""``fimaudit plot``: a figure for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fimaudit.cli import options as o
from fimaudit.results import PlotKind

__all__ = ["plot"]


def plot(
    folder: o.Folder,
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the figure goes: .png, .svg or .pdf.")],
    kind: Annotated[PlotKind, typer.Option(help="What is drawn.")] = "distribution",
) -> None:
    """Draw one figure of a run with matplotlib."""
    from fimaudit.report.plots import plot as draw

    print(draw(folder, kind, out))
