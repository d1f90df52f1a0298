"""Are rows that differ in the last digit of one feature answered alike? Not where a checksum chooses who answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.audit_report import IntegrityCheck
from fimaudit.errors import InputFailed
from fimaudit.estimation.integrity import apart, history_matters, noticed_group
from fimaudit.measurement.integrity_cost import NUDGES
from fimaudit.runs.integrity.findings import check_result
from fimaudit.runs.integrity.rows import AskedRows
from fimaudit.space import Space

__all__ = ["check_last_digit"]

#: Shares of the rows that a second version may take, of which the report says how surely it would have been noticed.
SHARES = (0.1, 0.5)
#: A last digit of a float32, relative to the number, and some.
DIGIT = 2.0**-22

LAST_DIGIT = (
    "Notices another model, or noise, behind a checksum of the row: of rows that differ in the last digit of one feature "
    "only. Cannot notice a choice that goes by rounded rows, and says nothing of features that take certain levels only."
)


def check_last_digit(asked: AskedRows, rows: Sequence[NDArray[Any]], rng: np.random.Generator) -> IntegrityCheck:
    """Each of some rows between inputs, and neighbours of it that differ in one last digit, in one request."""
    quality, before = asked.quality, asked.rows
    groups = [group for row in rows if (group := _neighbours(row, asked.inputs.space, rng)) is not None]
    looked, found, largest, size = 0, 0, 0.0, 0
    for n, group in enumerate([] if quality.random else groups):
        try:
            answers = asked.walk(group, f"digits {n}")
            difference, noise = _spread(answers, quality.quantum, quality.batch_effect), 0.0
            if history_matters(difference, 0.0, quality.batch_effect_logs):
                noise = apart(answers, asked.walk(group, f"digits {n} again"), quality.quantum, quality.batch_effect)
        except InputFailed:
            continue
        looked, size, largest = looked + 1, len(group), max(largest, difference)
        found += history_matters(difference, noise, quality.batch_effect_logs)
    numbers = {
        "rows": looked,
        "neighbours": max(0, size - 1),
        "contradicting": found,
        "largest": largest,
        **{f"noticed_share_{share}": noticed_group(share, size, looked) for share in SHARES},
    }
    took = asked.rows - before
    if not looked:
        why = "answers are random" if quality.random else "no row has a feature whose last digit may change"
        return check_result("last_digit", "not_applicable", LAST_DIGIT, why, numbers, took)
    if found:
        finding = (
            f"around {found} of {looked} rows, neighbours that differ in the last digit of one feature were answered "
            f"otherwise (by {largest:.2g} in log p): a checksum of the row, and not its features, decides the answer"
        )
        return check_result("last_digit", "contradicted", LAST_DIGIT, finding, numbers, took)
    power = " and ".join(
        f"{share:.0%} of the rows with probability {noticed_group(share, size, looked):.2f}" for share in SHARES
    )
    finding = (
        f"{looked} rows and {size - 1} neighbours of each, which differ in the last digit of one feature, were answered "
        f"alike; a second version behind a checksum would have been noticed here if it took {power}"
    )
    return check_result("last_digit", "ok", LAST_DIGIT, finding, numbers, took)


def _spread(answers: NDArray[np.float64], quantum: float, batch_effect: float) -> float:
    """The largest difference between any two of the answers."""
    return apart(answers.max(axis=0)[None], answers.min(axis=0)[None], quantum, batch_effect)


def _neighbours(row: NDArray[Any], space: Space, rng: np.random.Generator) -> NDArray[Any] | None:
    """The row, and some that differ from it in the last digit of a feature each; ``None`` where none can."""
    flat = row.ravel()
    if flat.dtype.kind != "f":
        return None
    digit = max(DIGIT, 2 * float(np.finfo(flat.dtype).eps))
    farthest = flat * (1 + NUDGES * digit)
    inside = (farthest <= space.upper.ravel()) & (farthest >= space.lower.ravel())
    movable = np.flatnonzero(~space.frozen.ravel() & (space.quantum.ravel() == 0) & (flat != 0) & inside)
    if not movable.size:
        return None
    rows = np.repeat(flat[None], NUDGES + 1, axis=0)
    for n, place in enumerate(rng.choice(movable, NUDGES, replace=movable.size < NUDGES), start=1):
        rows[n, place] *= 1 + n * digit  # by another number of digits each, where few features can move
    return rows.reshape(NUDGES + 1, *row.shape)
