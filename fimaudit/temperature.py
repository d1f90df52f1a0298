"""The maximum of the spectral norm over softmax temperature: the sensitivity that no rescaling of logits can change.

With logits z / T the output distribution is q_T ~ p^(1/T), and with L = J_L v the change of log p along a direction v,

    lambda_T = top eigenvalue of E[Z^T Z],   Z = (L - L q_T) sqrt(q_T) / T,   peak = max_T lambda_T.

At two classes the peak equals 0.439 / r^2 with r the first-order margin radius.
"""

from __future__ import annotations

import itertools

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
    top_pair,
)

__all__ = ["peak_limits", "peak_temperature", "temper"]

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
    return max(float(leading[1] - leading[0]), 0.5) / TWO_CLASS_GAP


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
    upper = terms * float(values[0]) / energy_quantile(tail, terms, features)
    energy, n = _predicted_peak(logs, log_p)
    lower = energy / energy_quantile(1.0 - tail, n, features) if n else 0.0
    return Limits(max(corrected_top(values, terms, features), lower), lower, upper), temperature


def _predicted_peak(logs: Array, log_p: Array) -> tuple[float, int]:
    m = len(logs)
    if m <= LEARNING:
        return 0.0, 0
    temperature = start_temperature(log_p)
    energy = 0.0
    starts = block_starts(m)
    edges = [LEARNING, *(t for t in RENEWALS if t < m), m]
    for start, stop in itertools.pairwise(edges):
        if start > LEARNING:
            gram = logs[:start].T @ logs[:start] if logs.shape[1] <= DENSE_CLASSES else None
            grid = temperature * GRID[::2]
            temperature = float(grid[int(np.argmax(_tops(logs[:start], gram, log_p, grid)))])
        z = temper(logs[:stop], log_p, temperature)
        blocks = np.concatenate([[start], starts[(starts > start) & (starts < stop)]])
        u = np.repeat(past_directions(z, blocks), np.diff(np.append(blocks, stop)), axis=0)
        energy += float((np.einsum("tk,tk->t", u, z[start:]) ** 2).sum())
    return energy, m - LEARNING


def _tempered(log_p: Array, temperatures: Array) -> Array:
    z = log_p[None, :] / temperatures[:, None]
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _tops(logs: Array, gram: Array | None, log_p: Array, temperatures: Array) -> Array:
    """lambda_T at each temperature, up to one common factor."""
    q = _tempered(log_p, temperatures)
    if gram is None:
        return np.array([_power_top(temper(logs, log_p, float(t))) for t in temperatures])
    cq = q @ gram
    inner = gram[None] - cq[:, :, None] - cq[:, None, :] + np.einsum("nk,nk->n", cq, q)[:, None, None]
    root = np.sqrt(q) / temperatures[:, None]
    return np.asarray(np.linalg.eigvalsh(root[:, :, None] * inner * root[:, None, :])[:, -1])


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
