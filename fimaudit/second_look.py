"""The answer farthest from the others is asked for again: a model that answers at random now and then gives itself away.

Some models answer nearly always the same: two versions behind one address, say, one of which gets few of the requests.
The first questions miss that, and a single strange answer divided by a short step looks like a large derivative.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fimaudit.at_once import AtOnce
from fimaudit.noise import REPEATABLE, Here
from fimaudit.rows import CoordinateRows, JoinedRows, PlainRows, Rows

__all__ = ["LOOKS", "Listener", "answered_differently", "spread"]

Array = NDArray[np.float64]
T = TypeVar("T")

#: Times the row is asked again: behind a ledger that already holds its answer, the first of them is recalled.
LOOKS = 2
#: Among fewer answers than this none stands out.
FEWEST = 8
#: Times the median of the squared distances, from which an answer stands out. Answers linear in random signs scatter like a
#: chi squared of one degree of freedom at most, of which 200 reach that far once in 6 times; where noise is known, which no
#: second answer would repeat, once in 250.
FAR, FAR_IN_NOISE = 25.0, 40.0
#: Times the median, from which the mean does, as a tenth of all answers or more may lie far; a chi squared's is 2.2.
FAR_MEAN = 2.6
#: Share of the squared distance that a further answer must have moved, and how much farther than other rows in the same
#: call explain.
MOVED, BEYOND = 0.25, 10.0


class Listener:
    """Overhears an input's conversation for the row whose answer stands out most.

    Args:
        here: the answers to the input itself.
    """

    def __init__(self, here: Here) -> None:
        self._company, self._random = here.quality.company, here.quality.random
        #: A random model that was asked several times and never differed: its noise may be of the rare kind.
        self._wary = self._random and bool((np.ptp(here.base, axis=0) <= REPEATABLE).all())
        self._ratio, self._distance = 0.0, 0.0
        self._row: NDArray[Any] | None = None
        self._answer: Array = np.empty(0)

    def hear(self, talk: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """The same conversation."""
        told: Any = None
        while True:
            try:
                wanted = talk.send(told)
            except StopIteration as end:
                result: T = end.value
                return result
            told = yield wanted
            if not isinstance(wanted, AtOnce):
                self._take(wanted, told)

    def _take(self, rows: Rows, answers: Array) -> None:
        if isinstance(rows, JoinedRows):
            first = 0
            for block in rows.blocks:
                self._take(block, answers[first : first + len(block)])
                first += len(block)
            return
        if len(answers) < FEWEST or isinstance(rows, PlainRows):  # plain ones are along chosen directions, or repeated
            return
        place, distance, ratio = self._farthest(rows, answers)
        if ratio > self._ratio:
            self._ratio, self._distance = ratio, distance
            self._row, self._answer = rows.build(place, place + 1), answers[place]

    def _farthest(self, rows: Rows, answers: Array) -> tuple[int, float, float]:
        """The row farthest from the others, its squared distance, and a ratio above 0 where that stands out."""
        distances = spread(answers)
        place = int(distances.argmax())
        largest, middle = float(distances[place]), float(np.partition(distances, len(distances) // 2)[len(distances) // 2])
        if largest == 0:
            return place, 0.0, 0.0
        if middle == 0 or self._wary or isinstance(rows, CoordinateRows):  # of single features some always stand out
            return place, largest, np.inf
        ratio = largest / middle
        if self._random:
            return place, largest, ratio if ratio > FAR_IN_NOISE else 0.0
        return place, largest, ratio if ratio > FAR or float(distances.mean()) > FAR_MEAN * middle else 0.0

    def look_again(self) -> Generator[Rows, Array, float | None]:
        """Ask for that row again, if there is one.

        Returns:
            the largest difference of probability where it is answered in another way, else ``None``.
        """
        if self._row is None:
            return None
        again = yield PlainRows(np.repeat(self._row, LOOKS, axis=0))
        return answered_differently(self._answer, again, self._distance, self._company)


def answered_differently(answer: Array, again: Array, distance: float, company: float) -> float | None:
    """The largest difference of probability between an answer (K,) and further ones (m, K) to its row, if it is another.

    Args:
        answer, again: probabilities.
        distance: squared, in sqrt(p), at which the answer lies from what it was expected near.
        company: largest difference of probability that other rows in the same call make.
    """
    moved = ((np.sqrt(np.maximum(again, 0.0)) - np.sqrt(np.maximum(answer, 0.0))) ** 2).sum(axis=1).max()
    difference = float(np.abs(again - answer).max())
    return difference if difference > max(REPEATABLE, BEYOND * company) and moved > MOVED * distance else None


def spread(answers: Array) -> Array:
    """Squared distances in sqrt(p) of (m, K) answers from their mean.

    >>> spread(np.array([[0.5, 0.5], [0.5, 0.5]])).tolist()
    [0.0, 0.0]
    """
    roots = np.sqrt(np.maximum(answers, 0.0))  # what is left of 1 may be a rounding below 0
    roots -= roots[:1]  # equal answers lie at no distance, not even that of rounding
    roots -= roots.mean(axis=0)
    return np.asarray((roots * roots).sum(axis=1))
