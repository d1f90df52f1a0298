"""Which features carry the shortest way to another answer, from a gradient that was measured anyway. For tables."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fimaudit.estimation.median import median
from fimaudit.results import FeatureShare

__all__ = ["MOST_SKETCHED", "feature_shares", "listed"]

Array = NDArray[np.float64]

#: Inputs with more features than this are not tables that a person reads.
MOST_FEATURES = 1000
#: From random directions the gradient is put together anew, which takes milliseconds for more features than this.
MOST_SKETCHED = 500
#: Features kept for each input.
KEPT = 5
#: Smaller shares are not worth a line.
LEAST = 0.01
#: Probability that an input shows any feature which is noise alone.
FALSE = 0.05
#: Median of chi squared with one degree of freedom.
MEDIAN = 0.4549


def listed(x: NDArray[np.generic], most: int = MOST_FEATURES) -> bool:
    """Whether an input is a row of a table whose features are worth naming.

    >>> listed(np.zeros(30)), listed(np.zeros((3, 8, 8)))
    (True, False)
    """
    return x.ndim == 1 and x.size <= most


def feature_shares(
    gradient: Array, features: NDArray[np.int64], directions: int | None, *, orthogonal: bool = False
) -> list[FeatureShare]:
    """The features with the largest shares g_j^2 / |g|^2, the largest first.

    From m random directions each component of the estimated gradient carries noise of variance |g|^2 / m, or of
    |g|^2 (1 / m - 1 / d) where they are orthogonal: only features that stand above it with 95 % confidence in all are named,
    and it is taken off their shares, which remain estimates.

    Args:
        gradient: (d,) of the log odds of the nearest rival, in units of the scale.
        features: (d,) positions of these features in the input.
        directions: m; ``None`` where every feature was measured.
        orthogonal: whether the directions are orthogonal to each other.

    >>> feature_shares(np.array([0.0, 2.0, 1.0]), np.array([0, 1, 4]), None)
    [FeatureShare(feature=1, share=0.8), FeatureShare(feature=4, share=0.2)]
    """
    energy = gradient * gradient
    total, d = float(energy.sum()), len(energy)
    if not math.isfinite(total):
        energy = np.where(np.isfinite(energy), energy, 0.0)
        total = float(energy.sum())
    if not total > 0:
        return []
    noise = least = 0.0
    if directions is not None:
        # sum of the squares: |g|^2 (1 + d / m) of independent directions, |g|^2 d / m of orthogonal ones
        m = min(directions, d)
        noise = total * (1 / d - m / d**2) if orthogonal else total / (directions + d)
        floor = max(noise, median(energy) / MEDIAN)  # noise of the answers comes on top
        least = floor * _deviations(d) ** 2
        total -= d * noise
    above = (energy > least).nonzero()[0]
    order = above[(-energy[above]).argsort(kind="stable")[:KEPT]]
    each = zip(features[order].tolist(), energy[order].tolist(), strict=True)
    shares = [(feature, min(max((own - noise) / total, 0.0), 1.0)) for feature, own in each]
    return [FeatureShare(feature=feature, share=round(share, 4)) for feature, share in shares if share >= LEAST]


@lru_cache(maxsize=64)
def _deviations(features: int) -> float:
    """Standard deviations that noise exceeds at any of so many features with probability ``FALSE``."""
    return float(special.ndtri(1 - FALSE / (2 * features)))
