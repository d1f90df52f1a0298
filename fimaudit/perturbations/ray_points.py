"""Displacements of one input as points, and as the rows that a model is sent: frozen features, scale, bounds, levels.

A point is (d,) the displacement of the features that may change, in units of the scale; the input is the origin. Where
features take certain levels only, a point is rounded at random, so that its mean is itself: the same random numbers for all
points of one search, so that a longer displacement never moves a feature less.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import idctn

from fimaudit.space import Space

__all__ = ["RayPoints", "band_limited"]

Array = NDArray[np.float64]

#: Axes of fewer entries than this are channels, not pixels.
PIXELS = 5


@dataclass(frozen=True)
class RayPoints:
    """From points to rows and back.

    Attributes:
        x: the input, shape \\*shape, within the domain.
        space: the domain.
    """

    x: NDArray[Any]
    space: Space

    @cached_property
    def free(self) -> NDArray[np.bool_]:
        """Which features may change, over the flattened input."""
        return ~self.space.frozen.ravel()

    @cached_property
    def origin(self) -> Array:
        """(d,) the input's own free features, in its unit, as the model is sent them."""
        return self._of(self.x.astype(self.space.dtype))

    @cached_property
    def lower(self) -> Array:
        """(d,) bounds of a point."""
        return (self._of(self.space.lower) - self.origin) / self.scale

    @cached_property
    def upper(self) -> Array:
        """(d,) bounds of a point."""
        return (self._of(self.space.upper) - self.origin) / self.scale

    @cached_property
    def scale(self) -> Array:
        """(d,) units of the free features."""
        return self._of(self.space.scale)

    @cached_property
    def levels(self) -> Array:
        """(d,) distance of neighbouring values in units of the scale, 0 where there are none."""
        return self._of(self.space.quantum) / self.scale

    def clipped(self, points: Array) -> Array:
        """The nearest points within the bounds."""
        return np.clip(points, self.lower, self.upper) if self.space.bounded else points

    def towards(self, other: NDArray[Any]) -> Array:
        """(d,) the point at which the free features are those of another input."""
        return (self._of(other.astype(self.space.dtype)) - self.origin) / self.scale

    def rows(self, points: Array, dither: NDArray[np.floating[Any]]) -> tuple[NDArray[Any], Array]:
        """The rows nearest to (m, d) points, and the points (m, d) that these rows are.

        Args:
            points: wanted.
            dither: in [0, 1), (d,) or (m, d): where a feature has levels it goes up from this fraction of one on.
        """
        kept = self.clipped(points)
        wanted = self.origin + kept * self.scale
        if self.space.quantised:
            quantum = self.levels * self.scale
            unit = np.where(quantum > 0, quantum, 1.0)
            moved = np.floor(kept * self.scale / unit + (1.0 - dither)) * unit
            wanted = np.where(quantum > 0, self.origin + moved, wanted)
            if self.space.bounded:
                wanted = np.clip(wanted, self._of(self.space.lower), self._of(self.space.upper))
        if np.dtype(self.space.dtype).kind in "iu":
            wanted = np.round(wanted)
        rows = np.repeat(self.x.astype(self.space.dtype).reshape(1, -1), len(points), axis=0)
        rows[:, self.free] = wanted.astype(self.space.dtype)
        sent = (rows[:, self.free].astype(np.float64) - self.origin) / self.scale
        return rows.reshape(len(points), *self.x.shape), sent

    def band(self, rng: np.random.Generator, count: int, keep: float) -> Array:
        """(count, d) random directions of low spatial frequency, see ``band_limited``."""
        return band_limited(rng, count, self.x.shape, keep)[:, self.free]

    def band_size(self, keep: float) -> int:
        """How many independent numbers such a direction has, at most the features that may change."""
        return min(int(np.prod(_frequencies(self.x.shape, keep))), int(self.free.sum()))

    def _of(self, values: NDArray[Any]) -> Array:
        return np.asarray(values.ravel()[self.free], dtype=np.float64)


def band_limited(rng: np.random.Generator, count: int, shape: tuple[int, ...], keep: float) -> Array:
    r"""Gaussian noise in the lowest share of the DCT frequencies along each axis of pixels, mean variance 1.

    Args:
        rng: random numbers.
        count: rows.
        shape: of one input; axes of fewer than five entries are channels, and an input of one axis has no frequencies.
        keep: share of the frequencies along an axis; 1 is white noise.

    Returns:
        (count, prod(shape)).

    >>> band_limited(np.random.default_rng(0), 2, (1, 8, 8), 0.25).shape
    (2, 64)
    """
    low = _frequencies(shape, keep)
    if low == list(shape):
        return np.asarray(rng.standard_normal((count, *shape), dtype=np.float32).reshape(count, -1), dtype=np.float64)
    axes = [axis for axis, size in enumerate(shape) if size >= PIXELS]
    wide = np.zeros((count, *shape))
    wide[(slice(None), *(slice(n) for n in low))] = rng.standard_normal((count, *low))
    noise = idctn(wide, axes=[axis + 1 for axis in axes], norm="ortho")
    return np.asarray(noise.reshape(count, -1) * np.sqrt(np.prod(shape) / np.prod(low)))


def _frequencies(shape: tuple[int, ...], keep: float) -> list[int]:
    """How many of the lowest frequencies are kept along each axis; all where there are no two axes of pixels."""
    axes = [axis for axis, size in enumerate(shape) if size >= PIXELS]
    if keep >= 1 or len(axes) < 2:
        return list(shape)
    return [max(1, int(np.ceil(keep * size))) if axis in axes else size for axis, size in enumerate(shape)]
