"""The median of a few hundred numbers, for where it is taken of each input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["median"]


def median(values: NDArray[np.float64]) -> float:
    """``numpy.median`` of (n,) finite numbers, n >= 1, in a fifth of its time where they are few.

    >>> median(np.array([3.0, 1.0, 2.0])), median(np.array([3.0, 1.0, 2.0, 5.0]))
    (2.0, 2.5)
    """
    low, high = (len(values) - 1) // 2, len(values) // 2
    ordered = np.partition(values, (low, high))
    return float(ordered[low] + ordered[high]) / 2
