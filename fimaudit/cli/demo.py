"""``fimaudit demo``: the main job on real data that ships with scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option("--out", help="Where the models and run folders go.")] = Path("runs/demo"),
) -> None:
    """Train two small networks, export them to ONNX, audit them from probabilities only, beside the exact values."""
    from fimaudit.demo import run_demo

    run_demo(out)
