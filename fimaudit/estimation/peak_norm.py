"""The maximum of the spectral norm over softmax temperature: the sensitivity that no rescaling of logits can change.

With logits z / T the output distribution is q_T ~ p^(1/T), and with L = J_L v the change of log p along a direction v,

    lambda_T = top eigenvalue of E[Z^T Z],   Z = (L - L q_T) sqrt(q_T) / T,   peak = max_T lambda_T.

At two classes the peak equals 0.439 / r^2 with r the first-order margin radius.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.predictable import (
    DENSE_CLASSES,
    FIRST_STEPS,
    LEARNING,
    RENEWED_STEPS,
    TINY,
    block_starts,
    joint_starts,
    leading_directions,
    longest_row,
    past_grams,
    past_rows,
    predicted_lower,
    predicted_sum,
    seed_direction,
)
from fimaudit.estimation.spectral_norm import (
    Limits,
    ManyLimits,
    energy_quantile,
    joint_rows,
    joint_top,
    sample_spectrum,
    sketch_limits,
    upper_factor,
)

__all__ = [
    "peak_limits",
    "peak_norm",
    "peak_temperature",
    "start_temperature",
    "temper",
    "tempered_cotangent",
]

Array = NDArray[np.float64]
#: Of inputs worked on together, all or some.
Which = EllipsisType | NDArray[np.bool_]
#: lambda_T at temperatures (..., n) of all inputs or some.
Tops = Callable[[Array, Which], Array]

#: For two classes the peak lies where the gap of log p is 2.4 T; more classes move it, up to a factor of a few.
#: Seven cells, then seven within the best: within 0.5 % of a dense scan (tests/test_temperature.py).
TWO_CLASS_GAP = 2.4
GRID = np.exp(np.linspace(np.log(1 / 8), np.log(8.0), 7))
FINER = np.exp(np.linspace(np.log(GRID[2]), np.log(GRID[4]), 7))


class _Grid(NamedTuple):
    """Temperatures as factors of one in their middle, and the factor by which they are moved towards a maximum at an end."""

    factors: Array
    shift: float


COARSE, FINE = _Grid(GRID, float(GRID[-2])), _Grid(FINER, float(FINER[-2] / FINER[1]))
#: Without sampling error, as from derivatives: more cells to begin with, and two more parabolas, the last to rounding.
WIDE = _Grid(np.exp(np.linspace(-2.8, 2.8, 17)), float(np.exp(1.4)))
SHARPENED = tuple(_Grid(np.exp([-step, 0.0, step]), float(np.exp(step))) for step in (0.02, 1e-3))
#: The predicted temperature is renewed when the past holds this many contrasts.
RENEWALS = (16, 64)
#: Many classes: rows, spread over all, from which a coarse grid is placed.
COARSE_ROWS = 48
#: Many classes: power steps to place a temperature roughly, to settle on a direction there, and from it at those beside it.
ROUGH_STEPS, SETTLING, BESIDE = 6, 8, 3


def temper(logs: Array, log_p: Array, temperature: float | Array) -> Array:
    """Z = (L - L q_T) sqrt(q_T) / T: contrasts of log p to contrasts of 2 sqrt(q_T), both (..., m, K).

    Args:
        logs: (..., m, K).
        log_p: (..., K) log probabilities at the input.
        temperature: one for each input.

    >>> log_p = np.log([0.5, 0.5])
    >>> temper(np.array([[2.0, -2.0]]), log_p, 1.0).round(3)
    array([[ 1.414, -1.414]])
    """
    q, root = _tempered(log_p, np.asarray(temperature, dtype=np.float64)[..., None])
    out = logs - logs @ np.swapaxes(q, -1, -2)
    out *= root
    return np.asarray(out)


def tempered_cotangent(direction: Array, log_p: Array, temperature: float) -> Array:
    """The transpose of ``temper``: a class-side vector z at a temperature to a cotangent of log p, both (K,).

    >>> log_p, rows, z = np.log([0.5, 0.3, 0.2]), np.array([[1.0, 0.0, 2.0]]), np.array([0.6, 0.8, 0.0])
    >>> bool(np.isclose(temper(rows, log_p, 2.0) @ z, rows @ tempered_cotangent(z, log_p, 2.0))[0])
    True
    """
    q, root = _tempered(log_p, np.array([temperature]))
    return _forms(direction, q[0], root[0])


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
    search = _TemperatureSearch(logs, log_p)
    return _highest_peak(search.rough, search.beside, start_temperature(log_p), COARSE, (FINE,))


def peak_norm(rows: Array, log_p: Array, around: float | None = None) -> tuple[float, float]:
    """The largest lambda_T of one input to rounding: (value, temperature), by the search of ``peak_temperature``.

    Args:
        rows: (n, K) with rows^T rows = J_L J_L^T: images of an orthonormal basis, or any factor.
        log_p: (K,) log probabilities; classes at ``-inf`` take no part.
        around: a temperature near the peak, in place of the coarse grid.

    >>> log_p = -np.logaddexp(0.0, [-2.0, 2.0])  # a gap of 2
    >>> value, temperature = peak_norm(np.array([[0.5, -0.5]]), log_p)  # whose gradient has length 1: r = 2
    >>> round(value * 2.0**2, 4), round(temperature, 3)
    (0.4392, 0.834)
    """
    seen = np.isfinite(log_p)
    rows, log_p = rows[:, seen], log_p[seen]
    if len(log_p) < 2 or not rows.any():
        return 0.0, 1.0

    def tops_at(temperatures: Array, which: Which = ...) -> Array:
        tops = [sample_spectrum(temper(rows, log_p, t), 1)[0] for t in temperatures.ravel()]
        return np.array(tops).reshape(temperatures.shape)

    start, grid = (start_temperature(log_p), WIDE) if around is None else (np.array(around), FINE)
    found = float(_highest_peak(tops_at, lambda centre, which: tops_at, start, grid, (FINE, *SHARPENED)))
    return float(tops_at(np.array(found))), found


def _highest_peak(
    rough: Tops, beside: Callable[[Array, Which], Tops], start: Array, grid: _Grid, finer: Sequence[_Grid]
) -> Array:
    """The temperature (...) of the highest maximum: the two best cells of a grid are looked at closely.

    lambda_T of several classes may have more than one maximum, and on a coarse grid a lower one may seem the highest.

    Args:
        rough: lambda_T roughly.
        beside: gives lambda_T precisely near temperatures (..., 1) of some inputs.
        start: (...) temperatures in the middle of the first grid.
        grid: the first grid.
        finer: those that follow, each around what the one before found.
    """
    best, second, several = _two_best(*_moved_inside(rough, start[..., None] * grid.factors, grid.shift))
    found, height = _refined(beside(best, ...), best, finer)
    if several.any():
        other, higher = _refined(beside(second[several], several), second[several], finer)
        found[several] = np.where(higher > height[several], other, found[several])
    return found


def _refined(tops_at: Tops, centre: Array, finer: Sequence[_Grid]) -> tuple[Array, Array]:
    """Temperature and lambda_T (...) of the maximum near (..., 1) temperatures."""
    for factors, shift in finer:
        found, height = _summit(*_moved_inside(tops_at, factors * centre, shift))
        centre = found[..., None]
    return found, height


def _two_best(grid: Array, tops: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Temperatures (..., 1) of the two highest maxima among (..., n) values, and whether (...) there is a second one."""
    best = _highest(tops)[..., None]
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


def _highest(tops: Array) -> NDArray[np.intp]:
    """Where the largest of (..., n) values stands; the middle, from which a search starts, where nothing is above 0."""
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
    best, last = _highest(tops), grid.shape[-1] - 1
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


def start_temperature(log_p: Array) -> Array:
    """Where the peak of the two leading classes alone would lie, for (..., K) log probabilities.

    >>> round(float(start_temperature(-np.logaddexp(0.0, [-2.4, 2.4]))), 6)
    1.0
    """
    leading = np.partition(log_p, log_p.shape[-1] - 2, axis=-1)[..., -2:]
    spread = leading[..., 1] - log_p.mean(axis=-1)  # a tie is known from the scale of the logits by the other classes
    gap = np.maximum(np.maximum(leading[..., 1] - leading[..., 0], 0.0), 0.1 * spread)
    return np.asarray(np.where(gap > 0, gap, 0.5) / TWO_CLASS_GAP)


def peak_limits(
    logs: Array, log_p: Array, confidence: float, features: int | None = None, exact_part: Array | None = None
) -> tuple[ManyLimits, Array]:
    """The peak spectral norm from contrasts of log p.

    upper: the norm at the true peak temperature is below the upper limit at that temperature, so the largest of the upper
    limits covers it; lower: a predictable sum whose temperature and direction both come from earlier contrasts, each
    term of which is at most peak chi2_1. Where the top eigenvalue at the peak stands apart, both as for ``spectral_limits``.

    Args:
        logs: (..., m, K) contrasts of log p, of as many inputs as the first axes say.
        log_p: (..., K) log probabilities at the input.
        confidence: of the two-sided interval.
        features: d for orthonormal directions, ``None`` for independent ones; that of the complement beside exact rows.
        exact_part: (q, K) exact secants of log p along orthonormal directions, of a single input; ``None`` for none.

    Returns:
        the limits (...) in 1 / unit of the input squared, and the temperature (...) of the peak.

    >>> rows = np.random.default_rng(0).standard_normal((40, 3))
    >>> limits, temperature = peak_limits(rows, np.log([0.7, 0.2, 0.1]), 0.95)
    >>> bool(limits.lower < limits.value < limits.upper), bool(0.4 < temperature < 0.7)
    (True, True)
    """
    tail, terms = (1.0 - confidence) / 2, logs.shape[-2]
    if exact_part is not None and len(exact_part):
        one, factor = (logs.reshape(logs.shape[-2:]), log_p.reshape(-1)), upper_factor(tail, terms, features)
        limits, temperature = _joint_peak(*one, exact_part, factor, 1.0 - tail, features)
        return ManyLimits.of_one(limits, logs.shape[:-2]), np.full(logs.shape[:-2], temperature)
    temperatures = peak_temperature(logs, log_p)
    values = sample_spectrum(temper(logs, log_p, temperatures))
    each, each_p = logs.reshape(-1, *logs.shape[-2:]), log_p.reshape(-1, log_p.shape[-1])
    values = values.reshape(len(each), -1)
    found = sketch_limits(values, lambda which: _predicted_peak(each[which], each_p[which]), terms, tail, features)
    return ManyLimits(*(of.reshape(logs.shape[:-2]) for of in found)), temperatures


def _joint_peak(
    logs: Array, log_p: Array, exact_part: Array, factor: float, probability: float, features: int | None
) -> tuple[Limits, float]:
    """The same beside exact rows: ``spectral_limits`` at the temperature of the peak, or of the upper limit's own peak."""
    terms = len(logs)
    temperature = float(peak_temperature(joint_rows(logs, exact_part), log_p))
    exact = temper(exact_part, log_p, temperature)
    value, _ = joint_top(temper(logs, log_p, temperature), exact, features)
    upper = np.inf
    if np.isfinite(factor):
        wide = joint_rows(logs, exact_part, factor)
        upper = float(sample_spectrum(temper(wide, log_p, peak_temperature(wide, log_p)), terms)[0])
    starts = joint_starts(terms)
    forms = _predicted_forms(logs, log_p, starts, exact_part)
    floor = float(sample_spectrum(exact, 1)[0])
    lower = predicted_lower(forms, logs, starts, exact_part, energy_quantile(probability, terms, features), floor)
    return Limits(max(value, lower), lower, max(upper, value, lower)), temperature


def _predicted_peak(logs: Array, log_p: Array) -> tuple[Array, int]:
    """sum_t (u_t . z_t)^2 with temperature and direction of term t found from the contrasts before it."""
    m = logs.shape[-2]
    if m <= LEARNING:
        return np.zeros(logs.shape[:-2]), 0
    starts = block_starts(m)
    return predicted_sum(_predicted_forms(logs, log_p, starts), logs, starts), m - LEARNING


def _predicted_forms(logs: Array, log_p: Array, starts: Sequence[int], exact_part: Array | None = None) -> Array:
    """u . z_t as a linear form of L_t, for each block, (..., blocks, K)."""
    temperatures = _past_temperatures(logs, log_p, starts, exact_part)
    seed = seed_direction(logs, exact_part)[..., None, :]
    if logs.shape[-1] <= DENSE_CLASSES:
        q, root = _tempered(log_p, temperatures)
        seeds = (seed - (q * seed).sum(axis=-1, keepdims=True)) * root
        grams = _tempered_grams(past_grams(logs, starts, exact_part), log_p, temperatures)
        return _forms(leading_directions(grams, seeds), q, root)
    forms, steps = [], FIRST_STEPS
    for block, start in enumerate(starts):
        past = past_rows(logs, start, exact_part)
        seed = np.where(seed.any(axis=-1, keepdims=True), seed, past[..., -1:, :])
        found, _, seed = _power_steps(past, log_p, temperatures[..., block : block + 1], seed, steps)
        forms.append(found)
        steps = RENEWED_STEPS
    return np.concatenate(forms, axis=-2)


def _past_temperatures(logs: Array, log_p: Array, starts: Sequence[int], exact_part: Array | None = None) -> Array:
    """Temperature for each block (..., blocks), from log p alone at first, or from exact rows, and renewed from the past."""
    temperature = start_temperature(log_p)
    out = np.repeat(temperature[..., None], len(starts), axis=-1)
    renewals = (bisect_left(starts, renewal) for renewal in (RENEWALS if exact_part is None else (0, *RENEWALS)))
    for block in renewals:
        if block < len(starts):
            grid = temperature[..., None] * GRID
            best = _highest(_TemperatureSearch(past_rows(logs, starts[block], exact_part), log_p).rough(grid))
            temperature = np.take_along_axis(grid, best[..., None], axis=-1)[..., 0]
            out[..., block:] = temperature[..., None]
    return out


def _tempered(log_p: Array, temperatures: Array) -> tuple[Array, Array]:
    """q_T of (..., K) log probabilities at (..., n) temperatures, and sqrt(q_T) / T: (..., n, K) each."""
    t = temperatures[..., None]
    z = log_p[..., None, :] / t
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    q = e / e.sum(axis=-1, keepdims=True)
    return q, np.sqrt(q) / t


class _TemperatureSearch:
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
            return _power_steps(self._some[which], self._log_p[which], temperatures, self._seed[which], ROUGH_STEPS)[1]
        fisher = _tempered_grams(self._gram[which], self._log_p[which], temperatures)
        size = np.maximum(np.sqrt((fisher * fisher).sum(axis=(-2, -1))), TINY)
        power = fisher / size[..., None, None]
        for _ in range(2):
            power = power @ power
        return np.asarray(size * (power * power).sum(axis=(-2, -1)) ** 0.125)

    def beside(self, centre: Array, which: Which) -> Tops:
        """The same, of inputs ``which``, as precisely as a parabola needs it, at temperatures near (..., 1) others."""
        log_p = self._log_p[which]
        if self._gram is not None:
            gram = self._gram[which]
            return lambda at, some: np.asarray(np.linalg.eigvalsh(_tempered_grams(gram[some], log_p[some], at))[..., -1])
        logs = self._logs[which]
        seed = _power_steps(logs, log_p, centre, self._seed[which], SETTLING)[2]
        return lambda at, some: _power_steps(logs[some], log_p[some], at, seed[some], BESIDE)[1]


def _tempered_grams(grams: Array, log_p: Array, temperatures: Array) -> Array:
    """diag(sqrt q) (I - 1 q^T) C (I - q 1^T) diag(sqrt q) / T^2 at each temperature, for one or as many Grams C.

    Args:
        grams: (..., n or 1, K, K) Grams of log-probability gradients.
        log_p: (..., K) log probabilities.
        temperatures: (..., n).

    Returns:
        (..., n, K, K) Fisher information on the class side.
    """
    q, root = _tempered(log_p, temperatures)
    left = (np.eye(q.shape[-1]) - q[..., None, :]) * root[..., None]
    return np.asarray(left @ grams @ np.swapaxes(left, -1, -2))


def _power_steps(logs: Array, log_p: Array, temperatures: Array, seed: Array, steps: int) -> tuple[Array, Array, Array]:
    """Power steps on Z^T Z, Z = (L - L q) sqrt(q) / T, at each of n temperatures at once; Z itself is never built.

    Args:
        logs: (..., m, K) contrasts L of log p.
        log_p: (..., K) log probabilities.
        temperatures: (..., n).
        seed: (..., n or 1, K) rows of log p, or sums of such rows, to start from.
        steps: how many.

    Returns:
        (..., n, K) top directions as linear forms of rows of L, (..., n) top eigenvalues from below, precise enough to place
        a maximum, and the (..., n, K) sums of rows that the directions come from.
    """
    q, root = _tempered(log_p, temperatures)
    weights, turned = root * root, np.swapaxes(logs, -1, -2)
    for step in range(steps + 1):
        # u = centred root, and as q adds up to 1 its form is u root: no mean of it is left to take off.
        centred = seed - np.vecdot(q, seed)[..., None]
        forms = centred * weights
        values = np.sqrt(np.maximum(np.vecdot(forms, centred), 0.0))
        inverse = 1.0 / np.maximum(values, TINY)[..., None]
        if step < steps:
            seed = ((forms @ turned) * inverse) @ logs
    forms *= inverse
    return forms, values, seed


def _forms(directions: Array, q: Array, root: Array) -> Array:
    """u . z = sum_k u_k sqrt(q_k) / T (L_k - L q) as linear forms of L; all (..., K), ``root`` is sqrt(q) / T."""
    weights = directions * root
    return np.asarray(weights - weights.sum(axis=-1, keepdims=True) * q)
