"""Which plain rows are asked among those of the inputs, and when: inputs of the data, and rows between two of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.engines.decoys import Decoy
from fimaudit.measurement.counterexample import rows_along
from fimaudit.measurement.integrity_cost import BETWEEN, DECOY_TIMES, PLAIN
from fimaudit.runs.integrity.rows import scaled_difference
from fimaudit.space import Space

__all__ = ["ChosenDecoys", "choose_decoys"]

#: How far between two inputs a row lies, as shares of the way.
NEAREST, FARTHEST = 0.2, 0.8
#: Numbers of decoys begin here: smaller ones tell the copies of a row within a block apart, which are no decoys.
FIRST_NUMBER = 1000


@dataclass(frozen=True)
class ChosenDecoys:
    """What is asked beside the inputs.

    Attributes:
        by_input: by the input beside which it is asked.
        times: of each row, the decoys that it is.
        between: (b, \\*shape) those of the rows that lie between two inputs.
    """

    by_input: Mapping[int, Sequence[Decoy]] = field(default_factory=dict)
    times: Sequence[Sequence[Decoy]] = ()
    between: Sequence[NDArray[Any]] = ()


def choose_decoys(x: NDArray[Any], space: Space, inputs: int, rng: np.random.Generator) -> ChosenDecoys:
    """Draw rows, and beside which inputs each is asked.

    Args:
        x: (m, \\*shape) inputs, as the model is fed, to draw from.
        space: their domain.
        inputs: how many are measured.
        rng: of the seed alone.
    """
    rows = [x[i] for i in rng.choice(len(x), min(PLAIN, len(x)), replace=False)]
    between = []
    for share in rng.uniform(NEAREST, FARTHEST, size=BETWEEN if len(x) > 1 else 0):
        start, end = (x[i] for i in rng.choice(len(x), 2, replace=False))
        way = scaled_difference(start, end, space)
        length = float(np.linalg.norm(way))
        if length > 0:
            between.append(rows_along(start, space, way / length, np.array([share * length]))[0][0])
    times, by_input = [], defaultdict(list)
    for n, row in enumerate([*rows, *between]):
        asked = [Decoy(row, FIRST_NUMBER + DECOY_TIMES * n + time) for time in range(DECOY_TIMES)]
        for decoy in asked:
            by_input[int(rng.integers(inputs))].append(decoy)
        times.append(asked)
    return ChosenDecoys(dict(by_input), times, between)
