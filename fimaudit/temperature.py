"""The maximum of the spectral norm over softmax temperature: the sensitivity that no rescaling of logits can change.

With logits z / T the output distribution is q_T ~ p^(1/T), and with L = J_L v the change of log p along a direction v,

    lambda_T = top eigenvalue of E[Z^T Z],   Z = (L - L q_T) sqrt(q_T) / T,   peak = max_T lambda_T.

At two classes the peak equals 0.439 / r^2 with r the first-order margin radius.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fimaudit.spectrum import (
    DENSE_CLASSES,
    LEARNING,
    Limits,
    block_starts,
    corrected_top,
    energy_quantile,
    past_directions,
    past_grams,
    top_pair,
    upper_factor,
)

__all__ = ["peak_limits", "peak_temperature", "start_temperature", "temper", "tempered_grams"]

Array = NDArray[np.float64]

#: For two classes the peak lies where the gap of log p is 2.4 T; more classes move it, up to a factor of a few.
TWO_CLASS_GAP = 2.4
GRID = np.exp(np.linspace(np.log(1 / 8), np.log(8.0), 13))
#: The predicted temperature is renewed when the past holds this many contrasts.
RENEWALS = (16, 64)


def temper(logs: Array, log_p: Array, temperature: float) -> Array:
    """Z = (L - L q_T) sqrt(q_T) / T: contrasts of log p to contrasts of 2 sqrt(q_T), both (m, K)."""
    q = _tempered(log_p, np.array([temperature]))[0]
    return np.asarray((logs - (logs @ q)[:, None]) * (np.sqrt(q) / temperature))


def peak_temperature(logs: Array, log_p: Array, around: float | None = None) -> float:
    """The temperature at which the sample's lambda_T is largest: a grid over log T, then two refinements.

    Args:
        logs: (m, K) rows whose Gram stands for J_L J_L^T; rows of a Jacobian's transpose serve as well.
        log_p: (K,) log probabilities.
        around: centre of the grid; from the gap between the two largest log p when left out.
    """
    gram = logs.T @ logs / len(logs) if logs.shape[1] <= DENSE_CLASSES else None
    grid = GRID * (around if around is not None else start_temperature(log_p))
    best = 0
    for _ in range(12):
        tops = _tops(logs, gram, log_p, grid)
        best = int(np.argmax(tops))
        if 0 < best < len(grid) - 1 or not tops[best] > 0:
            break
        grid = grid * (GRID[-2] if best else GRID[1])
    for _ in range(2):
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        grid = np.exp(np.linspace(np.log(low), np.log(high), 7))
        best = int(np.argmax(_tops(logs, gram, log_p, grid)))
    return float(grid[best])


def start_temperature(log_p: Array) -> float:
    """Where the peak of the two leading classes alone would lie."""
    leading = np.partition(log_p, len(log_p) - 2)[-2:]
    spread = float(leading[1] - log_p.mean())  # a tie is told from the scale of the logits by the other classes
    return (max(float(leading[1] - leading[0]), 0.1 * spread) or 0.5) / TWO_CLASS_GAP


def peak_limits(logs: Array, log_p: Array, confidence: float, features: int | None = None) -> tuple[Limits, float]:
    """The peak spectral norm from contrasts of log p.

    upper: the norm at the true peak temperature is below the upper limit at that temperature, so the largest of the upper
    limits covers it; lower: a predictable sum whose temperature and direction both come from earlier contrasts, each
    term of which is at most peak chi2_1.

    Args:
        logs: (m, K) contrasts of log p.
        log_p: (K,) log probabilities at the input.
        confidence: of the two-sided interval.
        features: d for orthonormal directions, ``None`` for independent ones.

    Returns:
        the limits, and the temperature of the peak.
    """
    terms, tail = len(logs), (1.0 - confidence) / 2
    temperature = peak_temperature(logs, log_p)
    values, _ = top_pair(temper(logs, log_p, temperature))
    upper = float(values[0]) * upper_factor(tail, terms, features)
    energy, n = _predicted_peak(logs, log_p)
    lower = energy / energy_quantile(1.0 - tail, n, features) if n else 0.0
    return Limits(max(corrected_top(values, terms, features), lower), lower, upper), temperature


def _predicted_peak(logs: Array, log_p: Array) -> tuple[float, int]:
    """sum_t (u_t . z_t)^2 with temperature and direction of term t found from the contrasts before it."""
    m = len(logs)
    if m <= LEARNING:
        return 0.0, 0
    starts = block_starts(m)
    temperatures = _past_temperatures(logs, log_p, starts)
    lengths = np.diff(np.append(starts, m))
    if logs.shape[1] <= DENSE_CLASSES:
        grams = tempered_grams(past_grams(logs, starts), log_p, temperatures)
        directions = np.linalg.eigh(grams)[1][:, :, -1]
    else:
        directions = np.stack(
            [past_directions(temper(logs[:b], log_p, t), [b])[0] for b, t in zip(starts, temperatures, strict=True)]
        )
    # u . z_t = sum_k u_k sqrt(q_k) / T (L_tk - (L q)_t) is a linear form of L_t.
    q = _tempered(log_p, temperatures)
    weights = directions * np.sqrt(q) / temperatures[:, None]
    forms = weights - weights.sum(axis=1, keepdims=True) * q
    return float((np.einsum("tk,tk->t", np.repeat(forms, lengths, axis=0), logs[LEARNING:]) ** 2).sum()), m - LEARNING


def _past_temperatures(logs: Array, log_p: Array, starts: NDArray[np.int64]) -> Array:
    """Temperature for each block, from log p alone at first and renewed from the past."""
    temperature = start_temperature(log_p)
    out = np.full(len(starts), temperature)
    for renewal in RENEWALS:
        later = starts >= renewal
        if later.any():
            past = logs[: starts[later][0]]
            gram = past.T @ past if logs.shape[1] <= DENSE_CLASSES else None
            grid = temperature * GRID[::2]
            temperature = float(grid[int(np.argmax(_tops(past, gram, log_p, grid)))])
            out[later] = temperature
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
