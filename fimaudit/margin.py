"""The first-order l2 distance to a changed decision, from the secants of the log-odds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fimaudit.spectrum import LEARNING, Limits, energy_quantile, least_norm, upper_factor

__all__ = ["Margin", "margin_limits"]

Array = NDArray[np.float64]

#: A hidden class is taken to be at most this much steeper than the steepest visible one.
STEEPER = 1.25


@dataclass(frozen=True)
class Margin:
    """The margin radius with its limits (units of the input), and the class on its other side.

    Attributes:
        radius: with limits.
        rival: the class beyond it.
        steepest: the largest gradient norm of a visible class's log-odds.
    """

    radius: Limits
    rival: int
    steepest: float = 0.0

    def beaten_by(self, gap: float) -> bool:
        """Whether a hidden class, at least ``gap`` below the predicted one in log p, may be nearer than the visible rival.

        It would need a steeper gradient than any visible class has, by more than the factor ``STEEPER``.
        """
        return gap < STEEPER * self.steepest * self.radius.value


def margin_limits(
    logs: Array,
    log_p: Array,
    top: int,
    confidence: float,
    features: int | None = None,
    noise: Array | None = None,
    caught: Array | None = None,
    caught_noise: float = 0.0,
) -> Margin | None:
    """min over k != c of log(p_c / p_k) / |grad log(p_c / p_k)|, an estimate of the distance, not a bound on it.

    The squared norm of each gradient is the mean square of its secants. Lower limit: the smallest over k of the gap over the
    norm's upper limit; the true nearest class is among them, so no correction for many classes is due. Upper limit: with
    the class k_t chosen from earlier contrasts, (l_t / gap)^2 is at most chi2_1 / radius^2 given the past, so
    radius <= sqrt(chi2_{n, 1-alpha/2} / sum_t (l_t / gap)^2). What exact rows measured is added to each squared norm without
    any limits; the upper limit then follows from ``least_norm`` for 1 / radius^2.

    Args:
        logs: (m, K) contrasts of log p over the visible classes.
        log_p: (K,) log probabilities at the input.
        top: the predicted class, a position among the K.
        confidence: of the two-sided interval.
        features: d for orthonormal directions, ``None`` for independent ones.
        noise: (K,) variance that noise of the answers adds to a contrast; taken off the value and the upper limit.
        caught: (q, K) exact secants of log p along orthonormal directions; ``None`` for none.
        caught_noise: noise that they add to each squared norm, in multiples of ``noise``.

    Returns:
        ``None`` when no class's log-odds moved at all.
    """
    terms, tail = len(logs), (1.0 - confidence) / 2
    others = np.delete(np.arange(logs.shape[1]), top)
    gaps = np.maximum(log_p[top] - log_p[others], 0.0)
    odds2 = (logs[:, [top]] - logs[:, others]) ** 2
    energy = odds2.sum(axis=0)
    exact = None
    if caught is not None and len(caught):
        exact = ((caught[:, [top]] - caught[:, others]) ** 2).sum(axis=0)
    moved = energy > 0 if exact is None else energy + exact > 0
    if not moved.any():
        return None
    added = np.zeros(len(others)) if noise is None else noise[others] + noise[top]
    norms2 = np.maximum(energy / terms - added, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):  # few terms have no finite factor; a class may not move at all
        upper2 = energy / terms * upper_factor(tail, terms, features)
        if exact is not None:
            upper2 = upper2 + exact
            exact = np.maximum(exact - caught_noise * added, 0.0)
            norms2 = norms2 + exact
        radii = np.where(norms2 > 0, gaps / np.sqrt(norms2), np.inf)
        lowers = np.where(moved, gaps / np.sqrt(upper2), np.inf)
    nearest = int(np.argmin(radii))
    upper = _upper(odds2, gaps, tail, features, added, exact)
    low, value = float(lowers.min()), float(radii[nearest])
    if not np.isfinite(value):
        return None
    return Margin(Limits(value, low, max(upper, low)), int(others[nearest]), float(np.sqrt(norms2.max())))


def _upper(odds2: Array, gaps: Array, tail: float, features: int | None, added: Array, exact: Array | None) -> float:
    learning = LEARNING if exact is None else 0
    n = len(odds2) - learning
    if (gaps == 0).any():
        return 0.0  # a tie is a changed decision at distance 0
    if n <= 0:
        return float("inf")
    scaled = odds2 / gaps**2
    past = np.cumsum(scaled, axis=0)[learning - 1 : -1] if exact is None else _past(scaled, exact / gaps**2)
    chosen = past.argmax(axis=1)
    terms = scaled[np.arange(learning, len(scaled)), chosen]
    noise = float((added / gaps**2)[chosen].sum())
    total = float(terms.sum()) - noise
    quantile = energy_quantile(1.0 - tail, n, features)
    if exact is None:
        return float(np.sqrt(quantile / total)) if total > 0 else float("inf")
    known = exact / gaps**2
    share = max(total, 0.0) / (total + noise) if total + noise > 0 else 0.0  # of the terms' sum that is no noise
    energies = np.bincount(chosen, terms, len(known)) * share
    inverse2 = least_norm(energies.tolist(), known.tolist(), quantile, float(known.max()))
    return float(1.0 / np.sqrt(inverse2)) if inverse2 > 0 else float("inf")


def _past(scaled: Array, known: Array) -> Array:
    """What speaks for each class before each term: the exact part, and the mean of the terms so far."""
    before = np.vstack([np.zeros_like(known), np.cumsum(scaled, axis=0)[:-1]])
    return np.asarray(known + before / np.maximum(np.arange(len(scaled)), 1)[:, None])
