"""The first-order l2 distance to a changed decision, from the secants of the log-odds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fimaudit.spectrum import LEARNING, Limits, energy_quantile

__all__ = ["Margin", "margin_limits"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Margin:
    """The margin radius with its limits (units of the input), and the class on its other side."""

    radius: Limits
    rival: int


def margin_limits(logs: Array, log_p: Array, top: int, confidence: float, features: int | None = None) -> Margin | None:
    """min over k != c of log(p_c / p_k) / |grad log(p_c / p_k)|, an estimate of the distance, not a bound on it.

    The squared norm of each gradient is the mean square of its secants. Lower limit: the smallest over k of the gap over the
    norm's upper limit; the true nearest class is among them, so no correction for many classes is due. Upper limit: with
    the class k_t chosen from earlier contrasts, (l_t / gap)^2 is at most chi2_1 / radius^2 given the past, so
    radius <= sqrt(chi2_{n, 1-alpha/2} / sum_t (l_t / gap)^2).

    Args:
        logs: (m, K) contrasts of log p over the visible classes.
        log_p: (K,) log probabilities at the input.
        top: the predicted class, a position among the K.
        confidence: of the two-sided interval.
        features: d for orthonormal directions, ``None`` for independent ones.

    Returns:
        ``None`` when no class's log-odds moved at all.
    """
    terms, tail = len(logs), (1.0 - confidence) / 2
    others = np.delete(np.arange(logs.shape[1]), top)
    gaps = np.maximum(log_p[top] - log_p[others], 0.0)
    odds2 = (logs[:, [top]] - logs[:, others]) ** 2
    energy = odds2.sum(axis=0)
    moved = energy > 0
    if not moved.any():
        return None
    with np.errstate(divide="ignore"):
        radii = np.where(moved, gaps / np.sqrt(energy / terms), np.inf)
        lowers = np.where(moved, gaps / np.sqrt(energy / energy_quantile(tail, terms, features)), np.inf)
    nearest = int(np.argmin(radii))
    upper = _upper(odds2, gaps, tail, features)
    return Margin(Limits(float(radii[nearest]), float(lowers.min()), max(upper, float(lowers.min()))), int(others[nearest]))


def _upper(odds2: Array, gaps: Array, tail: float, features: int | None) -> float:
    n = len(odds2) - LEARNING
    if (gaps == 0).any():
        return 0.0  # a tie is a changed decision at distance 0
    if n <= 0:
        return float("inf")
    scaled = odds2 / gaps**2
    past = np.cumsum(scaled, axis=0)[LEARNING - 1 : -1]
    chosen = scaled[np.arange(LEARNING, len(scaled)), past.argmax(axis=1)]
    total = float(chosen.sum())
    return float(np.sqrt(energy_quantile(1.0 - tail, n, features) / total)) if total > 0 else float("inf")
