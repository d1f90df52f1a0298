"""A few of many inputs that stand for all of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["evenly_spread"]


def evenly_spread(count: int, most: int) -> NDArray[np.int64]:
    """At most so many positions of ``count``, rising, the first and the last among them.

    >>> evenly_spread(10, 4).tolist(), evenly_spread(3, 8).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
