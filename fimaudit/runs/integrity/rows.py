"""What the checks know of the inputs, and how they ask: through the meter, each call once, counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import InputFailed
from fimaudit.estimation.noise import OutputQuality
from fimaudit.measurement.boundary import CHECK_ROWS, NotHeld, hold_row
from fimaudit.measurement.integrity_cost import LOOKS, REPEATED
from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import PlainRows
from fimaudit.results import Sensitivity
from fimaudit.space import Space

__all__ = ["AskedRows", "AuditedInputs", "decision_of", "scaled_difference", "witness_row"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class AuditedInputs:
    """What the checks know.

    Attributes:
        x: (m, \\*shape) inputs, and numbers: (m,) their positions in the data.
        space: their domain.
        quality: what the answers are worth.
        displacement: the common one.
        results: of the inputs among which is chosen.
    """

    x: NDArray[Any]
    numbers: NDArray[np.int64]
    space: Space
    quality: OutputQuality
    displacement: float
    results: Mapping[int, Sensitivity]

    @cached_property
    def extent(self) -> tuple[Array, Array]:
        """The box; where a feature has no bound, the data's range, or a step of the scale to either side if they agree."""
        space = self.space
        least, most = self.x.min(axis=0).astype(np.float64), self.x.max(axis=0).astype(np.float64)
        same = np.where(most > least, 0.0, space.scale)
        low = np.where(np.isfinite(space.lower), space.lower, least - same)
        return low, np.where(np.isfinite(space.upper), space.upper, most + same)

    def row(self, index: int) -> NDArray[Any]:
        """The input at a position in the data, as the model is sent it."""
        place = int(np.flatnonzero(self.numbers == index)[0])
        return np.asarray(self.x[place].astype(self.space.dtype))


class AskedRows:
    """Asks rows through the meter, each call once under a name of its own, and counts the rows.

    Attributes:
        rows: asked so far.
        seen: (K,) answers to inputs, and to rows on walks and between inputs.
    """

    def __init__(self, meter: Meter, inputs: AuditedInputs) -> None:
        self.inputs, self.quality = inputs, inputs.quality
        self.meter, self.rows = meter, 0
        self.seen: list[Array] = []
        self.repeats = REPEATED if inputs.quality.random else 1

    def calls(self, rows: NDArray[Any]) -> int:
        """How many calls a walk over these rows takes."""
        return -(-len(rows) // self._size(rows))

    def _size(self, rows: NDArray[Any]) -> int:
        return min(self.meter.batch_rows(int(rows[:1].nbytes)), len(rows))

    def walk(self, rows: NDArray[Any], name: str) -> Array:
        """Answers to rows in their order: no call before the one ahead of it is answered."""
        size = self._size(rows)
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        return np.concatenate([self._one(part, f"{name} {n}") for n, part in enumerate(parts)])

    def each(self, rows: Sequence[NDArray[Any]], name: str, repeats: int | None = None) -> list[Array | None]:
        """(repeats, K) answers to each row, each in a call of its own; ``None`` where it was not answered."""
        times = self.repeats if repeats is None else repeats
        if not rows:
            return []
        self.rows += times * len(rows)
        blocks = [PlainRows(row[None]) for row in rows]
        asked = [self.meter.ask_each(blocks, occasion=f"integrity {name}, {n}") for n in range(times)]
        found: list[Array | None] = []
        for of_row in zip(*asked, strict=True):
            answered = [one for one in of_row if not isinstance(one, InputFailed)]
            found.append(np.concatenate(answered) if len(answered) == times else None)
        return found

    def holds(self, start: NDArray[Any], row: NDArray[Any], decision: int, name: str) -> tuple[float, int] | None:
        """(distance, class) of a row that is decided otherwise alone and among others; ``None`` where it is not."""
        flow = hold_row(start, row, self.inputs.space, decision, LOOKS * CHECK_ROWS, random=self.quality.random)
        try:
            block, n = next(flow), 0
            while True:
                rows = block.build(0, len(block))
                block, n = flow.send(self._one(rows, f"{name} {n}")), n + 1
        except InputFailed:
            return None
        except StopIteration as end:
            return None if isinstance(end.value, NotHeld) else (end.value.distance, end.value.predicted_class)

    def _one(self, rows: NDArray[Any], name: str) -> Array:
        self.rows += len(rows)
        answers = self.meter.ask_each([PlainRows(rows)], occasion=f"integrity {name}")[0]
        if isinstance(answers, InputFailed):
            raise answers
        return answers


def scaled_difference(start: NDArray[Any], end: NDArray[Any], space: Space) -> Array:
    r"""(d,) from one input to another over the features that may change, in units of the scale; (n, d) to (n, \*shape)."""
    free, axes = space.free, space.scale.ndim
    flat = (one.reshape(*one.shape[: one.ndim - axes], -1)[..., free.place] for one in (start, end))
    here, there = (one.astype(np.float64, order="C") for one in flat)
    moved: Array = there - here
    return moved if free.plain else moved / free.scale


def decision_of(answers: Array) -> int:
    return int((answers[0] if len(answers) == 1 else answers.mean(axis=0)).argmax())


def witness_row(result: Sensitivity) -> NDArray[Any] | None:
    return None if result.witness is None else result.witness.x
