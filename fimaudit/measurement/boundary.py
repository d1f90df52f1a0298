"""A row beyond the decision boundary that holds: asked alone and among others, and stepped outwards until it does.

The last digits of an answer depend on how many rows share the call (about 1e-7 of it, in float32). A row that was found on
the boundary is therefore decided otherwise in the next call. One that lies beyond the boundary by a few times of what calls
move is not, and its distance is a little longer, and true. Where answers are random, so is which rows change the decision:
there the mean lead of fresh answers must stand out from their scatter, and the steps go as far as that takes.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fimaudit.estimation.grouping import stacked
from fimaudit.perturbations.rows import PlainRows, Rows
from fimaudit.space import FreeFeatures, Space

__all__ = ["ALLOWANCE", "CHECK_ROWS", "HOLD_ROWS", "LEAD", "Held", "NotHeld", "hold_row", "leads_over"]

Array = NDArray[np.float64]

#: Rows of one check: a call of one row, and one in which the row stands twice among others.
CHECK_ROWS = 5
#: Steps outwards, and halvings of the last one.
STEPS, HALVINGS = 8, 2
#: Most steps over features with levels, each with twice as many features a level farther as the one before.
LEVEL_STEPS = 4
#: Rows that one row takes at most.
HOLD_ROWS = CHECK_ROWS * (1 + STEPS + HALVINGS)
#: Steps end at this share of the distance, or at so many times the rounding of the row in float32, in which models
#: compute; they begin at the least, or at one rounding.
ALLOWANCE, ROUNDINGS = 0.02, 64
LEAST = 1e-6
#: What is longer by less than this share of the distance is not halved.
SHORT = 1e-3
FLOAT32, TINY = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).tiny)
#: How far, in log-odds, the other class leads in every call: 32 roundings, or so many times of what these calls moved.
LEAD, BEYOND = 2.0**-18, 8.0
#: Of random answers: how often a row is kept that is not decided otherwise; and how much farther out than the row that was
#: found, as a share of its distance, one may lie, and by how many standard errors more than it needs its lead is aimed.
ERROR, MOST_ASTRAY, SPARE = 0.01, 0.5, 2.0

#: How a row that holds is decided otherwise.
IN_EVERY_CALL, AT_RANDOM = "both alone and among others", "by more than the noise of the answers"


@dataclass(frozen=True)
class Held:
    """A row that is decided otherwise both alone and among others.

    Attributes:
        row: as the model is sent it.
        distance: its l2 distance from the input, in units of the scale.
        predicted_class: its class when it is asked alone.
    """

    row: NDArray[Any]
    distance: float
    predicted_class: int


@dataclass(frozen=True)
class NotHeld:
    """That no row within the allowance is decided otherwise both alone and among others.

    Attributes:
        reason: a clause for people.
    """

    reason: str


def hold_row(
    x: NDArray[Any],
    row: NDArray[Any],
    space: Space,
    decision: int,
    rows: int = HOLD_ROWS,
    among: Array | None = None,
    *,
    random: bool = False,
) -> Generator[Rows, Array, Held | NotHeld]:
    """The row, or the nearest one outwards from it that is decided otherwise alone and among others.

    Of random answers one whose mean is, which is not so with a probability of ``ERROR`` at most.

    Rows lie on the line from the input through the row, within the domain: held features stay, features with levels move
    by whole ones, a bound ends a feature's way. What is asked depends on the arguments and on the answers to it alone.

    Args:
        x: the input, shape \\*shape.
        row: the row that was found, as the model is sent it.
        space: the domain.
        decision: the class that the model gives the input.
        rows: most rows to ask; ``CHECK_ROWS`` are asked in any case, and ``HOLD_ROWS`` are enough.
        among: (2, K) answers to the row where it stood twice among others in one call, if it did.
        random: the same row asked twice is answered differently.
    """
    line = _Line.through(x, row, space)
    left = max(1, rows // CHECK_ROWS)
    if random:
        return (yield from _hold_at_random(line, decision, min(1 + STEPS, left)))
    farthest, steps = line.steps(min(STEPS, left - 1))
    others = (line.x, farthest)
    moved, failed, plain = 0.0, 0.0, []
    for step in chain([_Step(row, 0.0)], steps):
        left -= 1
        check = yield from _check(step.row, others, decision, moved, among)
        moved, among = check.moved, None
        if check.decisive:
            break
        if check.held:
            plain.append(line.held(step, check.predicted_class))
        failed = step.excess
    else:
        # Rounded answers, and random ones that nobody knows to be, may show no such lead. What holds, holds; the second one
        # that does lies behind the first.
        return plain[min(1, len(plain) - 1)] if plain else NotHeld(line.refusal(farthest))
    found = line.held(step, check.predicted_class)
    for _ in range(min(HALVINGS, left)):
        if step.excess - failed <= SHORT * line.distance:
            break
        between = line.beyond(float(np.sqrt(failed * step.excess)) if failed > 0 else step.excess / 2)
        check = yield from _check(between.row, others, decision, moved)
        moved = check.moved
        if check.decisive:
            step, found = between, line.held(between, check.predicted_class)
        else:
            failed = between.excess
    return found


def _hold_at_random(line: _Line, decision: int, looks: int) -> Generator[Rows, Array, Held | NotHeld]:
    """The first row whose mean lead is above 0 by a t test over fresh answers, at ``ERROR`` for all looks together.

    The scatter of the leads is pooled over the looks; from it, and from how the lead grows from the input to a row, follows
    how far out the next one lies. Features with levels move by whole ones, as in ``hold_row``.
    """
    levels = line.steps(looks - 1)[1] if line.space.quantised else None
    step, squares, freedom = _Step(line.row, 0.0), 0.0, 0
    for _ in range(looks):
        answers = np.maximum((yield PlainRows(stacked([line.x, *[step.row] * (CHECK_ROWS - 1)]))), TINY)
        logs = np.log(answers)
        others = logs[1:].mean(axis=0)
        others[decision] = -np.inf
        rival = int(others.argmax())
        at_input, *leads = (logs[:, rival] - logs[:, decision]).tolist()
        lead, count = sum(leads) / len(leads), len(leads)
        squares, freedom = squares + sum((one - lead) ** 2 for one in leads), freedom + count - 1
        error = math.sqrt(squares / freedom / count)
        least = float(special.stdtrit(freedom, 1.0 - ERROR / looks)) * error
        if lead >= max(LEAD, least):
            return line.held(step, rival)
        if levels is not None:
            step = next(levels, step)
            continue
        short, gained = least + SPARE * error - lead, max(lead - at_input, 0.0)
        most = MOST_ASTRAY * line.distance
        farther = short * (line.distance + step.excess) / gained if gained * most > short * line.distance else most
        step = line.beyond(min(step.excess + farther, most))
    return NotHeld(line.refusal(step.row, AT_RANDOM))


@dataclass(frozen=True)
class _Step:
    """A row, and how far beyond the found one it is meant to lie: 0 for that one itself and for steps by levels."""

    row: NDArray[Any]
    excess: float


@dataclass(frozen=True)
class _Check:
    """Answers to one row, alone and among others: whether all say otherwise, by a clear lead, and what calls moved."""

    held: bool
    decisive: bool
    moved: float
    predicted_class: int


def _check(
    row: NDArray[Any], others: tuple[NDArray[Any], NDArray[Any]], decision: int, moved: float, among: Array | None = None
) -> Generator[Rows, Array, _Check]:
    """Ask a row twice among others, if that was not done, and alone if that was not in vain."""
    if among is None:
        among = (yield PlainRows(stacked([others[0], row, others[1], row])))[1::2]
    leads, classes = leads_over(among, decision)
    if decision not in classes:
        more, alone = leads_over((yield PlainRows(row[None])), decision)
        leads, classes = leads + more, classes + alone
    moved, held = max(moved, max(leads) - min(leads)), decision not in classes
    return _Check(held, held and min(leads) >= max(LEAD, BEYOND * moved), moved, classes[-1])


def leads_over(answers: Array, decision: int) -> tuple[list[float], list[int]]:
    """How far, in log-odds, another class leads the decision in each of (n, K) answers, and the classes."""
    others = answers.copy()
    others[:, decision] = 0.0
    both = zip(others.max(axis=1).tolist(), answers[:, decision].tolist(), strict=True)
    return [math.log(max(other, TINY) / max(own, TINY)) for other, own in both], answers.argmax(axis=1).tolist()


@dataclass(frozen=True)
class _Line:
    """From an input through a row, and beyond it, over the features that may change.

    Attributes:
        x: the input as the model is sent it.
        row: the row.
        space: the domain.
        start, end: the features of the two that may change.
        distance: between them, in units of the scale.
    """

    x: NDArray[Any]
    row: NDArray[Any]
    space: Space
    start: Array
    end: Array
    distance: float

    @classmethod
    def through(cls, x: NDArray[Any], row: NDArray[Any], space: Space) -> _Line:
        """From x through the row."""
        x, free = x.astype(space.dtype), space.free
        start, end = (one.ravel()[free.place].astype(np.float64) for one in (x, row))
        return cls(x, row, space, start, end, _length(end - start, free))

    def held(self, step: _Step, predicted_class: int) -> Held:
        """What was found."""
        return Held(step.row, self._away(step.row), predicted_class)

    def refusal(self, farthest: NDArray[Any], how: str = IN_EVERY_CALL) -> str:
        """That nothing up to there holds, in words."""
        return (
            f"the decision changed at a distance of {self.distance:.3g}, but no row asked from there to "
            f"{self._away(farthest):.3g} on the same line is decided otherwise {how}"
        )

    def beyond(self, excess: float) -> _Step:
        """The row so much farther along the features without levels."""
        moved = (self.end - self.start) * (1.0 + excess / self.distance)
        moved += self.start
        if self.space.quantised:
            moved = np.where(self.space.free.quantum > 0, self.end, moved)
        return _Step(self._row(moved), excess)

    def steps(self, count: int) -> tuple[NDArray[Any], Iterator[_Step]]:
        """The farthest of at most so many rows, to the end of the allowance, and all of them, each farther out."""
        if count < 1 or not self.distance > 0:
            return self.row, iter(())
        if self.space.quantised:
            steps = self._steps_with_levels(count)
            return (steps[-1].row if steps else self.row), self._differing(steps)
        *shorter, most = self._excesses(count)
        last = self.beyond(most)
        return last.row, self._differing(chain(map(self.beyond, shorter), [last]))

    def _differing(self, steps: Iterable[_Step]) -> Iterator[_Step]:
        """Those of rows, the found one before them, that are not the one before once more."""
        before = self.row
        for step in steps:
            if not np.array_equal(step.row, before):
                yield step
            before = step.row

    def _excesses(self, count: int) -> list[float]:
        """How much farther out so many rows lie along the features without levels, each by a constant factor more."""
        rounding = FLOAT32 * _length(self.end, self.space.free)
        least = max(LEAST * self.distance, rounding)
        most = max(ALLOWANCE * self.distance, ROUNDINGS * rounding)
        return [*(least * (most / least) ** (i / (count - 1)) for i in range(count - 1)), most]

    def _steps_with_levels(self, count: int) -> list[_Step]:
        """First along the features without levels, then ever more of the others by one level each."""
        free = self.space.free
        moves = (self.end - self.start) / free.scale
        levels = self._movable(moves)
        smooth = bool((moves[free.quantum == 0] != 0).any())
        by_levels = min(LEVEL_STEPS, count - smooth) if levels.size else 0
        steps = [self.beyond(one) for one in self._excesses(count - by_levels)] if smooth else []
        at = steps[-1].row.ravel()[free.place].astype(np.float64) if steps else self.end
        farthest = (1.0 + ALLOWANCE) * (self._away(steps[-1].row) if steps else self.distance)
        for power in range(by_levels):
            chosen = levels[: 2**power]
            moved = at.copy()
            moved[chosen] += np.sign(moves[chosen]) * free.quantum[chosen]
            step = _Step(self._row(moved), 0.0)
            if power and self._away(step.row) > farthest:
                break
            steps.append(step)
        return steps

    def _movable(self, moves: Array) -> NDArray[np.int64]:
        """Features with levels that moved and can move one level more, those that moved most first."""
        free, levels = self.space.free, self.space.free.quantum
        if not self.space.quantised:
            return np.zeros(0, np.int64)
        next_one = self.end + np.sign(moves) * levels
        within = (next_one >= free.lower) & (next_one <= free.upper)
        places = np.flatnonzero((levels > 0) & (moves != 0) & within)
        return places[np.argsort(-np.abs(moves[places]), kind="stable")]

    def _row(self, features: Array) -> NDArray[Any]:
        """A row within the domain with these free features."""
        free = self.space.free
        if free.plain:
            return features.astype(self.x.dtype).reshape(self.x.shape)
        row = self.x.flatten()
        row[free.place] = np.clip(features, free.lower, free.upper) if self.space.bounded else features
        return row.reshape(self.x.shape)

    def _away(self, row: NDArray[Any]) -> float:
        """Its distance from the input, in units of the scale."""
        free = self.space.free
        return _length(row.ravel()[free.place].astype(np.float64) - self.start, free)


def _length(moved: Array, free: FreeFeatures) -> float:
    """The l2 length of a displacement (d,) of the features that may change, in units of the scale."""
    moved = moved if free.plain else moved / free.scale
    return math.sqrt(moved.dot(moved))
