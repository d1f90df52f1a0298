"""Stopping early: when the interval is narrow enough, or when a threshold is decided.

A decision uses e-processes, which may be looked at after every row. Under "the norm is at most T" each past-directed energy
x_t = (u_t . y_t)^2 is at most T chi2_1, so prod exp(eta x_t / T) sqrt(1 - 2 eta) is a supermartingale. Under "the norm is at
least T" the top sample eigenvalue is at least a chi squared's, so exp(-eta t l_1 / T) (1 + 2 eta)^(t / 2) is one. Each is
averaged over a few eta; reaching 2 / miss decides, wrong with probability ``miss`` at most.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fimaudit.spectrum import LEARNING, Limits, block_starts, past_directions, top_pair

__all__ = ["FIRST", "GROWTH", "Decision", "decide_threshold", "half_width", "next_look"]

Array = NDArray[np.float64]
Decision = Literal["above", "below"]

#: Directions before the first look, and how the number grows from look to look.
FIRST, GROWTH = 16, 1.03
#: Tilts, weighted alike.
ABOVE = np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.3])
BELOW = np.array([0.1, 0.2, 0.4, 0.8, 1.6])


def decide_threshold(y: Array, threshold: float, miss: float, known: Array | None = None) -> Decision | None:
    """Whether the spectral norm is above or below ``threshold``; ``None`` while it is open.

    Args:
        y: (t, K) contrasts of 2 sqrt(p), in order.
        threshold: T, in the metric's unit.
        miss: probability of a wrong decision, over both sides and all looks.
        known: (K,) unit class direction of the top eigenvector, where it is known without data.
    """
    limit = np.log(2.0 / miss)
    terms = len(y)
    x = _past_energy(y, known) / threshold
    if x.size:
        above = ABOVE[:, None] * np.cumsum(x)[None] + 0.5 * np.log1p(-2 * ABOVE)[:, None] * np.arange(1, len(x) + 1)
        if float((special.logsumexp(above, axis=0) - np.log(len(ABOVE))).max()) >= limit:
            return "above"
    top = float(top_pair(y)[0][0]) / threshold
    below = -BELOW * terms * top + 0.5 * terms * np.log1p(2 * BELOW)
    return "below" if float(special.logsumexp(below)) - np.log(len(BELOW)) >= limit else None


def _past_energy(y: Array, known: Array | None) -> Array:
    if known is not None:
        return np.asarray((y @ known) ** 2)
    if len(y) <= LEARNING:
        return np.empty(0)
    starts = block_starts(len(y))
    u = np.repeat(past_directions(y, starts), np.diff((*starts, len(y))), axis=0)
    return np.asarray(np.einsum("tk,tk->t", u, y[LEARNING:]) ** 2)


def half_width(limits: Limits) -> float:
    """Half of the interval's width over its value."""
    return (limits.upper - limits.lower) / (2 * limits.value) if limits.value > 0 else float("inf")


def next_look(asked: int, most: int) -> int:
    """Directions at the next look."""
    return min(most, max(FIRST, int(np.ceil(asked * GROWTH))))
