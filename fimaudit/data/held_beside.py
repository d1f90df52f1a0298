"""What further inputs of the model hold beside each input of a stream: columns of its tables, and rows of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.models.columns import TableColumn
from fimaudit.models.packing import HeldPart, Packing, pack_held

__all__ = ["HeldBeside", "held_beside"]

#: Of the cells of columns that are numbers.
_DTYPES = {"whole": "int64", "truth": "bool", "number": "float64"}


@dataclass(frozen=True)
class HeldBeside:
    """How what is held is taken from an input's row of a table and from arrays.

    Attributes:
        packing: of the audited numbers and what is held behind them.
        places: positions of the columns that are held.
        ranks: of each of these that is text, the place of its values in their order by name; ``None`` of numbers.
        values: (n, numbers) of the arrays, by the input's index.
    """

    packing: Packing
    places: tuple[int, ...]
    ranks: tuple[NDArray[np.float64] | None, ...]
    values: NDArray[np.float64]

    def split(self, index: int, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """One input's audited numbers, and those that are held beside it; NaN where a cell is missing."""
        held = []
        for place, ranks in zip(self.places, self.ranks, strict=True):
            cell = float(x[place])
            held.append(cell if ranks is None or np.isnan(cell) else float(ranks[int(cell)]))
        audited = np.delete(x, self.places) if self.places else x
        return audited, np.array([*held, *self.values[index]], dtype=np.float64)


def held_beside(
    columns: Sequence[TableColumn], taken: Mapping[str, int], arrays: Mapping[str, Any], shape: tuple[int, ...], count: int
) -> HeldBeside:
    """What is held beside each of some inputs.

    Args:
        columns: of the inputs' tables.
        taken: positions of columns, by the name of the model's input that holds them.
        arrays: (count, ...) values, likewise.
        shape: of one audited input, without those columns.
        count: of the inputs.

    Raises:
        DataError: values that are neither numbers nor text.
    """
    parts, ranks = [], []
    for name, place in taken.items():
        column = columns[place]
        texts = [str(value) for value in column.values] if column.coded else []
        known = sorted(texts)
        parts.append(HeldPart(name, (1,), _DTYPES.get(column.kind, "int64"), tuple(known)))
        ranks.append(np.array([known.index(text) for text in texts], dtype=np.float64) if column.coded else None)
    packing, values = pack_held(arrays, shape) if arrays else (Packing(shape, ()), np.empty((count, 0)))
    return HeldBeside(Packing(shape, (*parts, *packing.parts)), tuple(taken.values()), tuple(ranks), values)
