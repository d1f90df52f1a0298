"""Published estimators under their own names, for comparison. None of them is a default."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["rayleigh_max"]


def rayleigh_max(secants: NDArray[np.float64]) -> float:
    """The black-box estimator published with the metric: the largest of m random Rayleigh quotients v^T F v, |v| = 1.

    For a unit direction v, v^T F v = 4 |J_s v|^2 is about trace(F) / d: with random directions the estimate reads about
    lambda / d times a constant, 1 % of the true value at d = 784.

    Args:
        secants: (m, K) secants of 2 sqrt(p) along directions of unit l2 length.

    Source: arXiv 2606.04767.
    """
    return float((secants**2).sum(axis=1).max())
