"""The domain of one model and data set, fixed: bounds, levels, frozen features and scale of each feature, as arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import DataError

__all__ = ["Box", "FreeFeatures", "Space", "column_pieces", "in_model_numbers", "sparsest_step"]

Array = NDArray[np.float64]

#: A feature moves in at least this share of the rows, so that 200 rows meet it eight times.
SPARSEST = 0.04
#: And this many features move in a row, where there are so many.
MOVING = 8
#: Numbers of a piece that stays in the cache, and the fewest features of one.
PIECE, FEWEST_COLUMNS = 2**16, 128
#: Values outside the bounds by less than this share of the range are float error and are clipped.
EDGE = 1e-6


@dataclass(frozen=True, eq=False)
class Box:
    """Bounds of each feature, shape \\*shape, infinite where there are none."""

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]

    @cached_property
    def boundless(self) -> bool:
        """Whether no feature has a bound."""
        return bool(np.max(self.lower) == -np.inf and np.min(self.upper) == np.inf)


def in_model_numbers(step: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """Steps that a model of float32 can hold, whatever they are added to: the sum then rounds once; others as they are."""
    wide = np.asarray(step, np.float64)
    return wide.astype(np.float32).astype(np.float64) if np.dtype(dtype) == np.float32 else wide


def column_pieces(inputs: int, features: int) -> Iterator[slice]:
    """Some features at a time, for what is worked out for each over all inputs: so many that it stays in the cache.

    >>> [(some.start, some.stop) for some in column_pieces(2**10, 300)]
    [(0, 128), (128, 256), (256, 384)]
    """
    width = max(FEWEST_COLUMNS, PIECE // max(1, inputs))
    return (slice(first, first + width) for first in range(0, features, width))


def sparsest_step(quantum: NDArray[np.float64]) -> float:
    """The shortest root mean square step of a feature that levels allow.

    Args:
        quantum: (d,) distance of neighbouring values, in units of the scale; 0 for continuous features.
    """
    coarse = float(quantum.max(initial=0.0))
    share = min(1.0, max(SPARSEST, MOVING / quantum.size))
    return coarse * float(np.sqrt(share))


class FreeFeatures(NamedTuple):
    """The features that may change, as they stand in a flat input.

    Attributes:
        place: where; a slice where all of them may.
        scale, quantum, lower, upper: theirs, (d,).
        plain: whether each counts as it is, has no levels and no bound.
    """

    place: NDArray[np.int64] | slice
    scale: Array
    quantum: Array
    lower: Array
    upper: Array
    plain: bool


@dataclass(frozen=True)
class Space:
    """An ``InputDomain`` fixed for one model and data set; arrays have the shape of one input.

    ``marks`` are numbers that stand for missing ones, NaN where there is none.
    """

    lower: Array
    upper: Array
    quantum: Array
    frozen: NDArray[np.bool_]
    scale: Array
    unit: str
    dtype: str
    marks: Array | None = None

    @cached_property
    def features(self) -> int:
        """How many features may change: the dimension d of the measurement."""
        return int((~self.frozen).sum())

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """(d,) where the features that may change stand in a flat input."""
        return np.flatnonzero(~self.frozen)

    @cached_property
    def free(self) -> FreeFeatures:
        """The features that may change."""
        frozen = self.frozen.ravel()
        place = self.positions if frozen.any() else slice(None)
        scale, quantum, lower, upper = (of.ravel()[place] for of in (self.scale, self.quantum, self.lower, self.upper))
        plain = self._plain and not self.quantised and not self.bounded
        return FreeFeatures(place, scale, quantum, lower, upper, plain)

    @cached_property
    def box(self) -> Box:
        """The bounds of each feature."""
        return Box(self.lower, self.upper)

    def beside(self, held: int) -> Space:
        """The domain of flat rows with so many numbers behind, which are held."""
        if not held:
            return self

        def longer(values: NDArray[Any], fill: Any) -> NDArray[Any]:
            return np.concatenate([values.ravel(), np.full(held, fill, dtype=values.dtype)])

        bounds = longer(self.lower, -np.inf), longer(self.upper, np.inf)
        rest = longer(self.quantum, 0.0), longer(self.frozen, True), longer(self.scale, 1.0)
        marks = None if self.marks is None else longer(self.marks, np.nan)
        return Space(*bounds, *rest, self.unit, self.dtype, marks)

    def missing(self, x: NDArray[Any]) -> NDArray[np.bool_] | None:
        """The gaps of one input, shape \\*shape, or of several; ``None`` where there are none."""
        gaps = np.isnan(x) if x.dtype.kind == "f" else None
        if self.marks is not None:
            gaps = (x == self.marks) | (False if gaps is None else gaps)
        return gaps if gaps is not None and gaps.any() else None

    def holding(self, x: NDArray[Any]) -> Space:
        """The domain of one input: its gaps are held as they are."""
        gaps = self.missing(x)
        if gaps is None:
            return self
        if self.marks is None:
            return replace(self, frozen=self.frozen | gaps)
        lower, upper = np.where(gaps, -np.inf, self.lower), np.where(gaps, np.inf, self.upper)  # a mark may lie beyond
        return replace(self, frozen=self.frozen | gaps, lower=lower, upper=upper)

    @property
    def bounded(self) -> bool:
        """Whether any feature has a bound."""
        return not self.box.boundless

    @cached_property
    def quantised(self) -> bool:
        """Whether a feature that may change takes certain levels only."""
        return bool((self.quantum[~self.frozen] > 0).any())

    @cached_property
    def shortest(self) -> float:
        """The shortest displacement that levels allow (see ``levels``); 0 for continuous inputs."""
        if not self.quantised:
            return 0.0
        return sparsest_step((self.quantum / self.scale)[~self.frozen]) * float(np.sqrt(self.features))

    def step(self, displacement: float) -> Array:
        """Step of each feature whose displacement has l2 length ``displacement`` in units of the scale.

        For a model of float32 it is a float32 number, so that adding it to a feature rounds once.
        """
        return self._of_length(self.unit_step, displacement)

    def shared_step(self, displacement: float) -> Array:
        """``step``, as one number of as many axes as an input where all features have the same."""
        return self._of_length(self.even_step, displacement)

    def _of_length(self, unit: Array, displacement: float) -> Array:
        return in_model_numbers(unit * (displacement / math.sqrt(self.features)), self.dtype)

    @cached_property
    def unit_step(self) -> Array:
        """One unit of the scale for each feature that may change."""
        return np.where(self.frozen, 0.0, self.scale)

    @cached_property
    def even_step(self) -> Array:
        """The same as one number, of as many axes as an input, where all features have the same."""
        unit = self.unit_step
        return unit.ravel()[:1].reshape([1] * unit.ndim) if (unit == unit.ravel()[0]).all() else unit

    @cached_property
    def _plain(self) -> bool:
        """Whether every feature may change and counts as it is."""
        return not self.frozen.any() and bool((self.scale == 1.0).all())

    def inward(self, x: NDArray[Any], displacement: float) -> float:
        """How far, in units of the scale, the base moves away from the edges of the box for such a displacement."""
        if not self.bounded:
            return 0.0
        step = self.step(displacement)
        base = np.clip(x, np.minimum(self.lower + step, self.upper), np.maximum(self.upper - step, self.lower))
        return float(np.linalg.norm(((base - x) / self.scale)[~self.frozen]))

    def farthest(self, x: NDArray[Any]) -> float:
        """The largest displacement of x within the bounds, in units of the scale; infinite where there is no bound."""
        if not self.bounded:
            return np.inf
        room = np.maximum(x - self.lower, self.upper - x) / self.scale
        return float(np.linalg.norm(room[~self.frozen]))

    def length(self, sent: Array) -> float:
        """Root mean square of the steps really sent, in units of the scale, over the features that may change."""
        return float(self.lengths([sent.reshape(1, -1)])[0])

    def lengths(self, pieces: Iterable[Array]) -> Array:
        """``length`` of each of n, which are given as (n, some) of the flattened features at a time, in their order."""
        first: int = 0
        total: Any = 0.0
        for sent in pieces:
            moved = sent
            if not self._plain:
                some = slice(first, first + sent.shape[1])
                moved, first = (sent / self.scale.ravel()[some])[:, ~self.frozen.ravel()[some]], some.stop
            total = total + np.vecdot(moved, moved)
        return np.asarray(np.sqrt(total / self.features))

    def admit(self, x: NDArray[Any]) -> NDArray[Any]:
        """Inputs within the bounds: float error is clipped, anything beyond is refused.

        Raises:
            DataError: a value lies outside the bounds by more than float error.
        """
        if np.dtype(self.dtype).kind in "iu" and x.dtype.kind == "f" and np.isnan(x).any():
            raise DataError(
                f"the model takes {self.dtype}, in which nothing can be missing, but x has gaps (NaN); fill them"
            )
        if np.dtype(self.dtype).kind in "iu" and x.dtype.kind == "f" and not np.array_equal(x, np.round(x)):
            odd = x.ravel()[np.flatnonzero((x != np.round(x)).ravel())[0]]
            raise DataError(f"the model takes {self.dtype}, but x holds {float(odd):.6g}; give whole numbers")
        if not self.bounded:
            return x
        width = self.upper - self.lower
        slack = EDGE * np.where(np.isfinite(width), width, 1.0)
        outside = (x < self.lower - slack) | (x > self.upper + slack)
        gaps = self.missing(x)
        outside = outside if gaps is None else outside & ~gaps
        if outside.any():
            first = tuple(int(i) for i in np.argwhere(outside)[0])
            raise DataError(
                f"expected inputs within the bounds, got {float(x[first]):.6g} at position {list(first)} "
                f"(bounds {self.lower[first[1:]]:.6g} to {self.upper[first[1:]]:.6g}; {int(outside.sum())} values outside); "
                "check the preprocessing or the bounds"
            )
        if x.dtype.kind != "f":  # an open bound has no integer to stand for it
            clipped = np.clip(x, self.lower, self.upper).astype(x.dtype)
        else:
            clipped = np.clip(x, self.lower.astype(x.dtype), self.upper.astype(x.dtype))
        return np.asarray(clipped if gaps is None else np.where(gaps, x, clipped))
