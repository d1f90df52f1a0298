"""What is held for each input travels with its numbers: behind the audited ones in one flat row, where nothing moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import DataError

__all__ = ["HeldPart", "Packing", "pack_held"]

#: Whole numbers from here on are not exact in float32.
MOST_EXACT = 2**24


@dataclass(frozen=True)
class HeldPart:
    """One further input of the model, of which each audited input has a value of its own.

    Attributes:
        name: of the model's input.
        shape: of one value.
        dtype: name of its numpy dtype.
        values: what the numbers are positions of, where the values are text.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    values: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many numbers one value is."""
        return int(np.prod(self.shape, dtype=np.int64))

    def restored(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """(B, size) numbers as (B, \\*shape) values of the part's type."""
        if self.values:
            places = np.clip(np.rint(numbers), 0, len(self.values) - 1).astype(np.int64)
            return np.asarray(np.array(self.values, dtype=object)[places].reshape(-1, *self.shape))
        whole = np.dtype(self.dtype).kind in "iub"
        values: NDArray[Any] = (np.rint(numbers) if whole else numbers).astype(self.dtype).reshape(-1, *self.shape)
        return values


@dataclass(frozen=True)
class Packing:
    """How one row of numbers holds the audited input and what is held beside it.

    Attributes:
        shape: of the audited input.
        parts: what is held, in the order in which it lies behind.
    """

    shape: tuple[int, ...]
    parts: tuple[HeldPart, ...]

    @property
    def features(self) -> int:
        """Numbers of the audited input."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def held(self) -> int:
        """Numbers that are held."""
        return sum(part.size for part in self.parts)

    def packed(self, x: NDArray[Any], held: NDArray[np.float64], dtype: str) -> NDArray[Any]:
        """(B, \\*shape) inputs and (B, held) numbers as (B, features + held) rows.

        Raises:
            DataError: the model's type cannot hold what is held.
        """
        if np.dtype(dtype).kind != "f":
            raise DataError(
                f"the audited input is of type {dtype}, beside which no values can be held by input; give constants"
            )
        if np.dtype(dtype) != np.float64 and any(
            np.abs(held).max(initial=0.0) >= MOST_EXACT and np.dtype(p.dtype).kind in "iu"
            for p in self.parts
            if not p.values
        ):
            raise DataError(f"held whole numbers of {MOST_EXACT} and more are not exact beside an input of type {dtype}")
        return np.concatenate([x.reshape(len(x), -1).astype(dtype), held.astype(dtype)], axis=1)

    def split(self, rows: Any) -> tuple[Any, dict[str, Any]]:
        """Rows, arrays or tensors, as audited inputs (B, \\*shape) and (B, size) numbers of each part, by name."""
        out, start = {}, self.features
        for part in self.parts:
            out[part.name] = rows[:, start : start + part.size]
            start += part.size
        return rows[:, : self.features].reshape(len(rows), *self.shape), out


def pack_held(hold: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[Packing, NDArray[np.float64]]:
    """The packing of inputs of a shape, and (n, held) numbers that are held for each.

    Args:
        hold: (n, ...) values by name.
        shape: of one audited input.

    Raises:
        DataError: values that are neither numbers nor text.
    """
    parts, numbers = [], []
    for name, given in hold.items():
        values = np.asarray(given)
        called: tuple[str, ...] = ()
        if values.dtype.kind in "OUS":
            known, places = np.unique(values.astype(str), return_inverse=True)
            called, values = tuple(known.tolist()), places.reshape(values.shape)
        elif values.dtype.kind not in "fiub":
            raise DataError(f"expected numbers or text to hold {name!r} at, got {values.dtype}")
        parts.append(HeldPart(name, tuple(values.shape[1:]), values.dtype.name, called))
        numbers.append(values.reshape(len(values), -1).astype(np.float64))
    return Packing(shape, tuple(parts)), np.concatenate(numbers, axis=1)
