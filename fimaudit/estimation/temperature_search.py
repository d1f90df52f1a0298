"""The softmax temperature of the largest spectral norm: a coarse grid, a finer one in its best cells, a parabola."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.predictable import DENSE_CLASSES, TINY, longest_row
from fimaudit.estimation.tempering import power_steps, tempered_grams

__all__ = [
    "FINE",
    "GRID",
    "SHARPENED",
    "WIDE",
    "RowMoments",
    "TemperatureSearch",
    "Which",
    "highest_peak",
    "highest_place",
    "peak_temperature",
    "start_temperature",
]

Array = NDArray[np.float64]
#: Of inputs worked on together, all or some.
Which = EllipsisType | NDArray[np.bool_]
#: lambda_T at temperatures (..., n) of all inputs or some.
Tops = Callable[[Array, Which], Array]

#: For two classes the peak lies where the gap of log p is 2.4 T; more classes move it, up to a factor of a few.
#: Seven cells, then seven within the best: within 0.5 % of a dense scan (tests/estimation/test_temperature.py).
TWO_CLASS_GAP = 2.4
GRID = np.exp(np.linspace(np.log(1 / 8), np.log(8.0), 7))
FINER = np.exp(np.linspace(np.log(GRID[2]), np.log(GRID[4]), 7))


class Grid(NamedTuple):
    """Temperatures as factors of one in their middle, and the factor by which they are moved towards a maximum at an end."""

    factors: Array
    shift: float


#: For random directions, whose sampling error is larger than what smaller cells would find.
COARSE, FINE = Grid(GRID, float(GRID[-2])), Grid(FINER, float(FINER[-2] / FINER[1]))
#: Without sampling error, as from derivatives: more cells to begin with, and two more parabolas, the last to rounding.
WIDE = Grid(np.exp(np.linspace(-2.8, 2.8, 17)), float(np.exp(1.4)))
SHARPENED = tuple(Grid(np.exp([-step, 0.0, step]), float(np.exp(step))) for step in (0.02, 1e-3))
#: Many classes: rows, spread over all, from which a coarse grid is placed.
COARSE_ROWS = 48
#: Many classes: power steps to place a temperature roughly, and for the direction from which those beside it are found.
ROUGH_STEPS, CENTRE_STEPS = 6, 3


def peak_temperature(logs: Array, log_p: Array) -> Array:
    """The temperature at which the sample's lambda_T is largest: a coarse grid over log T, a finer one in each of its two
    best cells, and a parabola.

    The coarse grid lies around the peak of the two largest log p alone.

    Args:
        logs: (..., m, K) rows whose Gram stands for J_L J_L^T; rows of a Jacobian's transpose serve as well.
        log_p: (..., K) log probabilities.

    >>> gap = 2.4
    >>> log_p = -np.logaddexp(0.0, [-gap, gap])
    >>> round(float(peak_temperature(np.array([[1.0, -1.0]]), log_p)), 1)  # gap / 2.4
    1.0
    """
    search = TemperatureSearch(logs, log_p)
    return highest_peak(search.rough, search.beside, start_temperature(log_p), COARSE, (FINE,))


def start_temperature(log_p: Array) -> Array:
    """Where the peak of the two leading classes alone would lie, for (..., K) log probabilities.

    >>> round(float(start_temperature(-np.logaddexp(0.0, [-2.4, 2.4]))), 6)
    1.0
    """
    leading = np.partition(log_p, log_p.shape[-1] - 2, axis=-1)[..., -2:]
    spread = leading[..., 1] - log_p.mean(axis=-1)  # a tie is known from the scale of the logits by the other classes
    gap = np.maximum(np.maximum(leading[..., 1] - leading[..., 0], 0.0), 0.1 * spread)
    return np.asarray(np.where(gap > 0, gap, 0.5) / TWO_CLASS_GAP)


def highest_peak(
    rough: Tops, beside: Callable[[Array, Which], Tops], start: Array, grid: Grid, finer: Sequence[Grid]
) -> Array:
    """The temperature (...) of the highest maximum: the two best cells of a grid are looked at closely.

    lambda_T of several classes may have more than one maximum, and on a coarse grid a lower one may seem the highest.

    Args:
        rough: lambda_T roughly.
        beside: gives lambda_T precisely near temperatures (..., 1) of some inputs.
        start: (...) temperatures in the middle of the first grid.
        grid: the first grid.
        finer: those that follow, each around what the one before found.

    >>> def hill(at, which=...):
    ...     return np.exp(-(np.log(at) ** 2))
    >>> round(float(highest_peak(hill, lambda centre, which: hill, np.array(2.0), WIDE, (FINE, *SHARPENED))), 6)
    1.0
    """
    best, second, several = _two_best(*_moved_inside(rough, start[..., None] * grid.factors, grid.shift))
    found, height = _refined(beside(best, ...), best, finer)
    if several.any():
        other, higher = _refined(beside(second[several], several), second[several], finer)
        found[several] = np.where(higher > height[several], other, found[several])
    return found


def _refined(tops_at: Tops, centre: Array, finer: Sequence[Grid]) -> tuple[Array, Array]:
    """Temperature and lambda_T (...) of the maximum near (..., 1) temperatures."""
    for factors, shift in finer:
        found, height = _summit(*_moved_inside(tops_at, factors * centre, shift))
        centre = found[..., None]
    return found, height


def _two_best(grid: Array, tops: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Temperatures (..., 1) of the two highest maxima among (..., n) values, and whether (...) there is a second one."""
    best = highest_place(tops)[..., None]
    walls = np.full((*tops.shape[:-1], 1), -np.inf)
    padded = np.concatenate([walls, tops, walls], axis=-1)
    maxima = (tops > padded[..., :-2]) & (tops >= padded[..., 2:]) & (tops > 0)
    np.put_along_axis(maxima, best, False, axis=-1)
    second = np.where(maxima, tops, -np.inf).argmax(axis=-1)[..., None]
    return (
        np.take_along_axis(grid, best, axis=-1),
        np.take_along_axis(grid, second, axis=-1),
        np.asarray(maxima.any(axis=-1)),
    )


def highest_place(tops: Array) -> NDArray[np.intp]:
    """Where the largest of (..., n) values stands; the middle, from which a search starts, where nothing is above 0.

    >>> highest_place(np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])).tolist()
    [2, 1]
    """
    return np.asarray(np.where(tops.max(axis=-1) > 0, tops.argmax(axis=-1), tops.shape[-1] // 2))


def _moved_inside(tops_at: Tops, grid: Array, shift: float) -> tuple[Array, Array]:
    """lambda_T over the grid, moved by the factor ``shift`` until its largest value does not lie at an end."""
    last = grid.shape[-1] - 1
    tops = tops_at(grid, ...)
    for _ in range(11):
        best = tops.argmax(axis=-1)
        ends = np.asarray(((best == 0) | (best == last)) & (tops.max(axis=-1) > 0))
        if not ends.any():
            break
        grid = grid * np.where(ends, np.where(best == 0, 1.0 / shift, shift), 1.0)[..., None]
        tops[ends] = tops_at(grid[ends], ends)
    return grid, tops


def _summit(grid: Array, tops: Array) -> tuple[Array, Array]:
    """The highest top of a parabola in log T through a maximum and its neighbours: where it lies, and how high."""
    best, last = highest_place(tops), grid.shape[-1] - 1
    before, at, after = tops[..., :-2], tops[..., 1:-1], tops[..., 2:]
    bend = 2 * at - before - after
    maxima = (at >= before) & (at >= after)
    offset = np.where(maxima & (bend > 0), 0.5 * (after - before) / np.where(bend > 0, bend, 1.0), 0.0)
    heights = np.where(maxima, at + 0.25 * (after - before) * offset, -np.inf)
    ratio = grid[..., 2:] / grid[..., 1:-1]
    inside = np.asarray((best > 0) & (best < last) & (tops.max(axis=-1) > 0))[..., None]
    place = np.where(inside, heights.argmax(axis=-1)[..., None], 0)
    found = np.take_along_axis(grid[..., 1:-1] * ratio**offset, place, axis=-1)
    found = np.where(inside, found, np.take_along_axis(grid, best[..., None], axis=-1))
    return found[..., 0], np.where(inside, np.take_along_axis(heights, place, axis=-1), tops.max(axis=-1, keepdims=True))[
        ..., 0
    ]


class TemperatureSearch:
    """lambda_T at temperatures (..., n) of (..., m, K) log-probability gradients, up to one common factor.

    Few classes: from their Gram matrix, (..., 1, K, K), which serves every temperature; many: by power steps.
    """

    def __init__(self, logs: Array, log_p: Array) -> None:
        self._logs, self._log_p = logs, log_p
        self._gram: Array | None = None  # of few classes
        if logs.shape[-1] <= DENSE_CLASSES:
            self._gram = (np.swapaxes(logs, -1, -2) @ logs / logs.shape[-2])[..., None, :, :]
        else:
            self._some = logs[..., :: -(-logs.shape[-2] // COARSE_ROWS), :]
            self._seed = longest_row(logs)[..., None, :]

    def rough(self, temperatures: Array, which: Which = ...) -> Array:
        """From above, to place a maximum: tr(F^8)^(1/8), a few matrix products in place of all eigenvalues.

        Many classes: from below, by a few power steps on some of the rows.

        Args:
            temperatures: (..., n), of all inputs or of some.
            which: of the inputs these are.
        """
        if self._gram is None:
            return power_steps(self._some[which], self._log_p[which], temperatures, self._seed[which], ROUGH_STEPS)[1]
        fisher = tempered_grams(self._gram[which], self._log_p[which], temperatures)
        size = np.maximum(np.sqrt((fisher * fisher).sum(axis=(-2, -1))), TINY)
        power = fisher / size[..., None, None]
        for _ in range(2):
            power = power @ power
        return np.asarray(size * (power * power).sum(axis=(-2, -1)) ** 0.125)

    def beside(self, centre: Array, which: Which) -> Tops:
        """The same, of inputs ``which``, as precisely as a parabola needs it, at temperatures near (..., 1) others.

        Many classes: Ritz values, from the few sums of rows that one power step gives at each temperature of a fine grid.
        """
        log_p = self._log_p[which]
        if self._gram is not None:
            gram = self._gram[which]
            return lambda at, some: np.asarray(np.linalg.eigvalsh(tempered_grams(gram[some], log_p[some], at))[..., -1])
        logs = self._logs[which]
        seed = power_steps(logs, log_p, centre, self._seed[which], CENTRE_STEPS)[2]
        forms = power_steps(logs, log_p, centre * FINER, seed, 0)[0]
        weights = np.linalg.qr(np.swapaxes(forms @ np.swapaxes(logs, -1, -2), -1, -2))[0]
        return RowMoments(np.swapaxes(weights, -1, -2) @ logs, log_p).beside(centre, ...)


class RowMoments:
    """lambda_T at temperatures (..., t) of few (..., n, K) rows: the top eigenvalue of their covariance under q_T, (..., t).

    Rows count from the top class, which is the most probable at every T: what the square of the mean takes off then
    leaves at least the share q_T(top) >= 1 / K of the second moment, so little is lost to rounding.

    >>> log_p = -np.logaddexp(0.0, [-2.0, 2.0])
    >>> float(RowMoments(np.array([[0.5, -0.5]]), log_p)(np.array([1.0]))[0].round(4))  # p (1 - p)
    0.105
    """

    def __init__(self, rows: Array, log_p: Array) -> None:
        top = log_p.argmax(axis=-1)[..., None]
        self._falls = log_p - np.take_along_axis(log_p, top, axis=-1)
        rows = rows - np.take_along_axis(rows, top[..., None], axis=-1)
        *several, size, classes = rows.shape
        products = (rows[..., :, None, :] * rows[..., None, :, :]).reshape(*several, size * size, classes)
        factors = np.concatenate([np.ones((*several, 1, classes)), rows, products], axis=-2)
        self._factors, self._size = np.swapaxes(factors, -1, -2), size

    def __call__(self, temperatures: Array, which: Which = ...) -> Array:
        return self.beside(temperatures, ...)(temperatures, which)

    def beside(self, centre: Array, which: Which) -> Tops:
        """The same of inputs ``which`` alone."""
        factors, falls, size = self._factors[which], self._falls[which], self._size

        def tops_at(temperatures: Array, some: Which) -> Array:
            weights = np.exp(falls[some][..., None, :] / temperatures[..., None])
            sums = weights @ factors[some]
            sums /= sums[..., :1]
            mean, second = sums[..., 1 : size + 1], sums[..., size + 1 :].reshape(*sums.shape[:-1], size, size)
            grams = second - mean[..., :, None] * mean[..., None, :]
            return np.asarray(np.maximum(np.linalg.eigvalsh(grams)[..., -1], 0.0) / temperatures**2)

        return tops_at
