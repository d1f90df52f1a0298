"""Where an input's queries go: finding its displacement, the profile, and what is left for its measurement.

An input's check and its share of the pilot come out of its queries while they are a small part of them (``GIVEN``). Beyond
that they add up to ``most_on_top`` rows, and the rest is taken from the measurement, as the profile is. The measurement
keeps half at either step, so that few queries may become more.
"""

from __future__ import annotations

__all__ = ["LEAST", "ON_TOP", "after_extras", "after_finding", "most_on_top"]

#: The base row and two directions: one contrast.
LEAST = 3
#: Rows that pilot and per-input checks may add to the queries; beyond so many rows, a quarter of that.
ON_TOP, FEW_ON_TOP = 0.10, 6
#: Part of its queries that a measurement gives to pilot and check before rows are added: its interval widens by half that.
GIVEN = 0.1


def most_on_top(queries: int) -> int:
    """Rows that an input's check and its share of the pilot add to its queries at most.

    >>> most_on_top(50), most_on_top(100), most_on_top(200), most_on_top(800)
    (5, 6, 6, 20)
    """
    return int(min(ON_TOP * queries, max(FEW_ON_TOP, ON_TOP / 4 * queries)))


def after_finding(queries: int, found: int, repeats: int) -> int:
    """Of so many queries, those left when the displacement is found.

    Args:
        queries: of the input, the base row included.
        found: rows of its check, of its own displacement, and its share of the pilot.
        repeats: of the base row.

    >>> after_finding(200, 9, 1), after_finding(100, 14, 1), after_finding(200, 50, 8), after_finding(22, 50, 1)
    (191, 90, 149, 11)
    """
    taken = max(found - most_on_top(queries), min(found, int(GIVEN * queries)))
    return max(LEAST, queries // 2, queries - taken - (repeats - 1))


def after_extras(queries: int, extra: int) -> int:
    """Of those, the ones left beside the rows of profile and witness."""
    return max(LEAST, queries // 2, queries - extra)
