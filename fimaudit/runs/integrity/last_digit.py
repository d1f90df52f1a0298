"""Are rows that differ in the last digit of one feature answered alike? Not where a checksum chooses who answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.audit_report import IntegrityCheck
from fimaudit.engines.decoys import Decoy, known_answers
from fimaudit.estimation.integrity import history_matters, log_difference, noticed_group
from fimaudit.estimation.noise import OutputQuality
from fimaudit.measurement.integrity_cost import NUDGES
from fimaudit.models.meter import Meter
from fimaudit.runs.integrity.findings import Outcome, check_result
from fimaudit.runs.integrity.rows import AskedRows
from fimaudit.space import Space

__all__ = ["Neighbours", "check_last_digit", "choose_neighbours"]

Answers = NDArray[np.float64]

#: Shares of the rows that a second version may take, of which the report says how surely it would have been noticed.
SHARES = (0.1, 0.5)
#: A last digit of a float32, relative to the number, and some.
DIGIT = 2.0**-22
#: Numbers of the groups begin here, and are so far apart.
FIRST_NUMBER, GROUP_NUMBERS = 2000, 500

LAST_DIGIT = (
    "Notices another model, or noise, behind a checksum of the row: of rows that differ in the last digit of one feature "
    "only. Cannot notice a choice that goes by rounded rows, and says nothing of features that take certain levels only."
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Neighbours(Decoy):
    """A row between two inputs, and neighbours of it that differ in one last digit each."""

    quality: OutputQuality

    def repeats(self, answers: Answers, meter: Meter) -> int:
        """Once where they were not answered alike, which shows whether answers are noisy."""
        return int(history_matters(_spread(answers, self.quality), 0.0, self.quality.batch_effect_logs))


def choose_neighbours(
    rows: Sequence[NDArray[Any]], space: Space, quality: OutputQuality, rounds: int, rng: np.random.Generator
) -> list[Neighbours]:
    """A group around each row that has features whose last digit may change; none where answers are random.

    Args:
        rows: each (\\*shape).
        space, quality: the domain of the inputs, and what the answers are worth.
        rounds: fewer rounds of the inputs beside it go before a group is asked.
        rng: of the seed alone.
    """
    groups = [] if quality.random else [_neighbours(row, space, rng) for row in rows]
    return [
        Neighbours(group, FIRST_NUMBER + GROUP_NUMBERS * n, int(rng.integers(rounds)), quality=quality)
        for n, group in enumerate(groups)
        if group is not None
    ]


def check_last_digit(asked: AskedRows, groups: Sequence[Neighbours]) -> IntegrityCheck:
    """Each of some rows between inputs, and neighbours of it that differ in one last digit, in one request."""
    quality = asked.quality
    looked, found, largest, size, took = 0, 0, 0.0, 0, 0
    for group in groups:
        answers = known_answers(group, asked.meter)
        if answers is None:
            continue
        spread, noise = _spread(answers[0], quality), 0.0
        if len(answers) > 1:
            noise = log_difference(answers[0], answers[1], quality.quantum, quality.batch_effect)
        looked, size, largest = looked + 1, len(group.rows), max(largest, spread)
        took += answers.shape[0] * answers.shape[1]
        found += history_matters(spread, noise, quality.batch_effect_logs)
    numbers = {
        "rows": looked,
        "neighbours": max(0, size - 1),
        "contradicting": found,
        "largest": largest,
        **{f"noticed_share_{share}": noticed_group(share, size, looked) for share in SHARES},
        "false_alarm": 0.0,
    }
    outcome: Outcome = "ok"
    if not looked:
        outcome = "not_applicable"
        finding = "answers are random" if quality.random else "no row has a feature whose last digit may change"
    elif found:
        outcome = "contradicted"
        finding = (
            f"around {found} of {looked} rows, neighbours that differ in the last digit of one feature were answered "
            f"otherwise (by {largest:.2g} in log p): a checksum of the row, and not its features, decides the answer"
        )
    else:
        power = " and ".join(
            f"{share:.0%} of the rows with probability {noticed_group(share, size, looked):.2f}" for share in SHARES
        )
        finding = (
            f"{looked} rows and {size - 1} neighbours of each, which differ in the last digit of one feature, were answered "
            f"alike; a second version behind a checksum would have been noticed here if it took {power}"
        )
    return check_result("last_digit", outcome, LAST_DIGIT, finding, numbers, took)


def _spread(answers: Answers, quality: OutputQuality) -> float:
    """The largest difference between any two of the answers."""
    return log_difference(answers.max(axis=0)[None], answers.min(axis=0)[None], quality.quantum, quality.batch_effect)


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
