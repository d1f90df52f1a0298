"""How far answers lie from each other: in probability, in its logarithm, and in sqrt(p), where noise is nearly even."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.secants import FLOAT32_FLOOR

__all__ = ["differences", "spread", "squared_distances"]

Array = NDArray[np.float64]


def differences(answer: Array, again: Array) -> tuple[float, float]:
    """The largest difference of probability and of its logarithm between an answer (K,) and further ones (m, K)."""
    seen = (answer > FLOAT32_FLOOR) & (again > FLOAT32_FLOOR)
    logs = np.log(np.where(seen, again, 1.0)) - np.log(np.where(seen, answer, 1.0))
    return float(np.abs(again - answer).max()), float(np.abs(logs).max())


def squared_distances(answers: Array, centre: Array) -> Array:
    """Squared distances in sqrt(p) of (m, K) answers from one; what is left of 1 may be a rounding below 0."""
    roots = np.maximum(answers, 0.0)
    np.sqrt(roots, out=roots)
    roots -= np.sqrt(np.maximum(centre, 0.0))
    return np.asarray(np.vecdot(roots, roots))


def spread(answers: Array) -> Array:
    """Squared distances in sqrt(p) of (m, K) answers from their mean.

    >>> spread(np.array([[0.5, 0.5], [0.5, 0.5]])).tolist()
    [0.0, 0.0]
    """
    roots = np.maximum(answers, 0.0)  # what is left of 1 may be a rounding below 0
    np.sqrt(roots, out=roots)
    roots -= roots[:1].copy()  # equal answers lie at no distance, not even that of rounding
    roots -= roots.mean(axis=0)
    return np.asarray(np.vecdot(roots, roots))
