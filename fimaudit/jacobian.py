"""Few features: the whole Jacobian, feature by feature, with two step sizes that must agree.

With d features and room for 4 d rows, central differences at two step sizes; with room for 2 d (or d) rows, central (or
forward) differences at one, and the second step size only along the directions that decide the numbers: to first order the
error of a norm is the error of the Jacobian along its own top direction.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from fimaudit.directions import CoordinateRows, PlainRows, Rows, displaced_bounds
from fimaudit.domain import Space
from fimaudit.estimates import Estimate, estimate_basis
from fimaudit.secants import complete, log_probabilities, visible_classes
from fimaudit.temperature import peak_temperature, temper

__all__ = ["fits", "whole_jacobian"]

Array = NDArray[np.float64]

#: Directions along which the second step size is measured when there is no room for all: one for each number.
DECISIVE = 3


def fits(features: int, rows: int) -> bool:
    """Whether ``rows`` displaced rows suffice for the whole Jacobian and its check."""
    return features + 2 * DECISIVE <= rows or 4 * features <= rows


def whole_jacobian(
    x: NDArray[np.floating], space: Space, rho: float, rows: int, base: Array
) -> Generator[Rows, Array, tuple[str, Estimate | None, int, float]]:
    """Measure every feature: (method, estimate, rows used with the base row, step of one feature).

    Args:
        x: the input.
        space: its domain.
        rho: l2 length that a displacement of all features would have; each feature moves rho / sqrt(d).
        rows: displaced rows allowed; ``fits`` holds.
        base: (K,) probabilities at x.
    """
    d, top = space.features, int(np.argmax(base))
    done = complete(base[None], top)[0]
    if 4 * d <= rows:
        coarse, one = yield from _central(x, space, rho, top)
        fine, two = yield from _central(x, space, rho / 2, top)
        estimate = estimate_basis(done, _halves(fine), _halves(coarse))
        return "basis-central", estimate, 1 + one + two, rho / np.sqrt(d)
    central = 2 * d + 2 * DECISIVE <= rows
    if central:
        first, used = yield from _central(x, space, rho, top)
    else:
        first, used = yield from _forward(x, space, rho, base, top)
    second, more = yield from _along(x, space, rho, first, done, top)
    estimate = estimate_basis(done, _halves(first), _halves(second))
    return "basis-central" if central else "basis-forward", estimate, 1 + used + more, rho / np.sqrt(d)


def _features(p: Array, top: int, visible: NDArray[np.bool_]) -> Array:
    """(m, 2 K): 2 sqrt(p) beside log p, NaN where a class is not visible."""
    done = complete(p, top)
    logs = np.full_like(done, np.nan)
    if visible[top]:
        classes = np.flatnonzero(visible)
        logs[:, classes] = log_probabilities(done[:, classes], int(np.searchsorted(classes, top)))
    return np.hstack([2.0 * np.sqrt(done), logs])


def _halves(jacobian: Array) -> tuple[Array, Array]:
    k = jacobian.shape[1] // 2
    return jacobian[:, :k], jacobian[:, k:]


def _ends(x: NDArray[np.floating], space: Space, rho: float) -> tuple[NDArray[np.int64], NDArray, NDArray]:  # type: ignore[type-arg]
    low, high = displaced_bounds(x, space.step(rho), space.lower, space.upper, space.dtype)
    free = np.flatnonzero(~space.frozen.ravel())
    return free, low.ravel()[free], high.ravel()[free]


def _central(x: NDArray[np.floating], space: Space, rho: float, top: int) -> Generator[Rows, Array, tuple[Array, int]]:
    free, low, high = _ends(x, space, rho)
    answers = yield CoordinateRows(x, np.tile(free, 2), np.concatenate([low, high]), space.dtype)
    table = _features(answers, top, visible_classes(complete(answers, top)))
    sent = (high.astype(np.float64) - low.astype(np.float64)) / space.scale.ravel()[free]
    return (table[len(free) :] - table[: len(free)]) / np.where(sent == 0, np.inf, sent)[:, None], 2 * len(free)


def _forward(
    x: NDArray[np.floating], space: Space, rho: float, base: Array, top: int
) -> Generator[Rows, Array, tuple[Array, int]]:
    free, low, high = _ends(x, space, rho)
    here = x.astype(space.dtype).ravel()[free]
    far = np.where(np.abs(high - here) >= np.abs(low - here), high, low)
    answers = yield CoordinateRows(x, free, far, space.dtype)
    both = np.vstack([base[None], answers])
    table = _features(both, top, visible_classes(complete(both, top)))
    sent = (far.astype(np.float64) - here.astype(np.float64)) / space.scale.ravel()[free]
    return (table[1:] - table[0]) / np.where(sent == 0, np.inf, sent)[:, None], len(free)


def _along(
    x: NDArray[np.floating], space: Space, rho: float, first: Array, base: Array, top: int
) -> Generator[Rows, Array, tuple[Array, int]]:
    """The Jacobian corrected along the directions that decide norm, peak and radius, by direct central differences."""
    free = ~space.frozen.ravel()
    scale = space.scale.ravel()[free]
    unit = _decisive(first, base, top)
    length = rho / np.sqrt(space.features)
    lower, upper = space.lower.ravel()[free], space.upper.ravel()[free]
    here = x.ravel()[free].astype(np.float64)
    ends = []
    for sign in (-1.0, 1.0):
        rows = np.repeat(x.astype(space.dtype).reshape(1, -1), len(unit), axis=0)
        rows[:, free] = np.clip(here + sign * length * scale * unit, lower, upper).astype(space.dtype)
        ends.append(rows)
    answers = yield PlainRows(np.concatenate(ends).reshape(2 * len(unit), *x.shape))
    table = _features(answers, top, visible_classes(complete(answers, top)))
    sent = (ends[1][:, free].astype(np.float64) - ends[0][:, free].astype(np.float64)) / scale
    miss = (table[len(unit) :] - table[: len(unit)]) - sent @ first
    return first + np.linalg.pinv(sent) @ miss, 2 * len(unit)


def _decisive(jacobian: Array, base: Array, top: int) -> Array:
    """Unit input directions, in units of the scale: top of the Fisher information, of its peak, and the nearest margin."""
    roots, logs = _halves(jacobian)
    found = [np.linalg.svd(roots, full_matrices=False)[0][:, 0]]
    classes = np.flatnonzero(np.isfinite(logs).all(axis=0))
    if len(classes) >= 2 and top in classes and logs[:, classes].any():
        place = int(np.searchsorted(classes, top))
        slopes, log_p = logs[:, classes], log_probabilities(base[None, classes], place)[0]
        z = temper(slopes, log_p, peak_temperature(slopes, log_p))
        found.append(np.linalg.svd(z, full_matrices=False)[0][:, 0])
        others = np.delete(np.arange(len(classes)), place)
        odds = slopes[:, [place]] - slopes[:, others]
        norms = np.linalg.norm(odds, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            nearest = int(np.argmin(np.where(norms > 0, (log_p[place] - log_p[others]) / norms, np.inf)))
        if norms[nearest] > 0:
            found.append(odds[:, nearest] / norms[nearest])
    return np.array(found)
