"""What is drawn for the checks, from the seed alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["candidates", "random_numbers"]

#: Of the random numbers that choose inputs and corners.
STREAM = 0x1A7E
#: Inputs among which those to ask and the nearest other decision are chosen.
MOST_CANDIDATES = 512


def candidates(numbers: NDArray[np.int64], seed: int) -> list[int]:
    """Positions of the inputs among which the checks choose."""
    if len(numbers) <= MOST_CANDIDATES:
        return [int(i) for i in numbers]
    return sorted(int(i) for i in random_numbers(seed, 1).choice(numbers, MOST_CANDIDATES, replace=False))


def random_numbers(seed: int, stream: int, place: int = 0) -> np.random.Generator:
    """What is drawn for one purpose, and for one of several things of the same purpose."""
    key = np.array([seed % 2**64, STREAM + stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=np.array([0, 0, 0, place], dtype=np.uint64), key=key))
