"""Flags that name what a report's headlines are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fimaudit.cli.flag_blocks import FlagBlock
from fimaudit.cli.flag_values import number_or_file

__all__ = ["YardstickFlags"]


@dataclass(frozen=True)
class YardstickFlags(FlagBlock):
    """What stands beside the numbers; the model is not asked for it."""

    panel = "Compared with"

    baseline: Annotated[Path | None, typer.Option(help="Run folder of another model, in the same unit.")] = None
    noise: Annotated[
        str | None,
        typer.Option(help="Standard deviation of the noise that inputs carry, in the data's own numbers, or a .npy file."),
    ] = None
    linear_model: Annotated[
        bool, typer.Option("--linear-model", help="A linear model, trained on the labels of one half for the other.")
    ] = False

    def options(self) -> dict[str, Any]:
        """As ``audit`` takes them."""
        noise = number_or_file(self.noise, "--noise")
        return {"baseline": self.baseline, "noise": noise, "linear_model": self.linear_model}
