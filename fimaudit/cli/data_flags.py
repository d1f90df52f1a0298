"""What the inputs are: their domain, and how tables of them are read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fimaudit.cli.flag_blocks import FlagBlock
from fimaudit.cli.flag_values import names_or_mask, number_or_file, scale_choice
from fimaudit.data.arrays import Inputs
from fimaudit.data.dataset import as_data
from fimaudit.data.streams import Stream
from fimaudit.domain import InputDomain
from fimaudit.runs.options import AuditOptions

__all__ = ["DataFlags", "DomainFlags", "TableFlags"]


@dataclass(frozen=True)
class DomainFlags(FlagBlock):
    """What an input may be."""

    panel = "Input domain"

    lower: Annotated[str | None, typer.Option(help="Lower bound of the inputs: a number or a .npy file.")] = None
    upper: Annotated[str | None, typer.Option(help="Upper bound of the inputs: a number or a .npy file.")] = None
    quantum: Annotated[str | None, typer.Option(help="Distance of neighbouring input values: 0.00392157, 1.")] = None
    unit: Annotated[str | None, typer.Option(help="Name of the input unit, for the report.")] = None
    scale: Annotated[
        str | None, typer.Option(help="Scale of the metric: raw, std, range, or a .npy file; raw when left out.")
    ] = None
    frozen: Annotated[str | None, typer.Option(help="Features that are held: names, positions, or a mask .npy.")] = None
    free: Annotated[str | None, typer.Option(help="Whole-number columns that may change: names, or all.")] = None

    def options(self) -> dict[str, Any]:
        """As ``audit`` takes them."""
        domain = InputDomain(
            number_or_file(self.lower, "--lower"),
            number_or_file(self.upper, "--upper"),
            number_or_file(self.quantum, "--quantum"),
            names_or_mask(self.frozen, "--frozen"),
            scale_choice(self.scale),
            self.unit,
        )
        return {"domain": domain, "free": names_or_mask(self.free, "--free") or ()}


@dataclass(frozen=True)
class TableFlags(FlagBlock):
    """How tables are read; the names are those of ``audit``."""

    panel = "Tables"

    label: Annotated[str | None, typer.Option("--label", help="Column of labels; y where there is one.")] = None
    group: Annotated[str | None, typer.Option("--group", help="Column of groups; group where there is one.")] = None
    drop: Annotated[str | None, typer.Option("--drop", help="Columns to leave out: NAME,NAME.")] = None
    index: Annotated[str | None, typer.Option("--index", help="Column that names the rows; left out.")] = None
    sep: Annotated[str | None, typer.Option("--sep", help="Between the cells of a CSV line; a comma when left out.")] = None
    decimal: Annotated[
        str | None, typer.Option("--decimal", help="Before the fractions of a CSV's numbers; a point when left out.")
    ] = None
    header: Annotated[
        bool | None, typer.Option("--header/--no-header", help="Whether a CSV begins with a line of names.")
    ] = None
    categorical: Annotated[
        str | None, typer.Option("--categorical", help="Columns that are categories, and held: NAME,NAME.")
    ] = None

    def options(self) -> dict[str, Any]:
        """As ``audit`` takes them; nothing where none was given."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return {("y" if name == "label" else name): value for name, value in given.items()}

    def read(self, data: str | Path) -> Inputs | Stream:
        """Read the inputs."""
        kept = {name: value for name, value in self.options().items() if name not in ("y", "group")}
        return as_data(data, self.label, self.group, reading=AuditOptions(**kept).reading())


@dataclass(frozen=True)
class DataFlags(TableFlags):
    """How tables are read, what networks are fed, and what classes are called; the names are those of ``audit``."""

    panel = "Tables and classes"

    mean: Annotated[
        str | None,
        typer.Option("--mean", help="The network is fed (x - mean) / std: one number, or one a channel: 0.485,0.456,0.406."),
    ] = None
    std: Annotated[str | None, typer.Option("--std", help="See --mean.")] = None
    classes: Annotated[
        str | None, typer.Option("--classes", help="Names of the classes in the model's order, where it has none: a,b,c.")
    ] = None
