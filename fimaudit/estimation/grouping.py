"""Positions of things of one kind, and their arrays as one."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["chosen", "few_at_a_time", "positions_by_kind", "stacked"]

#: Numbers that are worked on together: with more, caches lose what fewer calls gain, and memory grows with a block.
TOGETHER = 2**19


def positions_by_kind(kinds: Iterable[Hashable]) -> list[list[int]]:
    """Positions of those of one kind, kind by kind; those of kind ``None`` are left out.

    >>> positions_by_kind(["a", None, "b", "a"])
    [[0, 3], [2]]
    """
    places: dict[Hashable, list[int]] = {}
    for place, kind in enumerate(kinds):
        if kind is not None:
            places.setdefault(kind, []).append(place)
    return list(places.values())


def few_at_a_time(groups: Iterable[Sequence[int]], numbers: int) -> Iterator[Sequence[int]]:
    """The groups of positions, in parts where each stands for so many numbers that all would be more than ``TOGETHER``.

    >>> list(few_at_a_time([[0, 2, 3], [1]], TOGETHER // 2))
    [[0, 2], [3], [1]]
    """
    count = max(1, TOGETHER // max(1, numbers))
    return (group[first : first + count] for group in groups for first in range(0, len(group), count))


def chosen(rows: NDArray[Any], places: Sequence[int] | NDArray[Any]) -> NDArray[Any]:
    """Some of the things along the first axis, in order; not copied where these are all.

    Args:
        rows: (n, ...).
        places: positions, rising, or a mask (n,).

    >>> chosen(np.array([1.0, 2.0, 3.0]), [0, 2])
    array([1., 3.])
    """
    count = int(np.count_nonzero(places)) if isinstance(places, np.ndarray) and places.dtype == np.bool_ else len(places)
    return rows if count == len(rows) else rows[places]


def stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """(n, ...) of n >= 1 arrays of one shape, as ``np.stack``, which takes three times as long of a few small ones.

    >>> stacked([np.zeros(2), np.ones(2)]).tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """
    return np.concatenate(arrays).reshape(len(arrays), *arrays[0].shape)
