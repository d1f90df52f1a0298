"""A small part of the study again, and how far it is from what the page says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._study_page import COLUMNS
from benchmarks._study_tables import name_of, network_row
from fimaudit.errors import DataError

__all__ = ["CHECKED", "Difference", "compare_with_page", "read_page"]

#: Networks that are trained and measured again: their data ship with scikit-learn.
CHECKED = ("digits VGG plain 0",)
#: How far a number may be off: in points of accuracy, as a share, in rank correlation. The same machine gives the same
#: numbers; on another, sums of another order train a slightly different network.
POINTS, SHARE, RANK = 4.0, 0.20, 0.06


@dataclass(frozen=True)
class Difference:
    """One number of the page beside the one measured now."""

    network: str
    column: str
    page: float
    now: float
    fits: bool

    def __str__(self) -> str:
        mark = "" if self.fits else "  DIFFERS"
        return f"{self.network:24} {self.column:30} page {self.page:8.4g}  now {self.now:8.4g}{mark}"


def read_page(page: Path) -> dict[str, dict[str, str]]:
    """The table of every network: name to column to text.

    Raises:
        DataError: there is no such table.
    """
    lines = [line.strip().strip("|").split(" | ") for line in page.read_text(encoding="utf-8").splitlines() if "|" in line]
    rows = [[cell.strip() for cell in line] for line in lines]
    start = next((i for i, row in enumerate(rows) if tuple(row) == COLUMNS), None)
    if start is None:
        raise DataError(f"expected a table of {', '.join(COLUMNS[:3])}, ... in {page}; write the page with study.py first")
    out = {}
    for row in rows[start + 2 :]:
        if len(row) != len(COLUMNS):
            break
        out[row[0]] = dict(zip(COLUMNS, row, strict=True))
    return out


def compare_with_page(page: Mapping[str, Mapping[str, str]], cell: Mapping[str, Any], spearman: float) -> list[Difference]:
    """A cell measured now against its line.

    Raises:
        DataError: the page has no such line.
    """
    name = name_of(cell)
    if name not in page:
        raise DataError(f"expected a line of {name} in the page's table of every network; it holds {len(page)} others")
    line, now = page[name], network_row(cell)
    pairs = [("accuracy", float(line["accuracy"].rstrip("%")), 100 * now["accuracy"], POINTS, False)]
    for column, key in (
        ("radius", "margin_radius_median"),
        ("perturbation", "smallest_perturbation_median"),
        ("peak", "peak_spectral_norm_median"),
    ):
        # A norm goes with the square of a length.
        pairs.append((column, float(line[column]), now[key], SHARE * (1 + (column == "peak")), True))
    order = "rank correlation of the radius"
    pairs.append((order, float(line[order].split()[0]), spearman, RANK, False))
    return [
        Difference(name, column, said, found, abs(found - said) <= limit * (abs(said) if relative else 1.0))
        for column, said, found, limit, relative in pairs
    ]
