"""Random directions and the displaced rows that carry them to the model.

Directions come from ``numpy``'s Philox generator keyed by (audit seed, input index), so they are the same on every device,
engine and worker count, and in any order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ORTHONORMAL_FEATURES",
    "ORTHONORMAL_LEAST",
    "CoordinateRows",
    "DisplacedRows",
    "JoinedRows",
    "OrthonormalRows",
    "PlainRows",
    "RowRange",
    "Rows",
    "RungRows",
    "displaced_bounds",
    "displaced_rows",
    "generator",
    "joined_rows",
    "orthonormal_fits",
    "orthonormal_signs",
    "packed_signs",
]

#: Orthonormal directions pay once they cover this share of the space, and their table is kept below this many features.
ORTHONORMAL_SHARE, ORTHONORMAL_FEATURES = 0.1, 2048
#: Fewer orthonormal directions are not random enough for their limits (6 % misses at nominal 2.5 % with 2 of 10).
ORTHONORMAL_LEAST = 16
#: Elements of a block of rows that stays in the cache while it is built.
BLOCK_ELEMENTS = 2**17


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


def orthonormal_fits(count: int, features: int) -> bool:
    """Whether ``count`` random directions of so many features are better orthogonal to each other."""
    return max(ORTHONORMAL_SHARE * features, ORTHONORMAL_LEAST) <= count < features <= ORTHONORMAL_FEATURES


def packed_signs(rng: np.random.Generator, count: int, features: int) -> NDArray[np.uint8]:
    """``count`` Rademacher directions as (count, ceil(features / 8)) bits, most significant first, 1 for +."""
    width = (features + 7) // 8
    words = rng.bit_generator.random_raw(-(-count * width // 8)).astype("<u8", copy=False)
    return words.view(np.uint8)[: count * width].reshape(count, width)


def displaced_bounds(
    x: NDArray[Any], step: NDArray[Any], lower: NDArray[Any], upper: NDArray[Any], dtype: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The two values that each feature takes: base - step and base + step in the model's dtype.

    The base is x moved inward just enough for both to lie in [lower, upper]: at the edge of the box the two values are the
    edge and the edge plus two steps inward. Their mean drops out of the Helmert contrasts, and half their difference is
    what was really sent. ``step`` may have axes before those of x, one entry a displacement; so have the two values then.
    """
    wide = x.astype(np.float64)
    if np.max(lower) == -np.inf and np.min(upper) == np.inf:
        shape = np.broadcast_shapes(wide.shape, np.shape(step))
        low, high = np.empty(shape, dtype), np.empty(shape, dtype)  # one pass each: float64 sums, cast as they are stored
        np.subtract(wide, step, out=low, dtype=np.float64, casting="unsafe")
        np.add(wide, step, out=high, dtype=np.float64, casting="unsafe")
        return low, high
    step = np.asarray(step, np.float64)
    narrow = np.minimum(step, (np.asarray(upper, np.float64) - np.asarray(lower, np.float64)) / 2)
    base = np.clip(wide, lower + narrow, upper - narrow)
    base = np.where(step == 0, wide, base)
    # (upper - narrow) + narrow may round to just above the bound
    return np.maximum(base - narrow, lower).astype(dtype), np.minimum(base + narrow, upper).astype(dtype)


def displaced_rows(
    x: NDArray[Any],
    packed: NDArray[np.uint8],
    step: NDArray[Any],
    lower: NDArray[Any],
    upper: NDArray[Any],
    dtype: str,
) -> NDArray[Any]:
    """Rows base +- step by the sign bits: (m, \\*shape) in the model's dtype. The reference for device classifiers."""
    return _select(packed, *displaced_bounds(x, step, lower, upper, dtype), x.shape)


def _select(
    packed: NDArray[np.uint8],
    low: NDArray[Any],
    high: NDArray[Any],
    shape: tuple[int, ...],
    into: NDArray[Any] | None = None,
) -> NDArray[Any]:
    r"""Low or high by the sign bits, on the bit patterns (low ^ (bit * (low ^ high))), in blocks that stay in the cache.

    ``low`` and ``high`` are (\*shape) or (n, \*shape); the result has m rows for each, (n m, \*shape), new or in ``into``.
    """
    unsigned, features = np.dtype(f"u{low.dtype.itemsize}"), math.prod(shape)
    base = np.ascontiguousarray(low).reshape(-1, 1, features).view(unsigned)
    change = base ^ np.ascontiguousarray(high).reshape(-1, 1, features).view(unsigned)
    whole = np.empty((len(base) * len(packed), *shape), low.dtype) if into is None else into
    out = whole.view(unsigned).reshape(len(base), len(packed), features)
    height = max(1, BLOCK_ELEMENTS // max(len(base) * features, 1))
    for start in range(0, len(packed), height):
        part = out[:, start : start + height]
        np.multiply(np.unpackbits(packed[start : start + height], axis=1, count=features), change, out=part)
        part ^= base
    return whole


def _shift(packed: NDArray[np.uint8], x: NDArray[Any], step: Any) -> NDArray[Any]:
    """x +- step by the sign bits, (m, \\*shape): eight features at a time from a table of the signs that a byte holds."""
    table = np.where(_byte_signs(), step, -step).astype(x.dtype)
    rows = np.empty((len(packed), *x.shape), x.dtype)
    eights, base = rows.reshape(len(packed), x.size // 8, 8), x.reshape(-1, 8)
    height = max(1, BLOCK_ELEMENTS // x.size)
    for start in range(0, len(packed), height):
        part = eights[start : start + height]
        np.take(table, packed[start : start + height], axis=0, out=part, mode="clip")
        part += base
    return rows


@lru_cache(maxsize=1)
def _byte_signs() -> NDArray[np.bool_]:
    """(256, 8) bits of each byte, most significant first."""
    return np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).view(np.bool_)


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
        if self._one_step is not None:
            return _shift(self.packed[start:stop], self.x, self._one_step)
        return _select(self.packed[start:stop], *self._bounds, self.x.shape)

    def sent(self) -> NDArray[np.float64]:
        """Half-width of each feature's displacement as it was really sent, shape \\*shape."""
        low, high = self._bounds
        return (high.astype(np.float64) - low.astype(np.float64)) / 2

    @cached_property
    def _bounds(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return displaced_bounds(self.x, self.step, self.lower, self.upper, self.dtype)

    @cached_property
    def _one_step(self) -> Any:
        """The step in the model's numbers, where it is one for all features and gives the two values bit for bit."""
        low, high = self._bounds
        if self.x.dtype != low.dtype or self.x.size % 8:
            return None
        step = low.dtype.type(np.ravel(self.step)[0])
        return step if np.array_equal(self.x - step, low) and np.array_equal(self.x + step, high) else None


@dataclass(frozen=True)
class RungRows:
    """Rows base +- size * step by packed signs, the same signs for each of several sizes: rung by rung."""

    x: NDArray[Any]
    packed: NDArray[np.uint8]
    step: NDArray[np.float64]
    sizes: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    dtype: str

    @property
    def row_bytes(self) -> int:
        return int(self.x.size * np.dtype(self.dtype).itemsize)

    def __len__(self) -> int:
        return len(self.sizes) * len(self.packed)

    def build(self, start: int, stop: int) -> NDArray[Any]:
        m = len(self.packed)
        first, last = start // m, -(-stop // m)
        rows = np.empty(((last - first) * m, *self.x.shape), self.dtype)
        self.write(first * m, last * m, rows)
        return rows[start - first * m : stop - first * m]

    def write(self, start: int, stop: int, into: NDArray[Any]) -> None:
        r"""The same into (stop - start, \*shape) of one piece, for whole rungs."""
        m, done = len(self.packed), 0
        for low, high in self._ends(start // m, stop // m):
            _select(self.packed, low, high, self.x.shape, into[done : done + len(low) * m])
            done += len(low) * m

    def sent(self) -> Iterator[NDArray[np.float64]]:
        r"""Half-width of each feature's displacement as it was really sent, (n, \*shape) for some rungs at a time."""
        for low, high in self._ends(0, len(self.sizes)):
            yield np.subtract(high, low, dtype=np.float64) * 0.5

    def _ends(self, first: int, last: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """The two values of each feature on some rungs: on all at once, and kept, where that takes little memory."""
        if len(self.sizes) * self.x.size <= BLOCK_ELEMENTS:
            low, high = self._bounds
            yield low[first:last], high[first:last]
            return
        count = max(1, BLOCK_ELEMENTS // self.x.size)
        for at in range(first, last, count):
            yield self._displaced(at, min(at + count, last))

    @cached_property
    def _bounds(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._displaced(0, len(self.sizes))

    def _displaced(self, first: int, last: int) -> tuple[NDArray[Any], NDArray[Any]]:
        sizes = self.sizes[first:last].reshape(-1, *([1] * self.x.ndim))
        return displaced_bounds(self.x, sizes * self.step, self.lower, self.upper, self.dtype)


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
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Rows drawn without replacement from the DCT, a random place and sign a feature, and a random sign a direction.

    Without the sign a direction, subtracting the mean over directions would no longer leave independent terms. Without the
    place, rows of neighbouring frequencies are nearly alike on neighbouring features: past directions would foretell the
    next, and the predictable lower limit would fail (8 % misses at nominal 2.5 %, flat spectrum on 39 neighbours of 300).
    """
    chosen, place = rng.permutation(features)[:count], rng.permutation(features)
    per_feature = np.where(rng.integers(0, 2, features, dtype=np.uint8), 1, -1).astype(np.float32)
    per_row = np.where(rng.integers(0, 2, count, dtype=np.uint8), 1, -1).astype(np.float32)
    return chosen, place, per_feature, per_row


@dataclass(frozen=True)
class OrthonormalRows:
    """Rows base + step * direction with directions orthogonal to each other and of length sqrt(d)."""

    x: NDArray[Any]
    chosen: NDArray[np.int64]
    place: NDArray[np.int64]
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
        moved = _cosines(count)[signed].take(self.place, axis=1)  # three times faster than both at once
        if np.dtype(self.dtype).itemsize > 4:
            moved = moved.astype(np.float64)
        moved *= amplitude
        if count == self.x.size:
            rows = moved
            rows += middle
        else:
            rows = np.repeat(middle[None], stop - start, axis=0)
            rows[:, self.free()] += moved
        rows = rows.astype(self.dtype, copy=False)
        if np.isfinite(self.lower).any() or np.isfinite(self.upper).any():  # rounding may step over the edge
            np.clip(rows, self.lower.ravel().astype(self.dtype), self.upper.ravel().astype(self.dtype), out=rows)
        return rows.reshape(stop - start, *self.x.shape)

    def first(self, count: int) -> OrthonormalRows:
        """The first ``count`` directions."""
        return replace(self, chosen=self.chosen[:count], per_row=self.per_row[:count])

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
