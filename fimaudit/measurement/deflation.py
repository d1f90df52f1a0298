"""Deflation: a few directions measured exactly, random ones in their complement.

With orthonormal rows U (q, d) and directions v of their complement, E[v v^T] = I - U^T U,

    G = 4 J_s J_s^T = C^T C + E[S],   C = 2 (J_s U^T)^T,

whatever U is, so the estimate is as unbiased as without it; only the second part carries sampling noise. It pays where U
catches more of the energy than the rows that it costs are worth. Exact secants are central differences, two rows each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.predictable import TINY
from fimaudit.measurement.counterexample import Slope
from fimaudit.measurement.energy import MAIN
from fimaudit.perturbations.orthonormal_rows import OrthonormalRows, orthonormal_fits, orthonormal_signs
from fimaudit.perturbations.random_signs import generator, packed_signs
from fimaudit.perturbations.sign_rows import BLOCK_ELEMENTS
from fimaudit.space import Box, Space

__all__ = ["RANDOM", "DeflatedRows", "Gradient", "deflated_gradient", "deflated_rows", "lift", "project"]

Array = NDArray[np.float64]

#: Exact secants go this many steps of one random feature to each side: no longer in the output than a random direction, and
#: with as little noise as all random ones together at eight of them.
EXACT_STEP = 2.0
#: Random rows that an input keeps at least: fewer have no upper limit at 95 %.
RANDOM = 8
#: Doublings of it where the model's numbers are too coarse for the small steps of each feature, and what is coarse.
DOUBLINGS, DISTORTION = 4, 0.05


def project(directions: NDArray[Any], subspace: NDArray[Any]) -> NDArray[Any]:
    """v - U^T U v for each row v: (m, d) and orthonormal (q, d) to (m, d)."""
    out = (directions @ subspace.T) @ subspace
    return np.asarray(np.subtract(directions, out, out=out))


def lift(coordinates: Array, subspace: Array) -> Array:
    """Rows (m, d - q) as vectors of the complement of orthonormal (q, d), by a map that keeps lengths and angles.

    A block reflection H = I - 2 Z (Z^T Z)^-1 Z^T takes the first q axes E to B R, B = U^T: Z = B R - E, with R such that
    E^T B R = -P is negative semidefinite. Then Z^T Z = 2 (I + P), which is never near singular.
    """
    q = len(subspace)
    left, _, right = np.linalg.svd(subspace[:, :q].T)
    z = subspace.T @ -(right.T @ left.T)
    z[:q] -= np.eye(q)
    out = np.hstack([np.zeros((len(coordinates), q)), coordinates])
    out -= 2.0 * (coordinates @ z[q:]) @ np.linalg.solve(z.T @ z, z.T)
    return out


@dataclass(frozen=True)
class DeflatedRows:
    """Rows base + step * direction with random directions of the complement of a subspace; ``exact`` holds those along it.

    The base is x moved inward just enough for all of them to lie in the box.

    Attributes:
        x: the input.
        subspace: (q, d) orthonormal rows over the features that may change, in units of the scale.
        packed: (m, ceil(d / 8)) sign bits; ``None`` for orthonormal directions.
        table: (m, d) orthonormal directions of length sqrt(d - q); ``None`` for signs.
        size: step of each feature, in units of the scale.
        space: the domain.
    """

    x: NDArray[Any]
    subspace: Array
    packed: NDArray[np.uint8] | None
    table: Array | None
    size: float
    space: Space

    @property
    def row_bytes(self) -> int:
        return int(self.x.size * np.dtype(self.space.dtype).itemsize)

    @property
    def features(self) -> int | None:
        """Dimension of the complement where directions are orthonormal in it, else ``None``."""
        return None if self.table is None else self.subspace.shape[1] - len(self.subspace)

    def __len__(self) -> int:
        return len(self.table) if self.table is not None else len(self._bits)

    def directions(self, start: int, stop: int) -> NDArray[Any]:
        """Directions ``start:stop``, (stop - start, d), over the features that may change in units of the scale."""
        if self.table is not None:
            return self.table[start:stop]
        # Matrix products round by the shape of their blocks: always the same blocks, whatever piece is asked for.
        height = self.height
        first, last = start // height, -(-stop // height)
        pieces = [self._projected(k * height) for k in range(first, last)]
        return np.concatenate(pieces)[start - first * height : stop - first * height]

    def _projected(self, start: int) -> NDArray[Any]:
        """One block of projected signs."""
        signs = np.unpackbits(self._bits[start : start + self.height], axis=1, count=self.subspace.shape[1])
        directions = signs.astype(self._work)
        directions *= 2
        directions -= 1
        return project(directions, self._subspace)

    @property
    def _work(self) -> type[np.floating[Any]]:
        """Precision in which rows are built."""
        return np.float32 if np.dtype(self.space.dtype).itemsize <= 4 else np.float64

    @cached_property
    def _subspace(self) -> NDArray[Any]:
        return np.asarray(self.subspace, dtype=self._work)

    @property
    def height(self) -> int:
        """Rows of a block that stays in the cache."""
        return max(1, BLOCK_ELEMENTS // len(self._free))

    def build(self, start: int, stop: int) -> NDArray[Any]:
        """See ``Rows``."""
        return self._placed(self.directions(start, stop) * self._work(self.size))

    @cached_property
    def fits(self) -> bool:
        """Whether the box leaves room for the displacements."""
        return bool((self._middle - self._room >= self._low).all() and (self._middle + self._room <= self._high).all())

    @cached_property
    def exact(self) -> tuple[NDArray[Any], float]:
        """(2 q, \\*shape) rows a step along each direction and a step against it, and its l2 length; 0 when too coarse."""
        for doubling in range(DOUBLINGS):
            step = EXACT_STEP * self.size * 2.0**doubling
            rows = self._placed(step * np.concatenate([self.subspace, -self.subspace]))
            flat = rows.reshape(len(rows), -1)[:, self._free].astype(np.float64)
            sent = (flat[: len(self.subspace)] - flat[len(self.subspace) :]) / (2.0 * step * self._scale)
            if float(np.abs(((sent - self.subspace) ** 2).sum(axis=1)).max()) <= DISTORTION**2:
                return rows, step
        return rows[:0], 0.0

    def _placed(self, moves: NDArray[Any]) -> NDArray[Any]:
        """Rows around the middle, displaced by (m, d) in units of the scale."""
        moved = moves if self._unscaled else moves * self._scale.astype(moves.dtype)
        moved = np.asarray(moved + self._middle.astype(moves.dtype), dtype=self.space.dtype)
        if self.space.bounded:  # rounding may step over the edge
            np.clip(moved, self._low.astype(self.space.dtype), self._high.astype(self.space.dtype), out=moved)
        if len(self._free) == self.x.size:
            return np.reshape(moved, (len(moves), *self.x.shape))
        rows = np.repeat(self.x.astype(self.space.dtype).reshape(1, -1), len(moves), axis=0)
        rows[:, self._free] = moved
        return rows.reshape(len(moves), *self.x.shape)

    @cached_property
    def _unscaled(self) -> bool:
        """Whether every feature counts as it is."""
        return bool((self._scale == 1.0).all())

    @property
    def _bits(self) -> NDArray[np.uint8]:
        assert self.packed is not None
        return self.packed

    @cached_property
    def _free(self) -> NDArray[np.int64]:
        return np.flatnonzero(~self.space.frozen.ravel())

    @cached_property
    def _scale(self) -> Array:
        return self.space.scale.ravel()[self._free]

    @cached_property
    def _low(self) -> Array:
        return self.space.lower.ravel()[self._free]

    @cached_property
    def _high(self) -> Array:
        return self.space.upper.ravel()[self._free]

    @cached_property
    def _room(self) -> Array:
        """The longest displacement of each feature, in units of the input."""
        most = EXACT_STEP * np.abs(self.subspace).max(axis=0)
        for start in range(0, len(self), self.height):
            most = np.maximum(most, np.abs(self.directions(start, min(start + self.height, len(self)))).max(axis=0))
        return np.asarray(self.size * self._scale * most)

    @cached_property
    def _middle(self) -> Array:
        base = self.x.ravel()[self._free].astype(np.float64)
        if not self.space.bounded:
            return base
        room = np.minimum(self._room, (self._high - self._low) / 2)
        return np.clip(base, self._low + room, self._high - room)


def deflated_rows(
    x: NDArray[Any],
    index: int,
    space: Space,
    rho: float,
    count: int,
    seed: int,
    subspace: Array,
    stream: int = MAIN,
    *,
    orthogonal: bool = True,
) -> DeflatedRows | None:
    """The rows of one input; ``None`` where deflation does not serve there: a box too narrow, numbers too coarse.

    Args:
        x, index, space: the input.
        rho: l2 length that a random displacement of all features has, in units of the scale.
        count: random directions.
        seed: of the audit.
        subspace: (q, d) orthonormal rows.
        stream: of random numbers.
        orthogonal: whether the random directions may be orthogonal to each other, as serves linear answers.
    """
    d, left = subspace.shape[1], subspace.shape[1] - len(subspace)
    size = rho / float(np.sqrt(d))
    rng = generator(seed, index, stream)
    if orthogonal and orthonormal_fits(min(count, left - 1), left):
        count = min(count, left - 1)
        open_box = np.full(left, np.inf)
        inner = OrthonormalRows(
            np.zeros(left), *orthonormal_signs(rng, count, left), np.ones(left), Box(-open_box, open_box), "float64", seed
        )
        rows = DeflatedRows(x, subspace, None, lift(inner.build(0, count), subspace), size, space)
    else:
        rows = DeflatedRows(x, subspace, packed_signs(rng, count, d), None, size, space)
    return rows if (not space.bounded or rows.fits) and rows.exact[1] > 0 else None


@dataclass(frozen=True)
class Gradient:
    """The gradient of a log-odds from exact and random secants, over the features that may change, in units of the scale.

    Attributes:
        known: (d,) its part in the subspace.
        sampled: (d,) an unbiased estimate of the rest.
        like: how many random directions alone would leave as much noise.
        weight: of the second part, for the direction nearest to the true one: its share that is no noise.
        cosine: expected, of that direction with the true one.
    """

    known: Array
    sampled: Array
    like: int
    weight: float
    cosine: float

    @property
    def whole(self) -> Array:
        """The unbiased estimate."""
        return self.known + self.sampled

    def slope(self, radius: float) -> Slope:
        """A way to the changed decision whose first-order distance is ``radius``."""
        return Slope(self.known + self.weight * self.sampled, float(radius / self.cosine))


def deflated_gradient(rows: DeflatedRows, step: float, odds: Array, ends: Array) -> Gradient:
    """From the log-odds at the random rows, and their differences between both ends of each exact direction.

    The noise of the sampled part r has energy nu |r|^2, nu = (d - q) / m, less 1 for orthonormal directions; weighted by
    1 / (1 + nu), the two parts leave cos^2 = (|c|^2 + |r|^2 / (1 + nu)) / (|c|^2 + |r|^2).

    Args:
        rows: the rows.
        step: of the exact directions, in units of the scale.
        odds: (m,).
        ends: (q,).
    """
    exact_part = ends / (2.0 * step)
    secants = (odds - odds.mean()) / rows.size
    m, left = len(odds), rows.subspace.shape[1] - len(rows.subspace)
    total = np.zeros(rows.subspace.shape[1])
    for start in range(0, m, rows.height):
        stop = min(start + rows.height, m)
        total += secants[start:stop] @ rows.directions(start, stop)
    exact, rest = float((exact_part**2).sum()), float((secants**2).sum()) / max(m - 1, 1)
    noise = max(left / m - (0.0 if rows.features is None else 1.0), 0.0)
    whole, weight = max(exact + rest, TINY), 1.0 / (1.0 + noise)
    cosine = float(np.sqrt(max((exact + weight * rest) / whole, TINY)))
    like = round(m * whole / max(rest, 1e-3 * whole))
    return Gradient(exact_part @ rows.subspace, total / max(m - 1, 1), like, weight, cosine)
