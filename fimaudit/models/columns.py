"""The columns of a table as numbers, and back: text, truth values and dates are held and travel as positions in a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import DataError, MissingExtraError
from fimaudit.foreign_errors import listed

__all__ = ["TableColumn", "arranged", "as_frame", "coded", "column_cells"]

#: Names of a list that are shown in a sentence.
SHOWN = 30


@dataclass(frozen=True)
class TableColumn:
    """One column of a table, as a row of numbers holds it.

    Attributes:
        name: as the table has it.
        kind: ``number`` and ``whole`` (integers) are numbers, ``truth`` is 0 or 1; ``text``, ``category`` and ``date`` are
            positions in ``values``. NaN is a missing cell in all of them.
        values: what the positions stand for.
        missing: what stands for a missing cell of text: NaN, or what the model was fitted with.
        held_as: how pandas holds the cells, where their kind leaves it open: a type of dates with its unit, ``ordered`` or
            ``category``, ``object``, ``Int64`` or ``float64`` of whole numbers, ``null`` where all are missing.
    """

    name: str
    kind: Literal["number", "whole", "truth", "text", "category", "date"]
    values: tuple[Any, ...] = ()
    missing: Any = np.nan
    held_as: str = ""

    @property
    def coded(self) -> bool:
        """Whether the numbers are positions in a list, between which there is nothing."""
        return self.kind in ("text", "category", "date")


def coded(columns: Sequence[TableColumn]) -> list[str]:
    """Names of the columns whose numbers are positions in a list."""
    return [column.name for column in columns if column.coded]


def arranged(columns: Sequence[TableColumn], wanted: Sequence[str], what: str = "the model") -> list[int]:
    """The position in the table of each column that a model names, in the model's order.

    A table whose names are only numbers (0, 1, ...) has none, and is taken column by column.

    Raises:
        DataError: other columns than the model's; with both lists.

    >>> arranged([TableColumn("b", "number"), TableColumn("a", "number")], ["a", "b"])
    [1, 0]
    """
    names = [column.name for column in columns]
    if names == [str(i) for i in range(len(wanted))]:
        return list(range(len(wanted)))
    if sorted(names) == sorted(wanted):
        return [names.index(name) for name in wanted]
    lacking, beyond = [n for n in wanted if n not in names], [n for n in names if n not in wanted]
    differences = [f"without {listed(lacking, SHOWN)}"] if lacking else []
    if beyond:
        differences.append(f"with {listed(beyond, SHOWN)} beside")
    raise DataError(
        f"{what} takes the columns {listed(wanted, SHOWN)}, but the data has {listed(names, SHOWN)} "
        f"({' and '.join(differences)}); rename them, or leave columns out with --drop NAME,NAME (--label, --group and "
        "--index take a column out too: to group by one that the model takes, copy it under another name)"
    )


def column_cells(column: TableColumn, numbers: NDArray[Any]) -> Any:
    """The cells of one column from its numbers: integers, truth values, text or dates again; NaN where they are missing."""
    missing = np.isnan(numbers) if numbers.dtype.kind == "f" else np.zeros(len(numbers), dtype=bool)
    if column.kind == "number":
        return numbers.astype(np.float64)
    if column.coded:
        values = np.empty(len(column.values) + 1, dtype=object)
        values[:-1], values[-1] = column.values, column.missing
        found = np.clip(np.rint(np.where(missing, len(values) - 1, numbers)), 0, len(values) - 1)
        return values[found.astype(np.int64)]
    if column.kind == "truth":
        return numbers.astype(bool) if not missing.any() else np.where(missing, np.nan, numbers.astype(object) == 1)
    return numbers.astype(np.float64) if missing.any() else np.rint(numbers).astype(np.int64)


def as_frame(columns: Sequence[TableColumn], rows: NDArray[Any], order: Sequence[int] | None = None) -> Any:
    """(B, columns) numbers as a pandas DataFrame with the table's names and types.

    Args:
        columns: of the numbers.
        rows: as the measurement sends them.
        order: positions of the columns wanted, all in their order when left out.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as exc:
        raise MissingExtraError("a table with names or text", "pandas", "report") from exc
    made = {}
    for place in range(len(columns)) if order is None else order:
        made[columns[place].name] = pd.Series(_held(columns[place], rows[:, place]))
    return pd.DataFrame(made)


def _held(column: TableColumn, numbers: NDArray[Any]) -> Any:
    """The cells of one column as pandas holds them: of one type, whichever of its cells are among these."""
    import pandas as pd

    if column.kind == "category" or column.held_as == "category":
        present, codes = ~np.isnan(numbers), np.full(len(numbers), -1)
        known: Any = column.values
        codes[present] = numbers[present]
        if not column.coded:
            known, codes[present] = np.unique(np.rint(numbers[present]).astype(np.int64), return_inverse=True)
        return pd.Categorical.from_codes(codes, categories=pd.Index(known), ordered=column.held_as == "ordered")
    if column.kind == "date":  # of times of day and days alone pandas finds the type by itself
        cells = column_cells(replace(column, missing=pd.NaT), numbers)
        return pd.Series(cells.tolist(), dtype=column.held_as or None)
    if column.kind == "whole" and column.held_as:
        cells = pd.Series(np.rint(numbers))
        if column.held_as == "float64":
            return cells
        cells = cells.astype("Int64")
        return cells if column.held_as == "Int64" else cells.astype(object).where(cells.notna(), column.missing)
    return column_cells(column, numbers)
