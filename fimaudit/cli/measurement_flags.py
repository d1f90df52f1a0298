"""How each input is measured, where, and what the numbers are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fimaudit.cli.flag_blocks import FlagBlock
from fimaudit.cli.flag_values import number_or_file
from fimaudit.cli.flags import Batch, Confidence, ModeName
from fimaudit.engines.selection import EngineName
from fimaudit.measurement.settings import ProfileChoice
from fimaudit.runs.options import Order

__all__ = ["EngineFlags", "MeasurementFlags", "WhiteBoxFlags", "YardstickFlags"]


@dataclass(frozen=True)
class MeasurementFlags(FlagBlock):
    """How each input is measured; the names are those of ``audit``."""

    panel = "Measurement"

    mode: ModeName = "auto"
    profile: Annotated[
        ProfileChoice, typer.Option(metavar="WORD", help="Radius and flips at longer displacements: off, cheap or full.")
    ] = "cheap"
    witness: Annotated[
        bool | None,
        typer.Option(
            help="Look for a displacement that really changes each decision; saved in --out.",
            show_default="from 170 queries on",
        ),
    ] = None
    integrity: Annotated[
        bool | None,
        typer.Option(
            help="Check whether the answers are those of one function whose slopes reach its decisions.",
            show_default="where that is a tenth of the rows at most",
        ),
    ] = None
    order: Annotated[
        Order | None,
        typer.Option(
            metavar="WORD",
            help="Which calls go out first: inputs, one after the other, or interleaved, those of many in random turns.",
            show_default="interleaved for endpoints, else inputs",
        ),
    ] = None
    precision: Annotated[
        float | None,
        typer.Option(
            help="Stop an input when the half-width of its norm (of its radius, from labels) is within this share."
        ),
    ] = None
    threshold: Annotated[
        float | None, typer.Option(help="Stop an input when its norm is decided to be above or below this.")
    ] = None
    smooth: Annotated[
        float | None,
        typer.Option(help="From labels: certify the classifier that answers by majority under noise of this deviation."),
    ] = None
    smooth_radius: Annotated[
        float | None, typer.Option(help="With --smooth: stop an input when this radius is certified, or cannot be.")
    ] = None
    focus: Annotated[
        str | None, typer.Option(help="top:K: screen all inputs, measure those that may be the K most sensitive.")
    ] = None
    confidence: Confidence = 0.95
    batch: Batch = None
    surrogate: Annotated[
        list[str] | None,
        typer.Option(
            help="Local model whose directions are measured exactly, where that pays; or learned, from the first inputs. "
            "Repeatable."
        ),
    ] = None
    max_failures: Annotated[int | None, typer.Option(help="Stop, resumable, when more inputs than this have failed.")] = None


@dataclass(frozen=True)
class EngineFlags(FlagBlock):
    """Where inputs are measured; the names are those of ``audit``."""

    panel = "Many processes and machines"

    engine: Annotated[EngineName, typer.Option("--engine", metavar="WORD", help="local (this process) or ray.")] = "local"
    address: Annotated[
        str | None, typer.Option(help="Ray: cluster to use, auto or host:port; one is started here when left out.")
    ] = None
    workers: Annotated[int | None, typer.Option(help="Ray: processes with a model each; as many as fit when left out.")] = (
        None
    )
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="Ray: GPUs of each worker, fractions too; 1 where there are any when left out.")
    ] = None


@dataclass(frozen=True)
class WhiteBoxFlags(FlagBlock):
    """Measurement by derivatives; the names are those of ``audit``."""

    panel = "White box"

    tolerance: Annotated[float, typer.Option(help="Relative residual at which an iteration stops.")] = 1e-4
    worst_direction: Annotated[
        bool, typer.Option("--worst-direction", help="Save each input's most sensitive direction.")
    ] = False


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
