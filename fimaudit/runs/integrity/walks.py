"""The same rows out and back: from an input to a random corner early in the run, and in reverse once it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.engines.decoys import Decoy, known_answers
from fimaudit.estimation.integrity import history_matters, log_difference
from fimaudit.estimation.noise import OutputQuality
from fimaudit.measurement.counterexample import rows_along
from fimaudit.measurement.integrity_cost import BACK_AGAIN, RUNGS, WALKS
from fimaudit.models.meter import Meter
from fimaudit.runs.integrity.drawing import candidates, random_numbers
from fimaudit.runs.integrity.rows import AuditedInputs, scaled_difference

__all__ = ["Walk", "choose_walks", "replace_failed_walks", "ways_apart"]

Array = NDArray[np.float64]

#: A walk ends in the corner and starts at a displacement, as far as ratios of its steps in this range allow: any below 2
#: leaves a rung nearer to the next one than to the input, so that a store of earlier rows answers it from that, and on the
#: way back a displacement is one from another centre.
RATIO, MOST_RATIO = 1.6, 1.8
#: Rounds of the inputs beside it that go before the way out, and those before the way back: by then nearly all of an input
#: measured with it was asked, and some inputs still ask.
EARLY, LATE = (0, 3), (4, 8)
#: Numbers of walks begin here, and are so far apart: a decoy and its repeats have numbers of their own for each row.
FIRST_NUMBER, WALK_NUMBERS, WAY_NUMBERS = 10_000, 1000, 500


@dataclass(frozen=True, eq=False, kw_only=True)
class ReturnWalk(Decoy):
    """The rows of a way out in reverse, and again where they were answered otherwise."""

    out: Decoy
    quality: OutputQuality

    @property
    def follows(self) -> Decoy:
        return self.out

    def repeats(self, answers: Array, meter: Meter) -> int:
        """Some where it was answered otherwise, which show whether answers are noisy."""
        first = known_answers(self.out, meter)
        assert first is not None, "the way out was answered"
        return (
            BACK_AGAIN
            if history_matters(ways_apart(first[0], answers, self.quality), 0.0, self.quality.batch_effect_logs)
            else 0
        )


@dataclass(frozen=True)
class Walk:
    """There and back, from the input at ``index``."""

    index: int
    out: Decoy
    back: ReturnWalk


def ways_apart(out: Array, back: Array, quality: OutputQuality) -> float:
    """How far apart the answers on the way out and on the way back are."""
    return log_difference(out, back[::-1], quality.quantum, quality.batch_effect)


def choose_walks(
    inputs: AuditedInputs, measured: NDArray[np.int64], seed: int
) -> tuple[list[Walk], list[tuple[int, Decoy]]]:
    """Draw where walks begin and end, and beside which inputs they are asked.

    The way out goes beside the input where the walk begins or one before it, the way back beside that input or one after.

    Args:
        inputs: what the checks know before anything was measured.
        measured: (n,) rising, positions of the inputs that are measured.
        seed: of the run.

    Returns:
        The walks, and pairs of the input beside which a way is asked and the way.
    """
    walks, beside = [], []
    for place, index in enumerate(_order(inputs, measured, seed)[:WALKS]):
        walk = _walk(inputs, index, place, seed)
        rng = random_numbers(seed, 5, place)
        at = int(np.searchsorted(measured, index))
        beside.append((int(measured[rng.integers(at + 1)]), walk.out))
        beside.append((int(measured[rng.integers(at, len(measured))]), walk.back))
        walks.append(walk)
    return walks, beside


def replace_failed_walks(
    walks: Sequence[Walk], inputs: AuditedInputs, measured: Sequence[int], wanted: NDArray[np.int64], seed: int, meter: Meter
) -> list[Walk]:
    """The walks; in place of one from an input that has failed, unless it was answered, one from the next that has not.

    Args:
        walks: as chosen.
        inputs, wanted, seed: as they were chosen from.
        measured: positions of the inputs that have not failed.
        meter: knows what was answered.
    """
    kept = [walk for walk in walks if walk.index in measured or meter.note(walk.back.name) is not None]
    further = list(enumerate(_order(inputs, wanted, seed)))[WALKS:]
    others = (_walk(inputs, index, place, seed) for place, index in further if index in measured)
    return [*kept, *islice(others, WALKS - len(kept))]


def _order(inputs: AuditedInputs, measured: NDArray[np.int64], seed: int) -> list[int]:
    """Of the inputs that are measured and at hand, first those from which is walked."""
    at_hand = np.intersect1d(candidates(inputs.numbers, seed), measured)
    return [int(i) for i in random_numbers(seed, 0).permutation(at_hand)]


def _walk(inputs: AuditedInputs, index: int, place: int, seed: int) -> Walk:
    rng = random_numbers(seed, 4, place)
    rows, number = _rows(inputs, index, rng), FIRST_NUMBER + WALK_NUMBERS * place
    out = Decoy(rows, number, int(rng.integers(*EARLY)))
    wait = int(rng.integers(*LATE))
    return Walk(index, out, ReturnWalk(rows[::-1], number + WAY_NUMBERS, wait, out=out, quality=inputs.quality))


def _rows(inputs: AuditedInputs, index: int, rng: np.random.Generator) -> NDArray[Any]:
    """The input, and rows at log-spaced lengths towards a corner of the box, or of the data's range where it is open."""
    space, x = inputs.space, inputs.row(index)
    low, high = inputs.extent
    corner = np.where(rng.integers(0, 2, size=low.shape) == 1, high, low)
    way = scaled_difference(x, corner, space)
    length = float(np.linalg.norm(way))
    if not length > 0:
        return x[None]
    end, steps = length, RUNGS - 2
    start = np.clip(inputs.displacement, end / MOST_RATIO**steps, end / RATIO**steps)
    rows, _ = rows_along(x, space, way / length, np.geomspace(start, end, steps + 1))
    return np.concatenate([x[None], rows])
