"""Blocks of rows on their way to the model: what a block is, plain ones, parts of them, and several as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fimaudit.perturbations.sign_rows import RungRows

__all__ = ["ApartRows", "CoordinateRows", "JoinedRows", "PlainRows", "RowRange", "Rows", "joined_rows"]


class Rows(Protocol):
    """A block of rows for the model, built piece by piece so that memory stays bounded."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as the model is fed."""
        ...

    def __len__(self) -> int: ...

    def build(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop`` as one array (stop - start, \\*shape)."""
        ...


@dataclass(frozen=True)
class PlainRows:
    """Rows that exist already."""

    rows: NDArray[Any]

    @property
    def row_bytes(self) -> int:
        return int(self.rows[:1].nbytes)

    def __len__(self) -> int:
        return len(self.rows)

    def build(self, start: int, stop: int) -> NDArray[Any]:
        return self.rows[start:stop]


@dataclass(frozen=True)
class CoordinateRows:
    """One feature replaced a row: x with x[feature[t]] = value[t]."""

    x: NDArray[Any]
    feature: NDArray[np.int64]
    value: NDArray[Any]
    dtype: str

    @property
    def row_bytes(self) -> int:
        return int(self.x.size * np.dtype(self.dtype).itemsize)

    @property
    def both_ways(self) -> bool:
        """Whether the second half of the rows replaces the features of the first once more."""
        half = len(self.feature) // 2
        return np.array_equal(self.feature[:half], self.feature[half:])

    def __len__(self) -> int:
        return len(self.feature)

    def build(self, start: int, stop: int) -> NDArray[Any]:
        rows = np.repeat(self.x.astype(self.dtype).reshape(1, -1), stop - start, axis=0)
        rows[np.arange(stop - start), self.feature[start:stop]] = self.value[start:stop]
        return rows.reshape(stop - start, *self.x.shape)


@dataclass(frozen=True)
class ApartRows:
    """Rows that go to the model in a call of their own, whatever else is asked at the time: for what depends on company."""

    rows: NDArray[Any]

    @property
    def row_bytes(self) -> int:
        return int(self.rows[:1].nbytes)

    def __len__(self) -> int:
        return len(self.rows)

    def build(self, start: int, stop: int) -> NDArray[Any]:
        return self.rows[start:stop]


@dataclass(frozen=True)
class RowRange:
    """Rows ``first:last`` of a block, for asking it bit by bit."""

    rows: Rows
    first: int
    last: int

    @property
    def row_bytes(self) -> int:
        return self.rows.row_bytes

    def __len__(self) -> int:
        return self.last - self.first

    def build(self, start: int, stop: int) -> NDArray[Any]:
        return self.rows.build(self.first + start, self.first + stop)


@dataclass(frozen=True)
class JoinedRows:
    """A few small blocks asked as one."""

    blocks: Sequence[Rows]

    @property
    def row_bytes(self) -> int:
        return self.blocks[0].row_bytes

    def __len__(self) -> int:
        return sum(len(block) for block in self.blocks)

    def build(self, start: int, stop: int) -> NDArray[Any]:
        parts, first = [], 0
        for block in self.blocks:
            low, high = max(start - first, 0), min(stop - first, len(block))
            if low < high:
                parts.append((block, low, high))
            first += len(block)
        whole = parts[0][0].build(*parts[0][1:])
        if len(parts) == 1:
            return whole
        rows, done = np.empty((stop - start, *whole.shape[1:]), whole.dtype), len(whole)
        rows[:done] = whole
        for block, low, high in parts[1:]:
            _write(block, low, high, rows[done : done + high - low])
            done += high - low
        return rows


def _write(rows: Rows, start: int, stop: int, into: NDArray[Any]) -> None:
    """Build rows where they are wanted, or copy them there."""
    if isinstance(rows, RowRange):
        _write(rows.rows, rows.first + start, rows.first + stop, into)
    elif isinstance(rows, RungRows) and start % len(rows.packed) == stop % len(rows.packed) == 0:
        rows.write(start, stop, into)
    else:
        into[...] = rows.build(start, stop)


def joined_rows(blocks: Sequence[Rows]) -> Rows:
    """Blocks of rows as one, built from what they are joined of."""
    parts: list[Rows] = []
    for block in blocks:
        parts += block.blocks if isinstance(block, JoinedRows) else [block]
    return parts[0] if len(parts) == 1 else JoinedRows(parts)
