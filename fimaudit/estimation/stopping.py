"""Stopping early: when the interval is narrow enough, or when a threshold is decided.

A decision uses e-processes, which may be looked at after every row. Under "the norm is at most T" each past-directed energy
x_t = (u_t . y_t)^2 is at most T chi2_1, so prod exp(eta x_t / T) sqrt(1 - 2 eta) is a supermartingale. Under "the norm is at
least T" the top sample eigenvalue is at least a chi squared's, so exp(-eta t l_1 / T) (1 + 2 eta)^(t / 2) is one. Each is
averaged over a few eta; reaching 2 / miss decides, wrong with probability ``miss`` at most.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fimaudit.errors import UsageError
from fimaudit.estimation.predictable import LEARNING, block_starts, past_directions
from fimaudit.estimation.spectral_norm import sample_spectrum

__all__ = ["Decision", "decide_threshold", "most_queries", "next_look", "sketch_serves"]

Array = NDArray[np.float64]
Decision = Literal["above", "below"]

#: Directions before the first look, and how the number grows from look to look.
FIRST, GROWTH = 16, 1.03
#: Up to this many rows, the whole Jacobian is measured even where fewer random rows may decide a threshold.
FEW = 36
#: Rows at which a threshold is given up, and bytes of an input's packed signs.
DECIDED, MOST_BYTES = 1000, 64 * 2**20
#: A look comes when this share of the directions that a width should take is there, after so much growth at most
#: (test_conditions_adaptive.test_looks_come_sparsely_and_then_direction_by_direction; rows: benchmarks/conditions.py).
NEAR, LEAP = 0.94, 1.5
#: Tilts, weighted alike.
ABOVE = np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.3])
BELOW = np.array([0.1, 0.2, 0.4, 0.8, 1.6])


def decide_threshold(y: Array, threshold: float, miss: float) -> Decision | None:
    """Whether the spectral norm is above or below ``threshold``; ``None`` while it is open.

    Args:
        y: (t, K) contrasts of 2 sqrt(p), in order.
        threshold: T, in the metric's unit.
        miss: probability of a wrong decision, over both sides and all looks.

    >>> y = np.random.default_rng(0).standard_normal((100, 3))  # of norm 1
    >>> decide_threshold(y, 0.1, 0.05), decide_threshold(y, 10.0, 0.05)
    ('above', 'below')
    """
    limit = np.log(2.0 / miss)
    terms = len(y)
    x = _past_energy(y) / threshold
    if x.size:
        above = ABOVE[:, None] * np.cumsum(x)[None] + 0.5 * np.log1p(-2 * ABOVE)[:, None] * np.arange(1, len(x) + 1)
        if float((special.logsumexp(above, axis=0) - np.log(len(ABOVE))).max()) >= limit:
            return "above"
    top = float(sample_spectrum(y)[0]) / threshold
    below = -BELOW * terms * top + 0.5 * terms * np.log1p(2 * BELOW)
    return "below" if float(special.logsumexp(below)) - np.log(len(BELOW)) >= limit else None


def _past_energy(y: Array) -> Array:
    if len(y) <= LEARNING:
        return np.empty(0)
    starts = block_starts(len(y))
    u = np.repeat(past_directions(y, starts), np.diff((*starts, len(y))), axis=0)
    return np.asarray(np.einsum("tk,tk->t", u, y[LEARNING:]) ** 2)


def most_queries(precision: float | None, threshold: float | None, confidence: float, features: int) -> int:
    """Where ``queries`` is ``auto``: rows of an input at which even an undecided one stops.

    A width: four times 2 (z / precision)^2, at which a single class direction would reach it; slow spectra take up to twice
    as many. A threshold: what a spectral norm within a quarter of it takes. Directions of one input stay within
    ``MOST_BYTES``, and the whole Jacobian is enough.

    Raises:
        UsageError: neither a precision nor a threshold says when to stop.

    >>> most_queries(0.1, None, 0.95, 3072)
    3075
    """
    if precision is None and threshold is None:
        raise UsageError("expected --precision or --threshold beside --queries auto: they say when an input has enough")
    wanted = 0
    if precision is not None:
        wanted = min(math.ceil(4 * _one_direction(precision, confidence)), max(FIRST, 5 * features))
    if threshold is not None:
        wanted = max(wanted, DECIDED)
    return 1 + max(FIRST, min(wanted, 8 * MOST_BYTES // max(1, features)))


def sketch_serves(precision: float | None, threshold: float | None, confidence: float, rows: int) -> bool:
    """Whether random directions stop with fewer than ``rows``, as a rule.

    >>> sketch_serves(0.5, None, 0.95, rows=100), sketch_serves(0.1, None, 0.95, rows=100)
    (True, False)
    """
    if threshold is not None:
        return rows > FEW
    return precision is not None and rows > 1.2 * _one_direction(precision, confidence)


def _one_direction(precision: float, confidence: float) -> float:
    """2 (z / precision)^2: rows at which a spectral norm of one class direction is as precise."""
    return 2.0 * (float(special.ndtri(0.5 + confidence / 2)) / precision) ** 2


def next_look(asked: int, most: int, away: float | None = None) -> int:
    """Directions at the next look.

    Args:
        asked: directions so far.
        most: directions in all.
        away: half-width over the one that is wanted, where a width is waited for: it falls with the root of the number (for
            few directions faster), so the next look comes shortly before it should be reached, and from there on direction
            by direction.

    >>> next_look(100, 1000), next_look(100, 1000, away=1.2), next_look(100, 110, away=1.2)
    (103, 135, 110)
    """
    if away is None or not np.isfinite(away):
        return min(most, max(FIRST, int(np.ceil(asked * GROWTH))))
    return min(most, max(asked + 1, int(asked * min(LEAP, NEAR * away**2))))
