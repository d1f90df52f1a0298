"""The maximum of the spectral norm over softmax temperature: the sensitivity that no rescaling of logits can change.

With logits z / T the output distribution is q_T ~ p^(1/T), and with L = J_L v the change of log p along a direction v,

    lambda_T = top eigenvalue of E[Z^T Z],   Z = (L - L q_T) sqrt(q_T) / T,   peak = max_T lambda_T.

At two classes the peak equals 0.439 / r^2 with r the first-order margin radius.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.grouping import chosen
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
    RowMoments,
    TemperatureSearch,
    Which,
    highest_peak,
    highest_place,
    peak_temperature,
    start_temperature,
)
from fimaudit.estimation.tempering import linear_forms, power_steps, temper, tempered, tempered_grams

__all__ = ["peak_limits", "peak_norm", "peak_norms"]

Array = NDArray[np.float64]

#: Up to so many rows, their moments at every temperature cost less than the rows themselves; of all inputs that go together
#: these are so many numbers at most.
MOMENT_ROWS, MOMENT_NUMBERS = 24, 2**21
#: Classes that add no more than this share to the trace, all together, are left out.
LEFT_OUT = 1e-10
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

    if _go_by_moments(len(rows), len(log_p)):
        values, temperatures = _by_moments([rows], log_p[None], None if around is None else np.array([around]))
        return float(values[0]), float(temperatures[0])

    def tops_at(temperatures: Array, which: Which = ...) -> Array:
        tops = sample_spectrum(temper(rows, log_p, temperatures.ravel()), 1)[:, 0]
        return tops.reshape(temperatures.shape)

    start, grid = (start_temperature(log_p), WIDE) if around is None else (np.array(around), FINE)
    found = float(highest_peak(tops_at, lambda centre, which: tops_at, start, grid, (FINE, *SHARPENED)))
    return float(tops_at(np.array(found))), found


def peak_norms(rows: Sequence[Array], log_p: Array, around: Array | None = None) -> tuple[Array, Array]:
    """``peak_norm`` of several inputs, few rows of many classes each: values and temperatures, (B,).

    Args:
        rows: (n, K) of each input, n its own.
        log_p: (B, K) log probabilities.
        around: (B,) temperatures near the peaks, in place of the coarse grid.

    >>> log_p = -np.logaddexp(0.0, [[-2.0, 2.0], [-1.0, 1.0]])
    >>> peak_norms([np.array([[0.5, -0.5]])] * 2, log_p)[1].round(3).tolist()
    [0.834, 0.417]
    """
    values, temperatures = np.zeros(len(rows)), np.ones(len(rows))
    classes, most = log_p.shape[1], max(1, *(len(of) for of in rows))
    few = _go_by_moments(most, classes)
    joint = np.flatnonzero([few and bool(np.isfinite(p).all() and of.any()) for p, of in zip(log_p, rows, strict=True)])
    for one in np.setdiff1d(np.arange(len(rows)), joint).tolist():
        values[one], temperatures[one] = peak_norm(rows[one], log_p[one], None if around is None else float(around[one]))
    together = max(1, MOMENT_NUMBERS // (classes * most**2))
    for first in range(0, len(joint), together):
        some = joint[first : first + together]
        values[some], temperatures[some] = _by_moments(
            [rows[one] for one in some], log_p[some], None if around is None else around[some]
        )
    return values, temperatures


def _go_by_moments(count: int, classes: int) -> bool:
    return count <= MOMENT_ROWS and count < classes and classes * count**2 <= MOMENT_NUMBERS


def _by_moments(rows: Sequence[Array], log_p: Array, around: Array | None) -> tuple[Array, Array]:
    padded = np.zeros((len(rows), max(len(of) for of in rows), log_p.shape[1]))
    for place, of in enumerate(rows):
        padded[place, : len(of)] = of
    moments = RowMoments(padded, log_p)
    start, grid = (start_temperature(log_p), WIDE) if around is None else (around, FINE)
    found = highest_peak(moments, moments.beside, start, grid, (FINE, *SHARPENED))
    values = [sample_spectrum(temper(*one), 1)[0] for one in zip(rows, log_p, found, strict=True)]
    return np.array(values), found


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
    each, each_p = logs.reshape(-1, *logs.shape[-2:]), log_p.reshape(-1, log_p.shape[-1])
    values = _spectra(each, each_p, temperatures.reshape(-1))

    def predict(which: NDArray[np.bool_]) -> tuple[Array, int]:
        return _predicted_peak(chosen(each, which), chosen(each_p, which))

    found = sketch_limits(values, predict, terms, tail, features)
    return ManyLimits(*(of.reshape(logs.shape[:-2]) for of in found)), temperatures


def _spectra(logs: Array, log_p: Array, temperatures: Array) -> Array:
    """``sample_spectrum`` (n, r) of (n, m, K) contrasts, each at a temperature; of many classes those that hardly count go.

    sum_k q_k |L_k - L q|^2 bounds what classes add to any eigenvalue; |L_k - L q| is at most |L_k| + |L q|.
    """
    if logs.shape[-1] <= DENSE_CLASSES:
        return sample_spectrum(temper(logs, log_p, temperatures))
    out = np.zeros((len(logs), min(logs.shape[-2:])))
    for values, rows, p, temperature in zip(out, logs, log_p, temperatures, strict=True):
        q, root = (of[0] for of in tempered(p, temperature[None]))
        mean, squares = rows @ q, np.einsum("mk,mk->k", rows, rows)
        total = max(0.0, float(q @ squares - mean @ mean))
        most = q * (np.sqrt(squares) + np.linalg.norm(mean)) ** 2
        order = np.argsort(most)
        kept = np.sort(order[np.searchsorted(np.cumsum(most[order]), LEFT_OUT * total, side="right") :])
        z = rows[:, kept]
        z -= mean[:, None]
        z *= root[kept]
        found = sample_spectrum(z)
        values[: len(found)] = found
    return out


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
