"""The maximum of the spectral norm over softmax temperature: the sensitivity that no rescaling of logits can change.

With logits z / T the output distribution is q_T ~ p^(1/T), and with L = J_L v the change of log p along a direction v,

    lambda_T = top eigenvalue of E[Z^T Z],   Z = (L - L q_T) sqrt(q_T) / T,   peak = max_T lambda_T.

At two classes the peak equals 0.439 / r^2 with r the first-order margin radius.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.predictable import (
    DENSE_CLASSES,
    FIRST_STEPS,
    LEARNING,
    RENEWED_STEPS,
    block_starts,
    joint_starts,
    leading_directions,
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
from fimaudit.estimation.temperature_search import (
    FINE,
    GRID,
    SHARPENED,
    WIDE,
    TemperatureSearch,
    Which,
    highest_peak,
    highest_place,
    peak_temperature,
    start_temperature,
)
from fimaudit.estimation.tempering import linear_forms, power_steps, temper, tempered, tempered_grams

__all__ = ["peak_limits", "peak_norm"]

Array = NDArray[np.float64]

#: Up to so many rows, their moments at every temperature cost less than the rows themselves.
MOMENT_ROWS = 24
#: The predicted temperature is renewed when the past holds this many contrasts.
RENEWALS = (16, 64)


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

    small = len(rows) <= MOMENT_ROWS and len(rows) < len(log_p)
    grams_at = _moment_grams(rows, log_p) if small else None

    def tops_at(temperatures: Array, which: Which = ...) -> Array:
        flat = temperatures.ravel()
        if grams_at is not None and len(flat) > 1:
            tops = np.maximum(np.linalg.eigvalsh(grams_at(flat))[:, -1], 0.0)
        else:
            tops = sample_spectrum(temper(rows, log_p, flat), 1)[:, 0]
        return np.asarray(tops).reshape(temperatures.shape)

    start, grid = (start_temperature(log_p), WIDE) if around is None else (np.array(around), FINE)
    found = float(highest_peak(tops_at, lambda centre, which: tops_at, start, grid, (FINE, *SHARPENED)))
    return float(tops_at(np.array(found))), found


def _moment_grams(rows: Array, log_p: Array) -> Callable[[Array], Array]:
    """Z Z^T at temperatures (t,) of (n, K) rows, as their covariance under q_T: (t, n, n).

    Rows count from the top class, which is the most probable at every T: what the square of the mean takes off then
    leaves at least the share q_T(top) >= 1 / K of the second moment, so little is lost to rounding.
    """
    rows = rows - rows[:, [int(log_p.argmax())]]
    count, classes = rows.shape
    products = (rows[:, None] * rows).reshape(-1, classes).T

    def grams_at(temperatures: Array) -> Array:
        q = tempered(log_p, temperatures)[0]
        mean = q @ rows.T
        second = (q @ products).reshape(-1, count, count)
        return np.asarray((second - mean[:, :, None] * mean[:, None]) / temperatures[:, None, None] ** 2)

    return grams_at


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
        q, root = tempered(log_p, temperatures)
        seeds = (seed - (q * seed).sum(axis=-1, keepdims=True)) * root
        grams = tempered_grams(past_grams(logs, starts, exact_part), log_p, temperatures)
        return linear_forms(leading_directions(grams, seeds), q, root)
    forms, steps = [], FIRST_STEPS
    for block, start in enumerate(starts):
        past = past_rows(logs, start, exact_part)
        seed = np.where(seed.any(axis=-1, keepdims=True), seed, past[..., -1:, :])
        found, _, seed = power_steps(past, log_p, temperatures[..., block : block + 1], seed, steps)
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
            best = highest_place(TemperatureSearch(past_rows(logs, starts[block], exact_part), log_p).rough(grid))
            temperature = np.take_along_axis(grid, best[..., None], axis=-1)[..., 0]
            out[..., block:] = temperature[..., None]
    return out
