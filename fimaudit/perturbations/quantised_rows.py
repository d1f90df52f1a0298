"""Displaced rows for inputs that only take certain levels (8-bit pixels, counts): whole levels up or down.

A feature that should move by h in the root mean square, while its neighbouring values are q apart, moves by q in a share
(h / q)^2 of the rows, and by one level more where h > q: the mean square is h^2 exactly, so E[v v^T] stays a multiple of the
identity for any mix of levels, scales and continuous features. Which rows those are is spread evenly over the rows (a
golden-ratio sequence from a random start for each feature), so that a feature that moves rarely moves reliably; the
sign is random and independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.perturbations.sign_rows import BLOCK_ELEMENTS, OneInputRows, moved_inward

__all__ = ["LevelRows"]

GOLDEN = (np.sqrt(5.0) - 1) / 2
#: At an edge of the box a feature moves one way while (h / q)^2 is below this, and the base moves inward above it. Both keep
#: to the levels and to h: test_conditions_inputs.test_levels_are_whole_within_the_box_and_of_the_size_they_say.
ONE_WAY = 3 / 16


@dataclass(frozen=True)
class LevelRows(OneInputRows):
    """Rows base + whole levels, by packed signs.

    With t = (h / q)^2 and f = floor(h / q), a feature moves by f levels, and in the share (t - f^2) / (2 f + 1) of the rows
    by f + 1. At an edge, for small t, it moves one level one way in the share p of the rows, p (1 - p) = t. A continuous
    feature moves by h.

    Attributes:
        x: one input, shape \\*shape, d features; its values count as levels.
        packed: (m, ceil(d / 8)) sign bits.
        phase: (m,) place of each row in the sequence; rows of equal phase move the same features.
        start: (d,) random starts in [0, 1).
        step: h, root mean square displacement of each feature in the input's unit, shape \\*shape, 0 where it is held.
        quantum: q, distance of neighbouring values likewise, 0 for continuous features.
        lower, upper: bounds, shape \\*shape.
        dtype: what the model is fed.

    >>> x, ones = np.array([0.0, 128.0, 255.0]), np.ones(3)
    >>> packed = np.array([[0b10100000], [0b01000000]], np.uint8)
    >>> LevelRows(x, packed, np.arange(2), np.zeros(3), ones, ones, 0 * ones, 255 * ones, "uint8").build(0, 2).tolist()
    [[2, 127, 255], [0, 129, 253]]
    """

    x: NDArray[Any]
    packed: NDArray[np.uint8]
    phase: NDArray[np.int64]
    start: NDArray[np.float64]
    step: NDArray[np.float64]
    quantum: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    dtype: str

    def __len__(self) -> int:
        return len(self.packed)

    def build(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start:stop``, (stop - start, \\*shape), rounded for whole-number dtypes."""
        centre, unit, floor, share, way = self._plan
        up = np.unpackbits(self.packed[start:stop], axis=1, count=self.x.size).view(np.bool_)
        place = (self.start[None] + GOLDEN * self.phase[start:stop, None]) % 1.0
        more = place < share
        levels = np.where(way == 0, np.where(up, 1.0, -1.0) * (floor + more), way * (more & up))
        rows = centre + unit * levels
        kind = np.dtype(self.dtype)
        if kind.kind in "iu":
            rows = np.round(rows)
        return np.asarray(rows.astype(kind).reshape(stop - start, *self.x.shape))

    def sent(self) -> NDArray[np.float64]:
        """Root mean square displacement of each feature as levels and box allow it, in the input's unit, shape \\*shape.

        sqrt((1 - s) f^2 + s (f + 1)^2) q with s the share of the rows that move one level more; sqrt(p (1 - p)) q one way.
        """
        _, unit, floor, share, way = self._plan
        both = (1 - share) * floor**2 + share * (floor + 1) ** 2
        one = share / 2 * (1 - share / 2)
        return np.asarray((unit * np.sqrt(np.where(way == 0, both, one))).reshape(self.x.shape))

    def combined(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """sum_t w_t row_t, (d,), over the first rows, for weights that add up to 0."""
        total, height = np.zeros(self.x.size), max(1, BLOCK_ELEMENTS // self.x.size)
        for start in range(0, len(weights), height):
            some = weights[start : start + height]
            total += some @ self.build(start, start + len(some)).reshape(len(some), -1).astype(np.float64)
        return total

    @cached_property
    def _plan(self) -> tuple[NDArray[np.float64], ...]:
        """Per feature: centre, unit, whole levels, share of rows with one level more, and the way of one-way features."""
        x = self.x.astype(np.float64).ravel()
        step, quantum = np.broadcast_to(self.step, self.x.shape).ravel(), self.quantum.ravel()
        lower, upper = self.lower.ravel(), self.upper.ravel()
        smooth = quantum == 0
        held = step == 0
        unit = np.where(held, 1.0, np.where(smooth, step, quantum))
        target = np.where(held, 0.0, (step / unit) ** 2)
        floor = np.where(smooth & ~held, 1.0, np.floor(np.sqrt(target) * (1 + 1e-9)))
        share = np.where(smooth, 0.0, np.clip((target - floor**2) / (2 * floor + 1), 0.0, 1.0))
        reach = floor + (share > 0)
        # A narrow box: whole levels that fit on both sides of some level.
        with np.errstate(invalid="ignore"):
            room = np.where(np.isfinite(upper - lower), np.floor((upper - lower) / unit + 1e-6), np.inf)
        most = np.floor(room / 2)
        tight = (reach > most) & ~held & ~smooth
        floor, share = np.where(tight, most, floor), np.where(tight, 0.0, share)
        below = np.where(smooth, 0.0, np.floor((x - lower) / unit + 1e-6))
        above = np.where(smooth, 0.0, np.floor((upper - x) / unit + 1e-6))
        near = ~smooth & ~held & ((below < 1) | (above < 1))
        one = near & ((target <= ONE_WAY) | (most < 1))
        way = np.where(one, np.where(above >= 1, 1.0, -1.0), 0.0)
        # p (1 - p) = target; p stays at or below a half.
        p = 0.5 - np.sqrt(np.maximum(0.25 - np.minimum(target, 0.25), 0.0))
        share = np.where(one, 2 * p, share)
        floor = np.where(one, 0.0, floor)
        reach = np.where(one, 0.0, np.where(share > 0, floor + 1, floor))
        inward = np.where(smooth, 0.0, np.maximum(reach - below, 0) - np.maximum(reach - above, 0)) * unit
        centre = np.where(one | held, x, x + np.where(np.isfinite(inward), inward, 0.0))
        # Continuous features among them: the box narrows the step, the base moves inward.
        base, narrow = moved_inward(x, step, lower, upper)
        unit = np.where(smooth & ~held, narrow, unit)
        centre = np.where(smooth & ~held, base, centre)
        unit = np.where(held, 0.0, unit)
        return centre, unit, floor, share, way
