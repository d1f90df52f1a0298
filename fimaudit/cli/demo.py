"""``fimaudit demo``: the main job on real data that ships with scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fimaudit.cli.flag_blocks import in_blocks
from fimaudit.cli.output import OutputFlags
from fimaudit.cli.terminal import Terminal

__all__ = ["demo"]


@in_blocks
def demo(
    output: OutputFlags,
    out: Annotated[Path, typer.Option("--out", help="Where the models and run folders go.")] = Path("runs/demo"),
) -> None:
    """Train two small networks, export them to ONNX, audit them from probabilities only, beside the exact values."""
    from fimaudit.demo import run_demo

    compared = run_demo(out, Terminal(quiet=output.silent))
    runs = [{"name": one.name, "folder": str(one.folder), "accuracy": one.accuracy} for one in compared]
    output.write(lambda: {"runs": runs}, lambda: None)
