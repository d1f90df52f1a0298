"""``fimaudit plot``: a figure for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

__all__ = ["plot"]


def plot(
    folder: Annotated[Path, typer.Argument(help="Run folder of a finished audit.", metavar="DIR")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the figure goes: .png, .svg or .pdf.")],
    kind: Annotated[str, typer.Option(help="profile, distribution, contrast or worst.")] = "distribution",
) -> None:
    """Draw one figure of a run with matplotlib."""
    from fimaudit.report.plots import plot as draw

    print(draw(folder, cast(Any, kind), out))
