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

from fimaudit.spectrum import (
    DENSE_CLASSES,
    LEARNING,
    Limits,
    block_starts,
    corrected_top,
    energy_quantile,
    joint_rows,
    joint_starts,
    joint_top,
    largest_early,
    leading_directions,
    past_directions,
    past_grams,
    predicted_lower,
    predicted_sum,
    top_pair,
    upper_factor,
)

__all__ = ["peak_limits", "peak_temperature", "start_temperature", "temper", "tempered_grams"]

Array = NDArray[np.float64]

#: For two classes the peak lies where the gap of log p is 2.4 T; more classes move it, up to a factor of a few.
TWO_CLASS_GAP = 2.4
GRID = np.exp(np.linspace(np.log(1 / 8), np.log(8.0), 13))
FINER = np.exp(np.linspace(np.log(GRID[5]), np.log(GRID[7]), 7))
#: The predicted temperature is renewed when the past holds this many contrasts.
RENEWALS = (16, 64)


#: Many classes: rows from which the coarse grid is placed.
COARSE_ROWS = 48


def temper(logs: Array, log_p: Array, temperature: float) -> Array:
    """Z = (L - L q_T) sqrt(q_T) / T: contrasts of log p to contrasts of 2 sqrt(q_T), both (m, K)."""
    q = _tempered(log_p, np.array([temperature]))[0]
    out = logs - (logs @ q)[:, None]
    out *= np.sqrt(q) / temperature
    return np.asarray(out)


def peak_temperature(logs: Array, log_p: Array, around: float | None = None) -> float:
    """The temperature at which the sample's lambda_T is largest: a grid over log T, a finer one, and a parabola.

    Args:
        logs: (m, K) rows whose Gram stands for J_L J_L^T; rows of a Jacobian's transpose serve as well.
        log_p: (K,) log probabilities.
        around: centre of the grid; from the gap between the two largest log p when left out.
    """
    gram = _gram(logs)
    grid = GRID * (around if around is not None else start_temperature(log_p))
    few = logs if gram is not None else logs[:COARSE_ROWS]
    grid, tops = _climb(few, gram, log_p, grid, GRID[-2])
    finer = FINER * grid[int(np.argmax(tops))]
    grid, tops = _climb(logs, gram, log_p, finer, FINER[-2] / FINER[1])
    return _summit(grid, tops)


def _climb(logs: Array, gram: Array | None, log_p: Array, grid: Array, shift: float) -> tuple[Array, Array]:
    """lambda_T over the grid, moved by the factor ``shift`` until its largest value does not lie at an end."""
    for _ in range(12):
        tops = _tops(logs, gram, log_p, grid)
        best = int(np.argmax(tops))
        if 0 < best < len(grid) - 1 or not tops[best] > 0:
            break
        grid = grid * (shift if best else 1.0 / shift)
    return grid, tops


def _summit(grid: Array, tops: Array) -> float:
    """Top of the parabola in log T through the largest value and its neighbours."""
    best = int(np.argmax(tops))
    if not 0 < best < len(grid) - 1:
        return float(grid[best])
    before, at, after = tops[best - 1 : best + 2]
    bend = 2 * at - before - after
    offset = 0.5 * (after - before) / bend if bend > 0 else 0.0
    return float(grid[best] * (grid[best + 1] / grid[best]) ** offset)


def _gram(logs: Array) -> Array | None:
    """Few classes: the Gram matrix serves every temperature."""
    return logs.T @ logs / len(logs) if logs.shape[1] <= DENSE_CLASSES else None


def start_temperature(log_p: Array) -> float:
    """Where the peak of the two leading classes alone would lie."""
    leading = np.partition(log_p, len(log_p) - 2)[-2:]
    spread = float(leading[1] - log_p.mean())  # a tie is told from the scale of the logits by the other classes
    return (max(float(leading[1] - leading[0]), 0.1 * spread) or 0.5) / TWO_CLASS_GAP


def peak_limits(
    logs: Array, log_p: Array, confidence: float, features: int | None = None, caught: Array | None = None
) -> tuple[Limits, float]:
    """The peak spectral norm from contrasts of log p.

    upper: the norm at the true peak temperature is below the upper limit at that temperature, so the largest of the upper
    limits covers it; lower: a predictable sum whose temperature and direction both come from earlier contrasts, each
    term of which is at most peak chi2_1.

    Args:
        logs: (m, K) contrasts of log p.
        log_p: (K,) log probabilities at the input.
        confidence: of the two-sided interval.
        features: d for orthonormal directions, ``None`` for independent ones; that of the complement beside exact rows.
        caught: (q, K) exact secants of log p along orthonormal directions; ``None`` for none.

    Returns:
        the limits, and the temperature of the peak.
    """
    terms, tail = len(logs), (1.0 - confidence) / 2
    if caught is not None and len(caught):
        return _joint_peak(logs, log_p, caught, upper_factor(tail, terms, features), 1.0 - tail, features)
    temperature = peak_temperature(logs, log_p)
    values, _ = top_pair(temper(logs, log_p, temperature))
    upper = float(values[0]) * upper_factor(tail, terms, features)
    energy, n = _predicted_peak(logs, log_p)
    lower = energy / energy_quantile(1.0 - tail, n, features) if n else 0.0
    return Limits(max(corrected_top(values, terms, features), lower), lower, upper), temperature


def _joint_peak(
    logs: Array, log_p: Array, caught: Array, factor: float, probability: float, features: int | None
) -> tuple[Limits, float]:
    """The same beside exact rows: ``spectral_limits`` at the temperature of the peak, or of the upper limit's own peak."""
    terms = len(logs)
    temperature = peak_temperature(joint_rows(logs, caught), log_p)
    exact = temper(caught, log_p, temperature)
    value, _ = joint_top(temper(logs, log_p, temperature), exact, features)
    upper = np.inf
    if np.isfinite(factor):
        wide = joint_rows(logs, caught, factor)
        upper = float(top_pair(temper(wide, log_p, peak_temperature(wide, log_p)), terms)[0][0])
    starts = joint_starts(terms)
    forms = _predicted_forms(logs, log_p, starts, caught)
    floor = float(top_pair(exact, 1)[0][0])
    lower = predicted_lower(forms, logs, starts, caught, energy_quantile(probability, terms, features), floor)
    return Limits(max(value, lower), lower, upper), temperature


def _predicted_peak(logs: Array, log_p: Array) -> tuple[float, int]:
    """sum_t (u_t . z_t)^2 with temperature and direction of term t found from the contrasts before it."""
    m = len(logs)
    if m <= LEARNING:
        return 0.0, 0
    starts = block_starts(m)
    return predicted_sum(_predicted_forms(logs, log_p, starts), logs, starts), m - LEARNING


def _predicted_forms(logs: Array, log_p: Array, starts: Sequence[int], caught: Array | None = None) -> Array:
    """u . z_t = sum_k u_k sqrt(q_k) / T (L_tk - (L q)_t) as a linear form of L_t, for each block, (blocks, K)."""
    temperatures = _past_temperatures(logs, log_p, starts, caught)
    q = _tempered(log_p, temperatures)
    root = np.sqrt(q) / temperatures[:, None]
    if logs.shape[1] <= DENSE_CLASSES:
        grams = tempered_grams(past_grams(logs, starts, caught), log_p, temperatures)
        early = logs[largest_early(logs)] if caught is None else caught[int(np.argmax((caught**2).sum(axis=1)))]
        directions = leading_directions(grams, (early - q @ early[:, None]) * root)
    else:
        exact = [None] * len(starts) if caught is None else [temper(caught, log_p, float(t)) for t in temperatures]
        directions = np.stack(
            [
                past_directions(temper(logs[:b], log_p, t), [b], some)[0]
                for b, t, some in zip(starts, temperatures, exact, strict=True)
            ]
        )
    weights = directions * root
    return np.asarray(weights - weights.sum(axis=1, keepdims=True) * q)


def _past_temperatures(logs: Array, log_p: Array, starts: Sequence[int], caught: Array | None = None) -> Array:
    """Temperature for each block, from log p alone at first, or from exact rows, and renewed from the past."""
    temperature = start_temperature(log_p)
    out = np.full(len(starts), temperature)
    renewals = (bisect_left(starts, renewal) for renewal in (RENEWALS if caught is None else (0, *RENEWALS)))
    for block in renewals:
        if block < len(starts):
            past = logs[: starts[block]]
            if caught is not None:
                past = np.vstack([np.sqrt(max(starts[block], 1)) * caught, past])
            grid = temperature * GRID[::2]
            temperature = float(grid[int(np.argmax(_tops(past, _gram(past), log_p, grid)))])
            out[block:] = temperature
    return out


def _tempered(log_p: Array, temperatures: Array) -> Array:
    z = log_p[None, :] / temperatures[:, None]
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _tops(logs: Array, gram: Array | None, log_p: Array, temperatures: Array) -> Array:
    """lambda_T at each temperature, up to one common factor."""
    if gram is None:
        return np.array([_power_top(temper(logs, log_p, float(t))) for t in temperatures])
    return np.asarray(np.linalg.eigvalsh(tempered_grams(gram[None], log_p, temperatures))[:, -1])


def tempered_grams(grams: Array, log_p: Array, temperatures: Array) -> Array:
    """diag(sqrt q) (I - 1 q^T) C (I - q 1^T) diag(sqrt q) / T^2 at each temperature, for one or as many Grams C.

    Args:
        grams: (n or 1, K, K) Grams of log-probability gradients.
        log_p: (K,) log probabilities.
        temperatures: (n,).

    Returns:
        (n, K, K) Fisher information on the class side.
    """
    q = _tempered(log_p, temperatures)
    cq = (grams @ q[:, :, None])[:, :, 0]
    inner = grams - cq[:, :, None] - cq[:, None, :] + (cq * q).sum(axis=1)[:, None, None]
    root = np.sqrt(q) / temperatures[:, None]
    return np.asarray(root[:, :, None] * inner * root[:, None, :])


def _power_top(z: Array, steps: int = 24) -> float:
    """Top eigenvalue of z^T z by power steps, precise enough to place a maximum."""
    u = z[int(np.argmax((z**2).sum(axis=1)))]
    value = 0.0
    for _ in range(steps):
        length = float(np.linalg.norm(u))
        if length == 0:
            return 0.0
        u = (z @ (u / length)) @ z
        new = float(np.linalg.norm(u))
        if abs(new - value) <= 1e-4 * new:
            return new
        value = new
    return value
