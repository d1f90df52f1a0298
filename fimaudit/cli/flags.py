"""Single flags and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fimaudit.models.links import Link
from fimaudit.runs.options import Mode

__all__ = [
    "TARGET_HELP",
    "Adapter",
    "Batch",
    "Budget",
    "Confidence",
    "Data",
    "Device",
    "Folder",
    "Hold",
    "LinkName",
    "ModeName",
    "Overwrite",
    "Resume",
    "Target",
    "TrustPickle",
    "Weights",
    "Yes",
]

TARGET_HELP = "Model: model.onnx, model.pt2, TorchScript, model.skops, package.module:factory, file.py:factory, or a URL."

Target = Annotated[str, typer.Argument(help=TARGET_HELP)]
Folder = Annotated[Path, typer.Argument(help="Run folder of a finished audit.", metavar="DIR")]
Data = Annotated[Path, typer.Option("--data", help="Inputs: .npz with x (and y, group), .npy, .csv or .parquet.")]
LinkName = Annotated[
    Link,
    typer.Option(
        "--link",
        metavar="WORD",
        help="Output to probabilities: auto, identity, softmax, sigmoid, or labels (a class alone).",
    ),
]
ModeName = Annotated[
    Mode, typer.Option("--mode", metavar="WORD", help="black-box, white-box, or auto: autograd where the model offers it.")
]
Confidence = Annotated[float, typer.Option(help="Confidence of each interval.")]
Budget = Annotated[int | None, typer.Option(help="Most rows that may be sent in all.")]
Batch = Annotated[int | None, typer.Option(help="Rows a call.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]
Weights = Annotated[
    Path | None, typer.Option(help="Weights for a package.module:factory target: .safetensors, or .pt (weights only).")
]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Open .joblib/.pkl files, which can run any code when they are opened.")
]
Device = Annotated[str | None, typer.Option(help="Where to run: cpu, cuda, cuda:1; the best at hand when left out.")]
Adapter = Annotated[str | None, typer.Option(help="Adapter to take, where more than one would do.")]
Hold = Annotated[
    list[str] | None,
    typer.Option("--hold", help="What another input holds: name=number, name=file.npy, name=column:NAME. Repeatable."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Endpoint: do not ask on a terminal before rows are sent.")]
