"""Positions of things of one kind."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

__all__ = ["positions_by_kind"]


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
