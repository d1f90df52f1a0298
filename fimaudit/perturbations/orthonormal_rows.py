"""Random directions orthogonal to each other, for where they cover much of the space, and the rows that carry them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import idct

from fimaudit.perturbations.random_signs import generator
from fimaudit.perturbations.sign_rows import OneInputRows, displaced_bounds
from fimaudit.space import Box

__all__ = ["ORTHONORMAL_FEATURES", "ORTHONORMAL_LEAST", "OrthonormalRows", "orthonormal_fits", "orthonormal_signs"]

#: Orthonormal directions pay once they cover this share of the space, and their table is kept below this many features.
ORTHONORMAL_SHARE, ORTHONORMAL_FEATURES = 0.04, 4096
#: Fewer orthonormal directions are not random enough for their limits (6 % misses at nominal 2.5 % with 2 of 10). That 16
#: are: test_coverage.test_each_side_of_each_interval_holds (16 of 100 features).
ORTHONORMAL_LEAST = 16
#: Stream of the random numbers that order the columns.
COLUMNS = 8
#: Elements of a block of rows, so that what goes into it stays in the cache with it.
BLOCK_ELEMENTS = 2**16
_SIGNS = np.array([-1.0, 1.0], np.float32)


def orthonormal_fits(count: int, features: int) -> bool:
    """Whether ``count`` random directions of so many features are better orthogonal to each other.

    max(``ORTHONORMAL_SHARE`` features, ``ORTHONORMAL_LEAST``) <= count < features <= ``ORTHONORMAL_FEATURES``.

    Args:
        count: directions.
        features: those that move.

    >>> orthonormal_fits(15, 100), orthonormal_fits(16, 100), orthonormal_fits(16, 500)
    (False, True, False)
    """
    return max(ORTHONORMAL_SHARE * features, ORTHONORMAL_LEAST) <= count < features <= ORTHONORMAL_FEATURES


@lru_cache(maxsize=2)
def _column_order(features: int, columns: int) -> NDArray[np.int64]:
    """Which column of the DCT each feature has."""
    return generator(columns, features, COLUMNS).permutation(features)


@lru_cache(maxsize=2)
def _cosines(features: int, columns: int) -> NDArray[np.float32]:
    """The orthonormal DCT-II matrix times sqrt(features), rows of unit mean square, its columns in an order of their own.

    Without it rows of neighbouring frequencies are nearly alike on neighbouring features: past directions would predict the
    next, and the predictable lower limit would fail (8 % misses at nominal 2.5 %, flat spectrum on 39 neighbours of 300).
    One order for all inputs of an audit is random enough, since each draws rows and signs of its own, and rows of the table
    are copied as they stand.
    """
    full = 4 * features
    period = (np.cos(2 * np.pi * np.arange(full) / full) * np.sqrt(2.0)).astype(np.float32)
    table = np.empty((features, features), dtype=np.float32)
    step = 2 * _column_order(features, columns) + 1
    angle = np.zeros_like(step)
    for row in table:  # row k at the angles k step
        period.take(angle, out=row, mode="clip")
        angle += step
        angle -= full * (angle >= full)
    table[0] = 1.0
    return table


def orthonormal_signs(
    rng: np.random.Generator, count: int, features: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Rows drawn without replacement from the DCT, a random sign a feature and a random sign a direction.

    Without the sign a direction, subtracting the mean over directions would no longer leave independent terms.

    Args:
        rng: of the input.
        count: directions, ``features`` at most.
        features: d, those that move.

    Returns:
        ``chosen`` (count,), ``per_feature`` (d,) and ``per_row`` (count,) of ``OrthonormalRows``.

    >>> [part.shape for part in orthonormal_signs(np.random.default_rng(0), 4, 16)]
    [(4,), (16,), (4,)]
    """
    chosen = rng.permutation(features)[:count]
    per_feature, per_row = (_SIGNS.take(rng.integers(0, 2, size, dtype=np.uint8)) for size in (features, count))
    return chosen, per_feature, per_row


@dataclass(frozen=True)
class OrthonormalRows(OneInputRows):
    """Rows base + step * direction with directions orthogonal to each other and of length sqrt(d).

    Direction t has the entries per_row[t] per_feature[i] C[chosen[t], i], C the orthonormal DCT-II matrix times sqrt(d) with
    its columns in a random order, i over the d features that move: V V^T = d I, and E[v v^T] = I over the draws. The base is
    the input moved inward so far that sqrt(2) steps, the longest of an entry, fit on both sides of it.

    Attributes:
        x: one input, shape \\*shape.
        chosen: (m,) rows of C.
        per_feature: (d,) signs.
        per_row: (m,) signs.
        step: root mean square displacement of each feature in the input's unit, shape \\*shape or scalar, 0 where held.
        box: bounds.
        dtype: what the model is fed.
        columns: seed of the order of C's columns, the audit's.

    >>> drawn = orthonormal_signs(np.random.default_rng(0), 2, 8)
    >>> rows = OrthonormalRows(np.zeros(8), *drawn, np.ones(8), Box(np.full(8, -np.inf), np.full(8, np.inf)), "float64")
    >>> v = rows.build(0, 2)
    >>> np.abs(v @ v.T).round(4).tolist()
    [[8.0, 0.0], [0.0, 8.0]]
    """

    x: NDArray[Any]
    chosen: NDArray[np.int64]
    per_feature: NDArray[np.float32]
    per_row: NDArray[np.float32]
    step: NDArray[np.float64]
    box: Box
    dtype: str
    columns: int = 0

    def __len__(self) -> int:
        return len(self.chosen)

    def build(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop``, (stop - start, \\*shape), inside the box."""
        middle, signed = self._frame
        rows, free = np.empty((stop - start, self.x.size), self.dtype), self.free()
        flipped = (self.per_row[start:stop] < 0).astype(np.intp)
        height = max(1, BLOCK_ELEMENTS // self.x.size)
        # As wide as a block where there are several: numpy copies a row that goes with each of many, piece by piece.
        copies = (height if len(rows) > height else 1, 1)
        wide_middle, edges = np.tile(middle, copies), [(inward, np.tile(edge, copies)) for inward, edge in self._edges]
        table, whole = _cosines(signed.shape[1], self.columns), signed.shape[1] == self.x.size
        in_place = whole and rows.dtype == table.dtype
        for first in range(0, len(rows), height):
            here = slice(first, first + height)
            part, chosen = rows[here], self.chosen[start:stop][here]
            moved = table.take(chosen, axis=0, out=part if in_place else None, mode="clip").astype(signed.dtype, copy=False)
            moved *= signed.take(flipped[here], axis=0)
            if whole:
                np.add(moved, wide_middle[: len(part)], out=part, casting="unsafe")
            else:
                placed = np.repeat(middle[None], len(part), axis=0)
                placed[:, free] += moved
                part[...] = placed
            for inward, edge in edges:  # rounding may step over the edge
                inward(part, edge[: len(part)], out=part)
        return rows.reshape(stop - start, *self.x.shape)

    def combined(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """sum_t w_t row_t, (d,), over the first rows, for weights that add up to 0; no row is built.

        The middle drops out, and what is left is each feature's amplitude times an inverse DCT of the weights.
        """
        amplitude, count = self._frame[1][0], len(self.per_feature)
        spectrum = np.zeros(count)
        spectrum[self.chosen[: len(weights)]] = weights * self.per_row[: len(weights)]
        along = idct(spectrum, norm="ortho")[_column_order(count, self.columns)] * (amplitude * np.sqrt(count))
        whole = np.zeros(self.x.size)
        whole[self.free()] = along
        return whole

    def free(self) -> NDArray[np.bool_] | slice:
        """Which features of the flattened input move."""
        if len(self.per_feature) == self.x.size:
            return slice(None)
        return np.asarray(np.broadcast_to(self.step, self.x.shape).ravel() != 0)

    def sent(self) -> NDArray[np.float64]:
        """Root mean square displacement of each feature as the box allows it, in the input's unit, shape \\*shape."""
        if self.box.boundless:
            return self.step if self.step.shape == self.x.shape else np.broadcast_to(self.step, self.x.shape)
        low, high = self._bounds
        return np.asarray((high - low) / np.sqrt(8.0))

    @cached_property
    def _bounds(self) -> tuple[NDArray[Any], NDArray[Any]]:
        # A DCT row reaches sqrt(2) times its root mean square: the base is moved inward by that much.
        return displaced_bounds(self.x, self.step * np.sqrt(2.0), self.box, "float64")

    @cached_property
    def _frame(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Middle of all features, and amplitude of those that move, by the signs of features, and the other way: (2, d)."""
        work = np.float32 if np.dtype(self.dtype).itemsize <= 4 else np.float64
        if self.box.boundless:
            middle, width = self.x, self.sent()
        else:
            low, high = self._bounds
            middle, width = (low + high) / 2, (high - low) / np.sqrt(8.0)
        amplitude: NDArray[Any] = width.ravel()[self.free()].astype(work)
        return middle.ravel().astype(work, copy=False), np.multiply.outer(_SIGNS[::-1], amplitude * self.per_feature)

    @cached_property
    def _edges(self) -> tuple[tuple[np.ufunc, NDArray[Any]], ...]:
        """What keeps a feature within each bound, and the bounds; none where there are none."""
        if self.box.boundless:
            return ()
        lower, upper = (bound.ravel().astype(self.dtype) for bound in (self.box.lower, self.box.upper))
        return (np.maximum, lower), (np.minimum, upper)
