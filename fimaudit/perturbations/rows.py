"""Blocks of rows on their way to the model: what a block is, plain ones, parts of them, and several as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fimaudit.perturbations.orthonormal_rows import OrthonormalRows
from fimaudit.perturbations.quantised_rows import LevelRows
from fimaudit.perturbations.sign_rows import DisplacedRows, OneInputRows, RungRows

__all__ = ["CoordinateRows", "JoinedRows", "PlainRows", "RandomRows", "RowRange", "Rows", "builds_anew"]

#: Rows along random directions.
RandomRows = DisplacedRows | LevelRows | OrthonormalRows


class Rows(Protocol):
    """A block of rows for the model, built piece by piece so that memory stays bounded."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as the model is fed."""
        ...

    def __len__(self) -> int: ...

    def build(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop`` as one array (stop - start, \\*shape), in the input's unit and the model's dtype."""
        ...


@dataclass(frozen=True)
class PlainRows:
    """Rows that exist already.

    Attributes:
        rows: (n, \\*shape).
    """

    rows: NDArray[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as the model is fed."""
        return int(self.rows[:1].nbytes)

    def __len__(self) -> int:
        return len(self.rows)

    def build(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop`` as they are, not a copy."""
        return self.rows[start:stop]


@dataclass(frozen=True)
class CoordinateRows(OneInputRows):
    """One feature replaced a row: x with x[feature[t]] = value[t].

    Attributes:
        x: one input, shape \\*shape.
        feature: (n,) positions in the flattened input.
        value: (n,) in the input's unit.
        dtype: what the model is fed.
        both_ways: whether the second half are the features of the first once more, a step up where these are a step down.

    >>> CoordinateRows(np.zeros(3), np.array([2, 0]), np.array([0.5, -0.5]), "float32").build(0, 2).tolist()
    [[0.0, 0.0, 0.5], [-0.5, 0.0, 0.0]]
    """

    x: NDArray[Any]
    feature: NDArray[np.int64]
    value: NDArray[Any]
    dtype: str
    both_ways: bool = False

    def __len__(self) -> int:
        return len(self.feature)

    def build(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop``, (stop - start, \\*shape)."""
        rows = np.repeat(self.x.astype(self.dtype).reshape(1, -1), stop - start, axis=0)
        rows[np.arange(stop - start), self.feature[start:stop]] = self.value[start:stop]
        return rows.reshape(stop - start, *self.x.shape)


@dataclass(frozen=True)
class RowRange:
    """Rows ``first:last`` of a block, for asking it bit by bit.

    >>> RowRange(PlainRows(np.arange(4)[:, None]), 1, 3).build(0, 2).tolist()
    [[1], [2]]
    """

    rows: Rows
    first: int
    last: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as the model is fed."""
        return self.rows.row_bytes

    def __len__(self) -> int:
        return self.last - self.first

    def build(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop`` of the range, counted from ``first``."""
        return self.rows.build(self.first + start, self.first + stop)


@dataclass(frozen=True)
class JoinedRows:
    """A few small blocks asked as one, one after the other.

    Attributes:
        blocks: at least one; of one shape and dtype.

    >>> JoinedRows([PlainRows(np.zeros((2, 1))), PlainRows(np.ones((2, 1)))]).build(1, 3).tolist()
    [[0.0], [1.0]]
    """

    blocks: Sequence[Rows]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as the model is fed."""
        return self.blocks[0].row_bytes

    @cached_property
    def _count(self) -> int:
        return sum(map(len, self.blocks))

    def __len__(self) -> int:
        return self._count

    def build(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop`` of all blocks, (stop - start, \\*shape), that nobody else has; at least one row."""
        parts, first = [], 0
        for block in self.blocks:
            last = first + len(block)
            if first < stop and start < last:
                parts.append((block, max(start - first, 0), min(stop, last) - first))
            first = last
        whole = parts[0][0].build(*parts[0][1:])
        if len(parts) == 1:
            return whole if builds_anew(parts[0][0]) else whole.copy()
        rows, done = np.empty((stop - start, *whole.shape[1:]), whole.dtype), len(whole)
        rows[:done] = whole
        for block, low, high in parts[1:]:
            _write(block, low, high, rows[done : done + high - low])
            done += high - low
        return rows


def builds_anew(rows: Rows) -> bool:
    """Whether what the block builds is nobody else's, so that it may be overwritten.

    >>> held = PlainRows(np.zeros((2, 1)))
    >>> builds_anew(held), builds_anew(CoordinateRows(np.zeros(3), np.zeros(1, int), np.ones(1), "float32"))
    (False, True)
    """
    if isinstance(rows, RowRange):
        return builds_anew(rows.rows)
    return isinstance(rows, OneInputRows | JoinedRows)


def _write(rows: Rows, start: int, stop: int, into: NDArray[Any]) -> None:
    """Build rows where they are wanted, or copy them there."""
    if isinstance(rows, RowRange):
        _write(rows.rows, rows.first + start, rows.first + stop, into)
    elif isinstance(rows, RungRows) and start % len(rows.packed) == stop % len(rows.packed) == 0:
        rows.write(start, stop, into)
    else:
        into[...] = rows.build(start, stop)
