"""A second look at the pilot's answers that stand out: the model is random, or other rows of a call move its answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import InputFailed
from fimaudit.estimation.noise import REPEATABLE, REPEATABLE_LOGS
from fimaudit.measurement.distances import differences, squared_distances
from fimaudit.measurement.ladder import LadderAnswers, PilotLadder, read_ladder
from fimaudit.measurement.ladder_questions import LEAST_PILOT, answers_each, ladder_question
from fimaudit.measurement.query_split import ON_TOP
from fimaudit.measurement.settings import Settings
from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import PlainRows, Rows
from fimaudit.space import Space

__all__ = ["SUSPECTS", "look_again"]

Array = NDArray[np.float64]

#: Rows of each pilot input that are asked again, to see whether they are answered the same.
SUSPECTS = 3
AGAIN, ONCE_MORE = "second look", "third look"


def look_again(meter: Meter, x: NDArray[np.floating], space: Space, settings: Settings, asked: PilotLadder) -> PilotLadder:
    """The same, with what asking a few rows again says of the model: that it is random, or what other rows in a call do.

    A model that answers at random now and then has most likely done so at the answers farthest from those to the inputs.
    Rows that cannot be asked a second time say nothing of the first.

    Raises:
        BudgetExhausted: the budget does not allow it.
        ModelFailure: an endpoint is down as a whole.
    """
    try:
        return _looked_again(meter, x, space, settings, asked)
    except InputFailed:
        return asked


def _looked_again(
    meter: Meter, x: NDArray[np.floating], space: Space, settings: Settings, asked: PilotLadder
) -> PilotLadder:
    suspects = [one for of_input in asked.ladders.values() for one in _farthest(of_input)]
    if not suspects:
        return asked
    question = PlainRows(np.concatenate([one.row for one in suspects]))
    again = _answer(meter, question, AGAIN)
    asked, quality = replace(asked, rows=asked.rows + len(suspects)), asked.quality
    moved = np.array([differences(one.answer, b[None]) for one, b in zip(suspects, again, strict=True)])
    (of_p, of_logs), others = moved.max(axis=0), (moved > (REPEATABLE, REPEATABLE_LOGS)).any(axis=1)
    if others.any():
        once_more = _answer(meter, question, ONCE_MORE)
        asked, most = replace(asked, rows=asked.rows + len(suspects)), bool(others.mean() > 0.5)
        if np.abs(once_more - again).max() > REPEATABLE or _at_random(meter, x, space, settings, asked, most):
            return _repeated(meter, x, space, asked)
        quality = replace(quality, batch_effect=max(quality.batch_effect, float(of_p)), batch_effect_logs=float(of_logs))
    return replace(asked, quality=quality)


@dataclass(frozen=True)
class _Far:
    """An answer far from that to its input, on the shorter half of the rungs."""

    row: NDArray[Any]
    answer: Array


def _farthest(of_input: LadderAnswers) -> list[_Far]:
    """The few answers farthest from that to the input, but for those that are the same."""
    base = of_input.base.mean(axis=0)
    near = of_input.first[: -(-len(of_input.answers) // 2)].reshape(-1, len(base))
    squares = squared_distances(near, base)
    places = [int(place) for place in np.argsort(squares)[-SUSPECTS:] if squares[place] > 0]
    return [_Far(of_input.rungs.rows.build(place, place + 1), near[place]) for place in places]


def _at_random(
    meter: Meter, x: NDArray[np.floating], space: Space, settings: Settings, asked: PilotLadder, most_moved: bool
) -> bool:
    """Whether the very questions of the first pair, asked in the same calls, are answered differently the second time.

    Other answers among other rows may be those rows' doing: a sum in another order, or a scale that a call shares. Then most
    suspects moved, and a part of the questions decides: chance that moves so many shows in it.
    """
    left = max(ON_TOP * len(x) * settings.queries, LEAST_PILOT) - asked.rows
    count = int(left // max(len(of_input.base) + len(of_input.rungs.rows) for of_input in asked.ladders.values()))
    if count < (1 if most_moved else len(asked.ladders)):
        return asked.quality.batch_effect <= REPEATABLE
    some = list(asked.ladders.items())[:count]
    questions = [ladder_question(x[i], space, of_input.rungs, len(of_input.base)) for i, of_input in some]
    both = zip(some, answers_each(meter, questions, AGAIN), strict=True)
    return any(a is not None and np.abs(a - of_input.asked).max() > REPEATABLE for (_, of_input), a in both)


def _repeated(meter: Meter, x: NDArray[np.floating], space: Space, asked: PilotLadder) -> PilotLadder:
    """What the ladder says of a random model, whose answers to the input itself are several."""
    quality = replace(asked.quality, quantum=0.0, random=True)
    itself = [PlainRows(np.repeat(x[i].astype(space.dtype)[None], quality.repeats, axis=0)) for i in asked.ladders]
    both = zip(asked.ladders.items(), answers_each(meter, itself, AGAIN), strict=True)
    ladders = {i: replace(of_input, base=base) for (i, of_input), base in both if base is not None}
    return replace(read_ladder(asked.rungs, ladders, quality), rows=asked.rows + len(itself) * quality.repeats)


def _answer(meter: Meter, question: Rows, occasion: str) -> Array:
    """Answers to one question; raises ``InputFailed`` where the model has none."""
    answer = meter.ask_each([question], occasion=occasion)[0]
    if isinstance(answer, InputFailed):
        raise answer
    return answer
