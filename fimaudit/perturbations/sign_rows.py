"""Rows displaced by random signs: the input with each feature a step up or down, as it is really sent.

Each feature takes one of two values, so a row is a choice between two arrays by its sign bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.space import Box, in_model_numbers

__all__ = [
    "BLOCK_ELEMENTS",
    "PIECE_ELEMENTS",
    "DisplacedRows",
    "OneInputRows",
    "RungRows",
    "displaced_bounds",
    "displaced_rows",
    "moved_inward",
    "rung_rows_of_each",
]

#: Elements of a block of rows that stays in the cache while it is built. That blocks join without a seam:
#: test_directions.test_wide_rows_are_chosen_by_their_bits_across_blocks.
BLOCK_ELEMENTS = 2**17
#: The same of what is read once only.
PIECE_ELEMENTS = 2**16
#: The same of signs that are only summed: bytes of many directions of few features lie far apart, and take longer to read.
SUMMED_ELEMENTS = 2**19


def displaced_bounds(x: NDArray[Any], step: NDArray[Any], box: Box, dtype: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The two values that each feature takes: base - step and base + step in the model's dtype.

    The base is x moved inward just enough for both to lie in [lower, upper]: at the edge of the box the two values are the
    edge and the edge plus two steps inward. Their mean drops out of the Helmert contrasts, and half their difference is
    what was really sent.

    Args:
        x: one input, shape \\*shape.
        step: 0 and above in the input's unit, shape \\*shape or what broadcasts to it; it may have axes before those of x,
            one entry a displacement, and so have the two values then. 0 holds a feature.
        box: bounds.
        dtype: the model's, of floats.

    Returns:
        (low, high), (..., \\*shape) in ``dtype``.

    >>> low, high = displaced_bounds(np.array([0.0, 0.5]), np.full(2, 0.25), Box(np.zeros(2), np.ones(2)), "float32")
    >>> low.tolist(), high.tolist()
    ([0.0, 0.25], [0.5, 0.75])
    """
    if box.boundless:
        own = np.asarray(step, dtype)
        if x.dtype == own.dtype and (own == step).all():
            return x - own, x + own
        wide, shape = x.astype(np.float64), np.broadcast_shapes(x.shape, np.shape(step))
        low, high = np.empty(shape, dtype), np.empty(shape, dtype)  # one pass each: float64 sums, cast as they are stored
        np.subtract(wide, step, out=low, dtype=np.float64, casting="unsafe")
        np.add(wide, step, out=high, dtype=np.float64, casting="unsafe")
        return low, high
    step = np.asarray(step, np.float64)
    wide = x.astype(np.float64)
    lower, upper = np.asarray(box.lower, np.float64), np.asarray(box.upper, np.float64)
    base, narrow = moved_inward(wide, step, lower, upper)
    base = np.where(step == 0, wide, base)
    # (upper - narrow) + narrow may round to just above the bound
    return np.maximum(base - narrow, lower).astype(dtype), np.minimum(base + narrow, upper).astype(dtype)


def moved_inward(
    x: NDArray[np.float64], step: NDArray[np.float64], lower: NDArray[np.float64], upper: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x moved just so far that the step fits on both sides of it, and the step, shortened where the box is too narrow.

    h = min(step, (upper - lower) / 2), and x clipped to [lower + h, upper - h].

    Args:
        x, step, lower, upper: in the input's unit, of shapes that broadcast; ``step`` 0 and above, bounds may be infinite.

    >>> [part.tolist() for part in moved_inward(np.array([0.0, 0.5]), np.array([0.25, 2.0]), np.zeros(2), np.ones(2))]
    [[0.25, 0.5], [0.25, 0.5]]
    """
    narrow = np.minimum(step, (upper - lower) / 2)
    return np.clip(x, lower + narrow, upper - narrow), narrow


def displaced_rows(
    x: NDArray[Any],
    packed: NDArray[np.uint8],
    step: NDArray[Any],
    lower: NDArray[Any],
    upper: NDArray[Any],
    dtype: str,
) -> NDArray[Any]:
    """Rows base +- step by the sign bits: (m, \\*shape) in the model's dtype. The reference for device classifiers.

    Args:
        x: one input, shape \\*shape, d features.
        packed: (m, ceil(d / 8)) bits, most significant first, 1 for +.
        step, lower, upper: in the input's unit, shape \\*shape or scalar; see ``displaced_bounds``.
        dtype: the model's, of floats.

    >>> open_box, packed = np.full(2, np.inf), np.array([[0b10000000], [0b01000000]], np.uint8)
    >>> displaced_rows(np.zeros(2), packed, np.full(2, 0.5), -open_box, open_box, "float32").tolist()
    [[0.5, -0.5], [-0.5, 0.5]]
    """
    return _select(packed, *displaced_bounds(x, step, Box(lower, upper), dtype), x.shape)


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


def _shift(packed: NDArray[np.uint8], x: NDArray[Any], step: np.floating, into: NDArray[Any] | None = None) -> NDArray[Any]:
    """x +- step by the sign bits, (m, \\*shape): eight features at a time from a table of the signs that a byte holds."""
    table = _byte_signs(x.dtype) * step
    rows = np.empty((len(packed), *x.shape), x.dtype) if into is None else into
    height = max(1, BLOCK_ELEMENTS // x.size)
    flat, base = rows.reshape(-1), x.ravel()
    if height > 1:
        base = np.tile(base, min(height, len(packed)))
    for start in range(0, len(packed), height):
        part, some = flat[start * x.size : (start + height) * x.size], packed[start : start + height]
        np.take(table, some, axis=0, out=part.reshape(*some.shape, 8), mode="clip")
        part += base[: part.size]
    return rows


def _signed_sum(packed: NDArray[np.uint8], weights: NDArray[np.float64], features: int) -> NDArray[np.float32]:
    """sum_t w_t s_t over (m, ceil(d / 8)) packed signs, (d,)."""
    table, short = _byte_signs(np.dtype(np.float32)), weights.astype(np.float32)
    total = np.empty(8 * packed.shape[1], np.float32)
    width = max(1, SUMMED_ELEMENTS // max(1, 8 * len(packed)))
    for start in range(0, packed.shape[1], width):  # all directions of some features: one product each
        part = packed[:, start : start + width]
        signs = np.take(table, part, axis=0, mode="clip").reshape(len(part), 8 * part.shape[1])
        np.matmul(short, signs, out=total[8 * start : 8 * (start + width)])
    return total[:features]


@lru_cache(maxsize=4)
def _byte_signs(dtype: np.dtype[Any]) -> NDArray[Any]:
    """(256, 8) signs that each byte holds, most significant first."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    return (2.0 * bits - 1.0).astype(dtype)


def _half_width(low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.float64]:
    """(high - low) / 2, exact."""
    width: NDArray[np.float64] = np.subtract(high, low, dtype=np.float64)
    width *= 0.5
    return width


def _half_widths(x: NDArray[Any], sizes: NDArray[Any], step: NDArray[Any], box: Box, dtype: str) -> Iterator[NDArray[Any]]:
    """Half-width of each feature's displacement by (n,) sizes of a step: (n, some) of the flattened features at a time."""
    flat, wide = x.ravel(), np.ravel(step)
    width = max(1, PIECE_ELEMENTS // len(sizes))
    for first in range(0, flat.size, width):
        some = slice(first, first + width)
        steps = in_model_numbers(sizes[:, None] * (wide if wide.size == 1 else wide[some]), dtype)
        near = box if box.boundless else Box(box.lower.ravel()[some], box.upper.ravel()[some])
        yield _half_width(*displaced_bounds(flat[some], steps, near, dtype))


class OneInputRows:
    """Rows that are built from one input ``x`` and fed as ``dtype``."""

    x: NDArray[Any]
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as the model is fed."""
        return int(self.x.size * np.dtype(self.dtype).itemsize)


@dataclass(frozen=True)
class DisplacedRows(OneInputRows):
    """Rows base +- step by packed signs; a device classifier builds them itself.

    Attributes:
        x: one input, shape \\*shape, d features.
        packed: (m, ceil(d / 8)) bits, most significant first, 1 for +.
        step: in the input's unit, shape \\*shape or one number for all, 0 where a feature is held.
        box: bounds.
        dtype: what the model is fed.
    """

    x: NDArray[Any]
    packed: NDArray[np.uint8]
    step: NDArray[np.float64]
    box: Box
    dtype: str

    def __len__(self) -> int:
        return len(self.packed)

    def build(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop``, (stop - start, \\*shape), those of ``displaced_rows`` bit for bit."""
        if self._one_step is not None:
            return _shift(self.packed[start:stop], self.x, self._one_step)
        return _select(self.packed[start:stop], *self._bounds, self.x.shape)

    def sent(self) -> NDArray[np.float64]:
        """Half-width of each feature's displacement as it was really sent, in the input's unit, shape \\*shape."""
        return self._half_width

    def combined(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """sum_t w_t row_t, (d,), over the first rows, for weights that add up to 0: to float32's precision, no row built.

        The base drops out, and what is left is each feature's half-width times a sum of signed weights.
        """
        return self._half_width.ravel() * _signed_sum(self.packed[: len(weights)], weights, self.x.size)

    @cached_property
    def _half_width(self) -> NDArray[np.float64]:
        if self._one_step is None:
            return _half_width(*self._bounds)
        pieces = _half_widths(self.x, np.ones(1), self._one_step, self.box, self.dtype)
        return np.concatenate([piece[0] for piece in pieces]).reshape(self.x.shape)

    @cached_property
    def _bounds(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return displaced_bounds(self.x, self.step, self.box, self.dtype)

    @cached_property
    def _one_step(self) -> Any:
        """The step in the model's numbers, where it is one for all features and gives the two values bit for bit."""
        if self.x.dtype != self.dtype or self.x.size % 8:
            return None
        step = self.x.dtype.type(np.ravel(self.step)[0])
        if self.box.boundless:
            return step if (self.step == step).all() else None
        low, high = self._bounds
        return step if np.array_equal(self.x - step, low) and np.array_equal(self.x + step, high) else None


@dataclass(frozen=True)
class RungRows(OneInputRows):
    """Rows base +- size * step by packed signs, the same signs for each of several sizes: rung by rung.

    Attributes:
        x: one input, shape \\*shape, d features.
        packed: (m, ceil(d / 8)) bits, most significant first, 1 for +.
        step: in the input's unit, shape \\*shape or what broadcasts to it, 0 where a feature is held.
        sizes: (n,) multiples of the step; n m rows in all.
        box: bounds.
        dtype: what the model is fed.
        ends: (n, \\*shape) the two values of each feature on every rung, where they are kept.

    >>> box = Box(np.array([-np.inf]), np.array([np.inf]))
    >>> packed = np.array([[0b10000000], [0]], np.uint8)
    >>> RungRows(np.zeros(1), packed, np.ones(1), np.array([0.5, 0.25]), box, "float64").build(0, 4).tolist()
    [[0.5], [-0.5], [0.25], [-0.25]]
    """

    x: NDArray[Any]
    packed: NDArray[np.uint8]
    step: NDArray[np.float64]
    sizes: NDArray[np.float64]
    box: Box
    dtype: str
    ends: tuple[NDArray[Any], NDArray[Any]] | None = None

    def __len__(self) -> int:
        return len(self.sizes) * len(self.packed)

    def build(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop``, (stop - start, \\*shape); the rungs that they lie on are built whole."""
        m = len(self.packed)
        first, last = start // m, -(-stop // m)
        rows = np.empty(((last - first) * m, *self.x.shape), self.dtype)
        self.write(first * m, last * m, rows)
        return rows[start - first * m : stop - first * m]

    def write(self, start: int, stop: int, into: NDArray[Any]) -> None:
        r"""The same into (stop - start, \*shape) of one piece, for whole rungs: both are multiples of m."""
        m, done = len(self.packed), 0
        if self._one_step:
            steps = self._steps(start // m, stop // m).astype(self.x.dtype)
            if self._few_signs:
                rungs = into.reshape(len(steps), m, *self.x.shape)
                np.multiply(self._signs, steps[:, None], out=rungs)
                rungs += self.x
                return
            for step in steps.ravel():
                _shift(self.packed, self.x, step, into[done : done + m])
                done += m
            return
        for low, high in self._ends(start // m, stop // m):
            _select(self.packed, low, high, self.x.shape, into[done : done + len(low) * m])
            done += len(low) * m

    def sent(self) -> Iterator[NDArray[np.float64]]:
        """Half-width of each feature's displacement as it was really sent, (n, some) of the flattened features at a time.

        In the input's unit; all features in their order.
        """
        if self.ends is not None:
            yield _half_width(*self.ends).reshape(len(self.sizes), -1)
            return
        step = self.step.ravel()[:1] if self._even else self.step
        yield from _half_widths(self.x, self.sizes, step, self.box, self.dtype)

    def _ends(self, first: int, last: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """The two values of each feature on some rungs."""
        if self.ends is not None:
            yield self.ends[0][first:last], self.ends[1][first:last]
            return
        count = max(1, BLOCK_ELEMENTS // self.x.size)
        for at in range(first, last, count):
            yield displaced_bounds(self.x, self._steps(at, min(at + count, last)), self.box, self.dtype)

    def _steps(self, first: int, last: int) -> NDArray[Any]:
        r"""(n, \*shape) steps of some rungs in the model's numbers, or (n, 1, ...) where all features have the same."""
        if self._even:
            return self._even_steps[first:last]
        sizes = self.sizes[first:last].reshape(-1, *([1] * self.x.ndim))
        return in_model_numbers(sizes * self.step, self.dtype)

    @property
    def _even_steps(self) -> NDArray[Any]:
        steps = in_model_numbers(self.sizes * self.step.ravel()[0], self.dtype)
        return steps.reshape(-1, *([1] * self.x.ndim))

    @property
    def _signs(self) -> NDArray[Any]:
        r"""(m, \*shape), where one step serves all features."""
        signs = _byte_signs(self.x.dtype).take(self.packed, axis=0).reshape(len(self.packed), -1)
        return signs[:, : self.x.size].reshape(len(self.packed), *self.x.shape)

    @property
    def _few_signs(self) -> bool:
        """Whether the signs take little memory."""
        return len(self.packed) * self.x.size <= BLOCK_ELEMENTS

    @property
    def _even(self) -> bool:
        """Whether all features have the same step."""
        return self.step.size == 1 or bool((self.step == self.step.ravel()[0]).all())

    @property
    def _one_step(self) -> bool:
        """Whether a row is the input with one number added or taken off."""
        whole_bytes = self.x.size % 8 == 0 or self._few_signs
        return self._even and self.x.dtype == self.dtype and whole_bytes and self.box.boundless


def rung_rows_of_each(
    x: Sequence[NDArray[Any]],
    packed: Sequence[NDArray[np.uint8]],
    step: NDArray[np.float64],
    sizes: NDArray[np.float64],
    box: Box,
    dtype: str,
) -> tuple[list[RungRows], Iterable[NDArray[np.float64]]]:
    """``RungRows`` of several inputs, or of one wide one, at (inputs, n) sizes; and what they send, as ``RungRows.sent``.

    The values of their features are kept where they are few.

    >>> box, packed = Box(np.array([-np.inf]), np.array([np.inf])), np.array([[0b10000000], [0]], np.uint8)
    >>> (rows,), sent = rung_rows_of_each([np.zeros(1)], [packed], np.ones(1), np.array([[0.5, 0.25]]), box, "float64")
    >>> rows.build(0, 4).tolist(), [piece.tolist() for piece in sent]
    ([[0.5], [-0.5], [0.25], [-0.25]], [[[0.5], [0.25]]])
    """
    if sizes.size * x[0].size > BLOCK_ELEMENTS:
        (one,), (signs,), (own,) = x, packed, sizes
        rows = RungRows(one, signs, step, own, box, dtype)
        return [rows], rows.sent()
    steps = in_model_numbers(sizes.reshape(*sizes.shape, *([1] * x[0].ndim)) * step, dtype)
    low, high = displaced_bounds(np.stack(x)[:, None], steps, box, dtype)
    each = zip(x, packed, sizes, zip(low, high, strict=True), strict=True)
    blocks = [RungRows(one, signs, step, own, box, dtype, ends) for one, signs, own, ends in each]
    return blocks, [_half_width(low, high).reshape(sizes.size, -1)]
