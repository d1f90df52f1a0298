"""Few features: the whole Jacobian, feature by feature, with two step sizes that must agree.

With d features and room for 4 d rows, central differences at two step sizes; with room for 2 d (or d) rows, central (or
forward) differences at one, and the second step size only along the directions that decide the numbers: to first order the
error of a norm is the error of the Jacobian along its own top direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.estimate import Estimate, MeasuredJacobian, estimate_jacobians
from fimaudit.estimation.grouping import chosen, few_at_a_time, positions_by_kind, stacked
from fimaudit.estimation.margin import first_order_radii
from fimaudit.estimation.noise import VisibleClasses, tables_of_each
from fimaudit.estimation.secants import log_probabilities, visible_classes
from fimaudit.estimation.temperature_search import peak_temperature
from fimaudit.estimation.tempering import temper
from fimaudit.measurement.protocol import BatchedStep, Flow
from fimaudit.perturbations.rows import CoordinateRows, PlainRows
from fimaudit.perturbations.sign_rows import displaced_bounds
from fimaudit.space import Space

__all__ = ["WholeJacobian", "coordinate_reach", "fewest_rows", "fits", "whole_jacobian"]

Array = NDArray[np.float64]

#: Directions along which the second step size is measured when there is no room for all: one for each number.
DECISIVE = 3
#: How much shorter those steps are than the first: an error of the step must not be common to both. (At the same length the
#: intervals of curved networks missed in 9-13 % of cases; a quarter of it, none in 150, and the value errs a fifth as much.)
SHORTER = {"basis-central": 4.0, "basis-forward": 2.0}
#: Standard deviations of the answers' noise that limits allow for.
DEVIATIONS = 2.0
#: Levels that the largest feature moves along such a direction, so that rounding to levels keeps the direction.
LEVELS = 3.0


@dataclass(frozen=True)
class WholeJacobian:
    """What came of it.

    Attributes:
        method: ``basis-central`` or ``basis-forward``.
        estimate: the numbers; ``None`` when no answer differed.
        rows: rows used, the base row included.
        length: typical step of one feature, in units of the scale.
        finest: the shorter of the two lengths at which the decisive directions were measured, likewise.
        roots: (d, C) Jacobian of 2 sqrt(p), in units of the scale.
        descent: (d,) gradient of log(p_rival / p_predicted) over free features, in units of the scale; ``None`` unknown.
    """

    method: str
    estimate: Estimate | None
    rows: int
    length: float
    finest: float
    roots: Array
    descent: Array | None

    def rounding_error(self, view: VisibleClasses) -> float:
        """Relative error of the norms that the noise of the answers leaves, which two steps may agree in by chance.

        The top direction's change of 2 sqrt(p) is a difference of two answers over twice the step: with N the noise of one
        answer the square of that slope, the norm, has a variance of 2 N norm / step^2.
        """
        if view.noise is None or self.estimate is None or self.estimate.spectral.value <= 0:
            return 0.0
        return DEVIATIONS * float(np.sqrt(2.0 * view.noise.total / self.estimate.spectral.value)) / self.finest


def fewest_rows(features: int) -> int:
    """Displaced rows that the whole Jacobian and its check take at least."""
    return min(features + 2 * DECISIVE, 4 * features)


def fits(features: int, rows: int) -> bool:
    """Whether ``rows`` displaced rows suffice for the whole Jacobian and its check."""
    return fewest_rows(features) <= rows


def coordinate_reach(space: Space) -> float:
    """The longest displacement that a single feature must take, in units of the scale: two of its levels."""
    return 2.0 * float((space.quantum / space.scale)[~space.frozen].max(initial=0.0))


def whole_jacobian(
    x: NDArray[np.floating], space: Space, rho: float, rows: int, view: VisibleClasses
) -> Flow[WholeJacobian]:
    """Measure every feature.

    Args:
        x: the input.
        space: its domain.
        rho: l2 length that a displacement of all features would have; each feature moves rho / sqrt(d).
        rows: displaced rows allowed; ``fits`` holds.
        view: the measurable classes at x.
    """
    d = space.features
    steps = _steps(space, rho)
    method, more = "basis-central", 0
    if 4 * d <= rows:
        (second, first), used = yield from _central(x, space, steps, view)
        shorter = 2.0
    else:
        if 2 * d + 2 * DECISIVE <= rows:
            (first,), used = yield from _central(x, space, steps[:1], view)
        else:
            first, used = yield from _forward(x, space, steps[0], view)
            method = "basis-forward"
        shorter = 1.0 if space.quantised else SHORTER[method]
        corrected, more = yield from _along(x, space, rho / shorter, first, view)
        first, second = corrected, first
    measured = MeasuredJacobian(view, _halves(first), _halves(second))
    estimate: Estimate | None = yield BatchedStep(estimate_jacobians, measured)
    length, rows = space.length(steps[0]), 1 + used + more
    roots, descent = _halves(first)[0], _descent(first, estimate, view)
    return WholeJacobian(method, estimate, rows, length, length / shorter, roots, descent)


def _steps(space: Space, rho: float) -> Array:
    """(2, \\*shape) coarse and fine step of each feature, in whole levels where it has any."""
    coarse = space.step(rho)
    fine = coarse / 2
    if not space.quantised:
        return np.array([coarse, fine])
    stepped = (space.quantum > 0) & ~space.frozen
    unit = np.where(stepped, space.quantum, 1.0)
    levels = np.maximum(np.round(coarse / unit), 2.0)
    return np.array(
        [np.where(stepped, levels * unit, coarse), np.where(stepped, np.floor(levels / 2) * unit, fine)],
    )


def _features(p: Array, view: VisibleClasses) -> Array:
    """(m, 2 C): 2 sqrt(p) of the measurable columns (m, C) beside log p, NaN where a class is not visible."""
    return np.asarray(_features_of_each(p[None], [view])[0])


def _features_of_each(p: Array, views: Sequence[VisibleClasses]) -> Array:
    """The same for each of (n, m, C)."""
    n, m, columns = p.shape
    out = np.full((n, m, 2 * columns), np.nan)
    np.sqrt(p, out=out[:, :, :columns])
    out[:, :, :columns] *= 2.0
    visible = visible_classes(p)
    tops = np.array([int(view.place[0]) for view in views])
    whole = np.asarray(visible.all(axis=1))
    if whole.any():
        out[whole, :, columns:] = log_probabilities(chosen(p, whole), tops[whole])
    for i in np.flatnonzero(visible[np.arange(n), tops] & ~whole).tolist():  # apart: their order in memory is their own
        classes = np.flatnonzero(visible[i])
        place = np.searchsorted(classes, tops[i : i + 1])
        out[i][:, columns + classes] = log_probabilities(p[i : i + 1, :, classes], place)[0]
    for i, view in enumerate(views):
        if view.rest:
            out[i, :, -1] = np.nan
    return out


def _halves(jacobian: Array) -> tuple[Array, Array]:
    k = jacobian.shape[1] // 2
    return jacobian[:, :k], jacobian[:, k:]


def _descent(jacobian: Array, estimate: Estimate | None, view: VisibleClasses) -> Array | None:
    if estimate is None or estimate.margin is None:
        return None
    logs = _halves(jacobian)[1]
    rival = int(np.searchsorted(view.classes, estimate.margin.rival))
    return np.asarray(logs[:, rival] - logs[:, int(view.place[0])])


def _ends(x: NDArray[np.floating], space: Space, steps: Array) -> tuple[NDArray[Any], NDArray[Any]]:
    """Values (s, d) of the features that may change a step down and a step up, for each of ``steps``, within the box."""
    low, high = displaced_bounds(x, steps, space.box, space.dtype)
    return low.reshape(len(steps), -1)[:, space.free.place], high.reshape(len(steps), -1)[:, space.free.place]


@dataclass(frozen=True)
class _BothWays:
    """Answers (2 s d, K) to each feature a step down, then a step up, at s steps; and how far apart (s, d) the ends are."""

    view: VisibleClasses
    answers: Array
    apart: Array


def _central(x: NDArray[np.floating], space: Space, steps: Array, view: VisibleClasses) -> Flow[tuple[Sequence[Array], int]]:
    """(d, 2 C) central differences of ``_features`` at each step, in units of the scale; and the rows asked."""
    low, high = _ends(x, space, steps)
    twice, answers = np.concatenate([space.positions] * 2), []
    for values in np.concatenate([low, high], axis=1):
        # A call of its own for each step: what moves a call would move both alike, and they are to check each other.
        answers.append((yield CoordinateRows(x, twice, values, space.dtype, both_ways=True)))
    apart = (high.astype(np.float64) - low.astype(np.float64)) / space.free.scale
    both = _BothWays(view, np.concatenate(answers), apart)
    differences: Sequence[Array] = yield BatchedStep(_differences, both)
    return differences, 2 * apart.size


def _differences(asked: Sequence[_BothWays]) -> list[Array]:
    """Central differences (s, d, 2 C) of each."""
    out: list[Array] = [np.empty(0)] * len(asked)
    kinds = positions_by_kind((one.apart.shape, one.answers.shape, one.view.kind) for one in asked)
    for places in few_at_a_time(kinds, 2 * max((one.answers.size for one in asked), default=0)):
        some = [asked[i] for i in places]
        views, apart = [one.view for one in some], stacked([one.apart for one in some])
        tables = tables_of_each(views, [one.answers for one in some])
        s, d = apart.shape[1:]
        features = _features_of_each(tables.reshape(len(some) * s, 2 * d, -1), [view for view in views for _ in range(s)])
        ends = features.reshape(len(some), s, 2, d, -1)
        found = (ends[:, :, 1] - ends[:, :, 0]) / np.where(apart == 0, np.inf, apart)[..., None]
        for i, one in zip(places, found, strict=True):
            out[i] = one
    return out


def _forward(x: NDArray[np.floating], space: Space, step: Array, view: VisibleClasses) -> Flow[tuple[Array, int]]:
    """The same by forward differences towards the end that lies farther, with half the rows."""
    free, (low, high) = space.positions, (end[0] for end in _ends(x, space, step[None]))
    base = x.astype(space.dtype).ravel()[free].astype(np.float64)
    far = np.where(np.abs(high.astype(np.float64) - base) >= np.abs(low.astype(np.float64) - base), high, low)
    answers = yield CoordinateRows(x, free, far, space.dtype)
    both = view.table(np.vstack([view.base[None], answers]))
    table = _features(both, view)
    sent = (far.astype(np.float64) - base) / space.free.scale
    return (table[1:] - table[0]) / np.where(sent == 0, np.inf, sent)[:, None], len(free)


def _along(x: NDArray[np.floating], space: Space, rho: float, first: Array, view: VisibleClasses) -> Flow[tuple[Array, int]]:
    """The Jacobian corrected along the directions that decide norm, peak and radius, by direct central differences."""
    free = ~space.frozen.ravel()
    scale, quantum = space.scale.ravel()[free], space.quantum.ravel()[free]
    # orthonormal: the directions are often nearly parallel, and solving for each would blow the steps' error up
    unit = np.linalg.qr(_decisive(first, view).T)[0].T
    move = (rho / np.sqrt(space.features)) * scale * unit
    if space.quantised:
        stepped = quantum > 0
        levels = np.abs(np.where(stepped, move / np.where(stepped, quantum, 1.0), 0.0)).max(axis=1)
        move *= np.maximum(1.0, LEVELS / np.maximum(levels, 1e-12))[:, None]
        move = np.where(stepped, np.round(move / np.where(stepped, quantum, 1.0)) * quantum, move)
    lower, upper = space.lower.ravel()[free], space.upper.ravel()[free]
    base = x.ravel()[free].astype(np.float64)
    ends = []
    for sign in (-1.0, 1.0):
        rows = np.repeat(x.astype(space.dtype).reshape(1, -1), len(unit), axis=0)
        rows[:, free] = np.clip(base + sign * move, lower, upper).astype(space.dtype)
        ends.append(rows)
    answers = view.table((yield PlainRows(np.concatenate(ends).reshape(2 * len(unit), *x.shape))))
    table = _features(answers, view)
    sent = (ends[1][:, free].astype(np.float64) - ends[0][:, free].astype(np.float64)) / scale
    miss = (table[len(unit) :] - table[: len(unit)]) - sent @ first
    return first + np.linalg.pinv(sent) @ miss, 2 * len(unit)


def _decisive(jacobian: Array, view: VisibleClasses) -> Array:
    """Unit input directions, in units of the scale: top of the Fisher information, of its peak, and the nearest margin."""
    roots, logs = _halves(jacobian)
    found = [np.linalg.svd(roots, full_matrices=False)[0][:, 0]]
    base = view.columns
    classes = np.flatnonzero(np.isfinite(logs).all(axis=0) & (base > 0))  # a class may be nought at the input alone
    top = int(view.place[0])
    if len(classes) >= 2 and top in classes and logs[:, classes].any():
        place = int(np.searchsorted(classes, top))
        slopes, log_p = logs[:, classes], log_probabilities(base[None, classes], place)[0]
        z = temper(slopes, log_p, peak_temperature(slopes, log_p))
        found.append(np.linalg.svd(z, full_matrices=False)[0][:, 0])
        others = np.delete(np.arange(len(classes)), place)
        odds = slopes[:, [place]] - slopes[:, others]
        norms = np.linalg.norm(odds, axis=0)
        nearest = int(np.argmin(first_order_radii(log_p[place] - log_p[others], norms)))
        if norms[nearest] > 0:
            found.append(odds[:, nearest] / norms[nearest])
    return np.array(found)
