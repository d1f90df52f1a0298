"""Random directions and the displaced rows that carry them to the model.

Directions come from ``numpy``'s Philox generator keyed by (audit seed, input index), so they are the same on every device,
engine and worker count, and in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CoordinateRows",
    "DisplacedRows",
    "JoinedRows",
    "OrthonormalRows",
    "PlainRows",
    "Rows",
    "displaced_bounds",
    "displaced_rows",
    "generator",
    "orthonormal_signs",
    "packed_signs",
]

#: From this many rows on, a table of choices is made first.
GATHER_ROWS = 48


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


def generator(seed: int, index: int, stream: int = 0) -> np.random.Generator:
    """The random generator of one input: Philox with the key (seed, index) and the counter's top word ``stream``.

    Args:
        seed: audit seed, any integer; taken modulo 2^64.
        index: input index, likewise.
        stream: separates uses that must not share numbers (main directions 0, pilot 1, ...).
    """
    key = np.array([seed % 2**64, index % 2**64], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


def packed_signs(rng: np.random.Generator, count: int, features: int) -> NDArray[np.uint8]:
    """``count`` Rademacher directions as (count, ceil(features / 8)) bits, most significant first, 1 for +."""
    width = (features + 7) // 8
    return np.frombuffer(rng.bytes(count * width), dtype=np.uint8).reshape(count, width)


def displaced_bounds(
    x: NDArray[Any], step: NDArray[Any], lower: NDArray[Any], upper: NDArray[Any], dtype: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The two values that each feature takes: base - step and base + step in the model's dtype.

    The base is x moved inward just enough for both to lie in [lower, upper]: at the edge of the box the two values are the
    edge and the edge plus two steps inward. Their mean drops out of the Helmert contrasts, and half their difference is
    what was really sent.
    """
    wide = x.astype(np.float64)
    if np.isneginf(lower).all() and np.isposinf(upper).all():
        return (wide - step).astype(dtype), (wide + step).astype(dtype)
    step = np.broadcast_to(np.asarray(step, np.float64), x.shape)
    narrow = np.minimum(step, (np.asarray(upper, np.float64) - np.asarray(lower, np.float64)) / 2)
    base = np.clip(wide, lower + narrow, upper - narrow)
    base = np.where(step == 0, wide, base)
    return (base - narrow).astype(dtype), (base + narrow).astype(dtype)


def displaced_rows(
    x: NDArray[Any],
    packed: NDArray[np.uint8],
    step: NDArray[Any],
    lower: NDArray[Any],
    upper: NDArray[Any],
    dtype: str,
) -> NDArray[Any]:
    """Rows base +- step by the sign bits: (m, \\*shape) in the model's dtype. The reference for device classifiers."""
    low, high = displaced_bounds(x, step, lower, upper, dtype)
    return _select(packed, low, high)


def _select(packed: NDArray[np.uint8], low: NDArray[Any], high: NDArray[Any]) -> NDArray[Any]:
    bits = np.unpackbits(packed, axis=1, count=low.size).view(np.bool_)
    return np.where(bits, high.ravel(), low.ravel()).reshape(len(packed), *low.shape)


class _Choices:
    """Rows by sign bits, five times faster than choosing feature by feature.

    As many neighbouring features as fill 16 bytes are looked up together: a table holds each combination of their low and
    high values, and a row is one gather of 16-byte items.
    """

    def __init__(self, low: NDArray[Any], high: NDArray[Any]) -> None:
        self._shape, self._dtype = low.shape, low.dtype
        self._group = 16 // low.dtype.itemsize
        width = -(-low.size // 8) * 8
        pair = np.zeros((2, width), dtype=low.dtype)
        pair[0, : low.size], pair[1, : low.size] = low.ravel(), high.ravel()
        items, combinations = width // self._group, 2**self._group
        bits = (np.arange(combinations)[:, None] >> np.arange(self._group - 1, -1, -1)) & 1
        pair = pair.reshape(2, items, 1, self._group)
        table = np.ascontiguousarray(np.where(bits.astype(bool)[None], pair[1], pair[0]))
        self._table = table.view(np.complex128).ravel()
        self._first = np.arange(items) * combinations

    def rows(self, packed: NDArray[np.uint8]) -> NDArray[Any]:
        per_byte = 8 // self._group
        index = np.empty((len(packed), len(self._first)), dtype=np.int64)
        for k in range(per_byte):
            index[:, k::per_byte] = (packed >> (8 - self._group * (k + 1))) & (2**self._group - 1)
        index += self._first
        size = int(np.prod(self._shape))
        chosen = self._table.take(index).view(self._dtype)
        return np.ascontiguousarray(chosen[:, :size]).reshape(len(packed), *self._shape)


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
class DisplacedRows:
    """Rows base +- step by packed signs; a device classifier builds them itself."""

    x: NDArray[Any]
    packed: NDArray[np.uint8]
    step: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    dtype: str

    @property
    def row_bytes(self) -> int:
        return int(self.x.size * np.dtype(self.dtype).itemsize)

    def __len__(self) -> int:
        return len(self.packed)

    def build(self, start: int, stop: int) -> NDArray[Any]:
        if len(self.packed) >= GATHER_ROWS and np.dtype(self.dtype).itemsize in (2, 4, 8):
            return self._choices.rows(self.packed[start:stop])
        return _select(self.packed[start:stop], *self._bounds)

    def sent(self) -> NDArray[np.float64]:
        """Half-width of each feature's displacement as it was really sent, shape \\*shape."""
        low, high = self._bounds
        return (high.astype(np.float64) - low.astype(np.float64)) / 2

    @cached_property
    def _choices(self) -> _Choices:
        return _Choices(*self._bounds)

    @cached_property
    def _bounds(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return displaced_bounds(self.x, self.step, self.lower, self.upper, self.dtype)


@lru_cache(maxsize=2)
def _cosines(features: int) -> NDArray[np.float32]:
    """The orthonormal DCT-II matrix times sqrt(features), rows of unit mean square, and below it the same negated."""
    k = np.arange(features)[:, None]
    i = np.arange(features)[None, :]
    table = np.cos(np.pi * ((2 * i + 1) * k % (4 * features)) / (2 * features)) * np.sqrt(2.0)
    table[0] = 1.0
    return np.concatenate([table, -table]).astype(np.float32)


def orthonormal_signs(
    rng: np.random.Generator, count: int, features: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Rows drawn without replacement from the DCT, a random sign a feature, and an independent random sign a direction.

    Without the sign a direction, subtracting the mean over directions would no longer leave independent terms.
    """
    chosen = rng.permutation(features)[:count]
    per_feature = np.where(rng.integers(0, 2, features, dtype=np.uint8), 1, -1).astype(np.float32)
    per_row = np.where(rng.integers(0, 2, count, dtype=np.uint8), 1, -1).astype(np.float32)
    return chosen, per_feature, per_row


@dataclass(frozen=True)
class OrthonormalRows:
    """Rows base + step * direction with directions orthogonal to each other and of length sqrt(d)."""

    x: NDArray[Any]
    chosen: NDArray[np.int64]
    per_feature: NDArray[np.float32]
    per_row: NDArray[np.float32]
    step: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    dtype: str

    @property
    def row_bytes(self) -> int:
        return int(self.x.size * np.dtype(self.dtype).itemsize)

    def __len__(self) -> int:
        return len(self.chosen)

    def build(self, start: int, stop: int) -> NDArray[Any]:
        middle, amplitude = self._frame
        count = len(self.per_feature)
        signed = self.chosen[start:stop] + np.where(self.per_row[start:stop] < 0, count, 0)
        moved = _cosines(count)[signed]
        if np.dtype(self.dtype).itemsize > 4:
            moved = moved.astype(np.float64)
        moved *= amplitude
        if count == self.x.size:
            rows = moved
            rows += middle
        else:
            rows = np.repeat(middle[None], stop - start, axis=0)
            rows[:, self.free()] += moved
        return rows.astype(self.dtype, copy=False).reshape(stop - start, *self.x.shape)

    def free(self) -> NDArray[np.bool_]:
        """Features that move."""
        return np.asarray(np.broadcast_to(self.step, self.x.shape).ravel() != 0)

    def sent(self) -> NDArray[np.float64]:
        """Root mean square displacement of each feature, shape \\*shape."""
        low, high = self._bounds
        return np.asarray((high - low) / np.sqrt(8.0))

    @cached_property
    def _bounds(self) -> tuple[NDArray[Any], NDArray[Any]]:
        # A DCT row reaches sqrt(2) times its root mean square: the base is moved inward by that much.
        return displaced_bounds(self.x, self.step * np.sqrt(2.0), self.lower, self.upper, "float64")

    @cached_property
    def _frame(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Middle of all features, and signed amplitude of those that move."""
        work = np.float32 if np.dtype(self.dtype).itemsize <= 4 else np.float64
        low, high = self._bounds
        amplitude = ((high - low).ravel() / np.sqrt(8.0))[self.free()] * self.per_feature
        return ((low + high).ravel() / 2).astype(work), amplitude.astype(work)


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

    def __len__(self) -> int:
        return len(self.feature)

    def build(self, start: int, stop: int) -> NDArray[Any]:
        rows = np.repeat(self.x.astype(self.dtype).reshape(1, -1), stop - start, axis=0)
        rows[np.arange(stop - start), self.feature[start:stop]] = self.value[start:stop]
        return rows.reshape(stop - start, *self.x.shape)


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
        pieces, first = [], 0
        for block in self.blocks:
            low, high = max(start - first, 0), min(stop - first, len(block))
            if low < high:
                pieces.append(block.build(low, high))
            first += len(block)
        return np.concatenate(pieces)
