"""Which rows are asked among those of the inputs, and when: what needs the inputs and the seed only, and no result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.engines.decoys import Decoy, known_answers
from fimaudit.measurement.counterexample import rows_along
from fimaudit.measurement.integrity_cost import BETWEEN, DECOY_TIMES, PLAIN
from fimaudit.models.meter import Meter
from fimaudit.runs.integrity.drawing import random_numbers
from fimaudit.runs.integrity.last_digit import Neighbours, choose_neighbours
from fimaudit.runs.integrity.rows import AuditedInputs, scaled_difference
from fimaudit.runs.integrity.walks import Walk, choose_walks
from fimaudit.space import Space

__all__ = ["ChosenDecoys", "choose_decoys"]

#: How far between two inputs a row lies, as shares of the way.
NEAREST, FARTHEST = 0.2, 0.8
#: Numbers of decoys begin here: smaller ones tell the copies of a row within a block apart, which are no decoys.
FIRST_NUMBER = 1000
#: Rounds of the inputs beside it before a decoy is asked, fewer than these: nine tenths of an input's rows go out in them.
ROUNDS = 4


@dataclass(frozen=True)
class ChosenDecoys:
    """What is asked beside the inputs.

    Attributes:
        by_input: by the input beside which it is asked.
        times: of each row, the decoys that it is.
        neighbours: rows between two inputs, each with some that differ in a last digit.
        walks: there and back.
        wanted: (n,) positions of the inputs that are measured.
    """

    by_input: Mapping[int, Sequence[Decoy]] = field(default_factory=dict)
    times: Sequence[Sequence[Decoy]] = ()
    neighbours: Sequence[Neighbours] = ()
    walks: Sequence[Walk] = ()
    wanted: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def asked_once(self) -> list[Decoy]:
        """All but the walks."""
        return [*(decoy for of_row in self.times for decoy in of_row), *self.neighbours]

    def rows_asked(self, meter: Meter) -> int:
        """How many rows of them were answered so far."""
        ways = (way for walk in self.walks for way in (walk.out, walk.back))
        known = [known_answers(decoy, meter) for decoy in (*self.asked_once, *ways)]
        return sum(answers.shape[0] * answers.shape[1] for answers in known if answers is not None)

    def walking(self, inputs: AuditedInputs, wanted: NDArray[np.int64], seed: int) -> ChosenDecoys:
        """With walks from some of the inputs that are measured, at positions ``wanted`` (rising)."""
        walks, beside = choose_walks(inputs, wanted, seed)
        by_input = defaultdict(list, {index: list(decoys) for index, decoys in self.by_input.items()})
        for index, way in beside:
            by_input[index].append(way)
        return replace(self, by_input=dict(by_input), walks=walks, wanted=wanted)


def choose_decoys(inputs: AuditedInputs, count: int, seed: int) -> ChosenDecoys:
    """Draw plain rows and neighbours, and beside which inputs each is asked.

    Args:
        inputs: what the checks know before anything was measured.
        count: how many inputs there are.
        seed: of the run.
    """
    rng = random_numbers(seed, 2)
    x = inputs.x.astype(inputs.space.dtype, copy=False)
    rows = [x[i] for i in rng.choice(len(x), min(PLAIN, len(x)), replace=False)]
    between = _between(x, inputs.space, rng)
    times, by_input = [], defaultdict(list)
    for n, row in enumerate([*rows, *between]):
        first = FIRST_NUMBER + DECOY_TIMES * n
        asked = [Decoy(row[None], first + time, int(rng.integers(ROUNDS))) for time in range(DECOY_TIMES)]
        for decoy in asked:
            by_input[int(rng.integers(count))].append(decoy)
        times.append(asked)
    rng = random_numbers(seed, 3)
    neighbours = choose_neighbours(between, inputs.space, inputs.quality, ROUNDS, rng)
    for group in neighbours:
        by_input[int(rng.integers(count))].append(group)
    return ChosenDecoys(dict(by_input), times, neighbours)


def _between(x: NDArray[Any], space: Space, rng: np.random.Generator) -> list[NDArray[Any]]:
    """Rows between two inputs each."""
    between = []
    for share in rng.uniform(NEAREST, FARTHEST, size=BETWEEN if len(x) > 1 else 0):
        start, end = (x[i] for i in rng.choice(len(x), 2, replace=False))
        way = scaled_difference(start, end, space)
        length = float(np.linalg.norm(way))
        if length > 0:
            between.append(rows_along(start, space, way / length, np.array([share * length]))[0][0])
    return between
