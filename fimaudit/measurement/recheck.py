"""The answers farthest from the others are asked for again: a model that answers at random now and then gives itself away.

Some models answer nearly always the same: two versions behind one address, say, one of which gets few of the requests.
The first questions miss that, and a single strange answer divided by a short step looks like a large derivative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.grouping import positions_by_kind, stacked
from fimaudit.estimation.median import medians
from fimaudit.estimation.noise import REPEATABLE, REPEATABLE_LOGS, OutputQuality
from fimaudit.measurement.context import DisplacedContext
from fimaudit.measurement.design import MainAnswers
from fimaudit.measurement.distances import differences, spread, squared_distances
from fimaudit.measurement.protocol import BatchedStep, Flow
from fimaudit.perturbations.rows import CoordinateRows, JoinedRows, PlainRows, Rows

__all__ = ["LOOKS", "WARY_LOOKS", "Alone", "OutlierRecheck", "far_alone_each"]

Array = NDArray[np.float64]
T = TypeVar("T")

#: Times a row is asked again. Behind a ledger that holds its answer, one row a request, the first of them is recalled; in
#: one request both may meet the same version. A random model that never differed at the input answers otherwise now and
#: then: of rows that do so one time in 20, two looks would miss one in 400.
LOOKS, WARY_LOOKS = 2, 4
#: Rows asked again where two steps of a whole Jacobian disagree: two at either step.
SUSPECTED = 4
#: Among fewer answers than this none stands out.
FEWEST = 8
#: Times the median of the squared distances, from which an answer stands out. Answers linear in random signs scatter like a
#: chi squared of one degree of freedom at most, of which 200 reach that far once in 6 times; where noise is known, which no
#: second answer would repeat, once in 250.
FAR, FAR_IN_NOISE = 25.0, 40.0
#: Times the median, from which the mean does, as a tenth of all answers or more may lie far; a chi squared's is 2.2.
FAR_MEAN = 2.6
#: The same along single features, some of which always matter more than others.
FAR_ALONE = 1e3
#: Share of the squared distance that a further answer must have moved; how much farther than other rows in the same call
#: explain, and than a known noise does, in its deviations.
MOVED, BEYOND, BEYOND_NOISE = 0.25, 10.0, 4.0


@dataclass(frozen=True)
class _Suspect:
    """A row of a block, its answer, the squared distance from what that should be near, and how far it stands out."""

    rows: Rows
    place: int
    answer: Array
    distance: float
    ratio: float

    @property
    def row(self) -> NDArray[Any]:
        """(1, \\*shape); few are ever built."""
        return self.rows.build(self.place, self.place + 1)


class OutlierRecheck:
    """Reads along while one input is measured, and remembers the rows whose answers stand out most.

    Args:
        ctx: the input.
    """

    def __init__(self, ctx: DisplacedContext) -> None:
        self._ctx = ctx
        base = ctx.base_answers.base
        #: A random model that was asked several times and never differed: its noise may be of the rare kind.
        rare = ctx.quality.random and bool((np.ptp(base, axis=0) <= REPEATABLE).all())
        #: And answers that jump may be those of a second version, which a jump of the model's own would repeat.
        unsteady = ctx.step.finite is not None and ctx.steps.surface != "piecewise_constant"
        self._wary = rare or (unsteady and not ctx.quality.random)
        self._drawn: _Suspect | None = None
        self._chosen: list[tuple[CoordinateRows | PlainRows, Array]] = []

    def record(self, flow: Flow[T]) -> Flow[T]:
        """The same flow."""
        reply: Any = None
        while True:
            try:
                wanted = flow.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result
            reply = yield wanted
            if not isinstance(wanted, BatchedStep):
                self._take(wanted, reply)

    def _take(self, rows: Rows, answers: Array) -> None:
        if isinstance(rows, JoinedRows):
            first = 0
            for block in rows.blocks:
                self._take(block, answers[first : first + len(block)])
                first += len(block)
        elif isinstance(rows, CoordinateRows | PlainRows):
            self._chosen.append((rows, answers))
        elif len(answers) >= FEWEST:
            place, distance, ratio = self._farthest(answers)
            if ratio > (0.0 if self._drawn is None else self._drawn.ratio):
                self._drawn = _Suspect(rows, place, answers[place], distance, ratio)

    def _suspects(self, rows: CoordinateRows | PlainRows, answers: Array) -> list[_Suspect]:
        """Of rows along chosen directions, a step ahead and one behind, the two that cancel least; else the farthest."""
        base = self._ctx.base_answers.base[0]
        if isinstance(rows, PlainRows) or not rows.both_ways:
            distances = squared_distances(answers, base)
            place = int(distances.argmax())
            return [_Suspect(rows, place, answers[place], float(distances[place]), 0.0)]
        down, up = np.sqrt(np.maximum(answers, 0.0)).reshape(2, -1, len(base))
        uneven = ((down + up - 2 * np.sqrt(np.maximum(base, 0.0))) ** 2).sum(axis=1)
        worst = int(uneven.argmax())
        return [_Suspect(rows, i, answers[i], float(uneven[worst]), 0.0) for i in (worst, len(uneven) + worst)]

    def _farthest(self, answers: Array) -> tuple[int, float, float]:
        """The row farthest from the others, its squared distance, and a ratio above 0 where that stands out."""
        distances = spread(answers)
        place = int(distances.argmax())
        largest, middle = float(distances[place]), float(np.partition(distances, len(distances) // 2)[len(distances) // 2])
        if largest == 0:
            return place, 0.0, 0.0
        if middle == 0 or self._wary:
            return place, largest, np.inf
        ratio = largest / middle
        if self._ctx.quality.random:
            return place, largest, ratio if ratio > FAR_IN_NOISE else 0.0
        return place, largest, ratio if ratio > FAR or float(distances.mean()) > FAR_MEAN * middle else 0.0

    def ask_again(self, main: MainAnswers) -> Flow[float | None]:
        """Ask for the answer that stands out again, if one does.

        Where the two steps of a whole Jacobian disagree, the farthest rows along chosen directions and the input are asked
        too. Rows that the measurement did not take pay for them; one row's looks may be added.

        Args:
            main: what the main directions showed.

        Returns:
            the largest difference of probability where a row is answered in another way, else ``None``.
        """
        suspects, looks = [] if self._drawn is None else [self._drawn], WARY_LOOKS if self._wary else LOOKS
        base, alone = self._ctx.base_answers.base, False
        for rows, answers in self._chosen:
            if isinstance(rows, CoordinateRows):
                alone |= yield BatchedStep(far_alone_each, Alone(answers, base[0]))
        if main.steps_disagree or alone or self._wary:
            left = max(0, self._ctx.queries - main.used)
            itself = _Suspect(PlainRows(self._ctx.repeated(1)), 0, base[0], 0.0, 0.0)
            chosen = [itself, *(one for block in self._chosen for one in self._suspects(*block))]
            suspects += chosen[-min(SUSPECTED, 1 + left // looks) :]
        if not suspects:
            return None
        again = yield PlainRows(np.repeat(np.concatenate([one.row for one in suspects]), looks, axis=0))
        each = zip(suspects, again.reshape(len(suspects), looks, -1), strict=True)
        noise = float(squared_distances(base, base.mean(axis=0)).sum()) / max(1, len(base) - 1)
        least = FAR_IN_NOISE / MOVED * noise
        found = [answered_differently(s.answer, a, max(s.distance, least), self._ctx.quality) for s, a in each]
        return max((difference for difference in found if difference is not None), default=None)


@dataclass(frozen=True)
class Alone:
    """Answers (n, K) along single features at one step, and that to the input (K,)."""

    answers: Array
    base: Array


def far_alone_each(asked: Sequence[Alone]) -> list[bool]:
    """Whether an answer along a single feature lies much farther out than others, of each."""
    out = [False] * len(asked)
    for places in positions_by_kind(one.answers.shape for one in asked):
        some = [asked[i] for i in places]
        distances = squared_distances(stacked([one.answers for one in some]), stacked([one.base for one in some])[:, None])
        far = distances.max(axis=1) > FAR_ALONE * medians(distances)
        for i, one in zip(places, far.tolist(), strict=True):
            out[i] = one
    return out


def answered_differently(answer: Array, again: Array, distance: float, quality: OutputQuality) -> float | None:
    """The largest difference of probability between an answer (K,) and further ones (m, K) to its row, if it is another.

    Args:
        answer, again: probabilities.
        distance: squared, in sqrt(p), at which the answer lies from what it was expected near.
        quality: what the answers are worth.
    """
    of_p, of_logs = differences(answer, again)
    least = max(REPEATABLE, BEYOND * quality.batch_effect, 1.5 * quality.quantum, BEYOND_NOISE * quality.deviation)
    telling = quality.quantum == 0 and quality.top_k is None and not quality.random  # of small probabilities
    other = of_p > least or (telling and of_logs > max(REPEATABLE_LOGS, BEYOND * quality.batch_effect_logs))
    return of_p if other and squared_distances(again, answer).max() > MOVED * distance else None
