"""How many rows the integrity checks of a run take, and from which size of a run on they are made."""

from __future__ import annotations

from fimaudit.measurement.boundary import CHECK_ROWS
from fimaudit.measurement.query_split import WITNESS_FROM

__all__ = [
    "AMONG_ROWS",
    "BACK_AGAIN",
    "BETWEEN",
    "CLOSER",
    "DECOY_ROWS",
    "DECOY_TIMES",
    "HALVINGS",
    "LOOKS",
    "MOST_INTEGRITY_ROWS",
    "NUDGES",
    "PLAIN",
    "REPEATED",
    "RUNGS",
    "SEGMENTS",
    "SLOPES",
    "TYPICAL_ROWS",
    "WALKS",
    "looks_at_integrity",
]

#: Walks there and back, rows of one, and how often the way back is repeated where it was answered otherwise.
WALKS, RUNGS, BACK_AGAIN = 2, 13, 3
#: Rows that are asked among those of the inputs, plain ones and such between two; how often each, once more at the end.
PLAIN, BETWEEN, DECOY_TIMES = 4, 4, 2
DECOY_ROWS = (PLAIN + BETWEEN) * (DECOY_TIMES + 1)
#: Neighbours, by a last digit, of each row between two inputs.
NUDGES = 8
#: Segments that are halved, how often, how often more where a jump is left, and looks at where a decision changed.
SEGMENTS, HALVINGS, CLOSER, LOOKS = 4, 8, 6, 3
#: Inputs whose slope is followed towards their witness.
SLOPES = 8
#: How often one row is asked where answers are noisy.
REPEATED = 3
#: Rows at most: a noisy model, or one that is suspected everywhere, takes them; others about a third.
MOST_INTEGRITY_ROWS = (
    WALKS * RUNGS * (2 + BACK_AGAIN)
    + SEGMENTS * (2 * REPEATED + HALVINGS + CLOSER + 2 * (REPEATED - 1) + LOOKS * CHECK_ROWS)
    + SLOPES * 2 * REPEATED
    + DECOY_ROWS
    + (PLAIN + BETWEEN) * BACK_AGAIN
    + BETWEEN * (1 + NUDGES) * 2
)
TYPICAL_ROWS = WALKS * RUNGS * 2 + SEGMENTS * (2 + HALVINGS) + SLOPES * 2 + DECOY_ROWS + BETWEEN * (1 + NUDGES)
#: Those of them that stand among the rows of the inputs.
AMONG_ROWS = WALKS * RUNGS * 2 + (PLAIN + BETWEEN) * DECOY_TIMES + BETWEEN * (1 + NUDGES)
#: By default they take no more than this share of a run's rows.
LARGEST_SHARE = 0.1


def looks_at_integrity(asked: bool | None, inputs: int, queries: int) -> bool:
    """Whether a run is checked: as was said, else where it has witnesses and the checks are a small part of its rows.

    >>> looks_at_integrity(None, 16, 200), looks_at_integrity(None, 100, 50), looks_at_integrity(True, 1, 50)
    (True, False, True)
    """
    if asked is not None:
        return asked
    return queries >= WITNESS_FROM and LARGEST_SHARE * inputs * queries >= TYPICAL_ROWS
