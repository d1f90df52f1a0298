"""A counterexample: walk along the estimated gradient to where the decision really changes, and make sure that it holds.

The gradient of log(p_rival / p_predicted) comes from secants that were asked already: sum_t l_t v_t. Found from m of d
directions it has cos^2 ~ m / (m + d) with the true one, so the walk starts at the radius over that cosine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.grouping import positions_by_kind, stacked
from fimaudit.estimation.margin import Margin
from fimaudit.estimation.noise import VisibleClasses
from fimaudit.measurement.boundary import CHECK_ROWS, NotHeld, hold_row, leads_over
from fimaudit.measurement.crossing import EQUAL_ROWS, FORESEEN_ROWS, SURE, Point, change_among, next_lengths
from fimaudit.measurement.protocol import BatchedStep, Flow
from fimaudit.perturbations.rows import PlainRows, RandomRows
from fimaudit.perturbations.sign_rows import BLOCK_ELEMENTS, PIECE_ELEMENTS
from fimaudit.results import Witness
from fimaudit.space import Space

__all__ = [
    "ASKED",
    "ROUNDS",
    "STEPPED_ROWS",
    "WHOLE_WAY",
    "WITNESS_REQUESTS",
    "WITNESS_ROWS",
    "Slope",
    "Way",
    "ask_along",
    "find_witness",
    "rows_along",
    "rows_along_each",
]

Array = NDArray[np.float64]

#: Rows asked at a time, and times; a walk along the slope is the first. Where the change is foreseen it is fewer times.
ASKED, ROUNDS = EQUAL_ROWS, 4
#: Rows at most: where answers foresee the change, ``FORESEEN_ROWS`` and one more follow the first round nearly always.
WITNESS_ROWS = ASKED * ROUNDS + CHECK_ROWS
#: Rows on top, where a witness on the decision boundary is stepped outwards.
STEPS = 4
STEPPED_ROWS = STEPS * CHECK_ROWS
#: Requests that its checks take at most: two each.
WITNESS_REQUESTS = 2 * (1 + STEPS)
#: Lengths of the first round, in expected distances to the decision boundary.
BRACKET = (0.75, 1.5, 3.0)
#: The one of them at which an input lies towards which is walked: halfway to it and beyond it are asked too.
WHOLE_WAY = BRACKET[1]


@dataclass(frozen=True)
class Slope:
    """A way down for the predicted class.

    Attributes:
        gradient: (d,) direction over the free features, in units of the scale.
        expected: l2 distance along it at which the decision is expected to change.
    """

    gradient: Array
    expected: float

    @cached_property
    def length(self) -> float:
        """Of the gradient."""
        return math.sqrt(self.gradient.dot(self.gradient))

    @cached_property
    def unit(self) -> Array:
        """The direction."""
        return self.gradient / self.length

    @property
    def leads_somewhere(self) -> bool:
        """Whether it can be walked along."""
        return self.length > 0 and math.isfinite(self.expected) and self.expected > 0

    @classmethod
    def of_rows(cls, rows: RandomRows, space: Space, view: VisibleClasses, answers: Array, margin: Margin) -> Slope:
        """From the secants of the main rows: sum_t l_t v_t."""
        columns = (margin.rival, view.top)
        kept = list(columns) if view.whole else [int(np.flatnonzero(view.classes == k)[0]) for k in columns]
        p = np.maximum(view.table(answers)[:, kept], 1e-300)
        odds = np.log(p[:, 0] / p[:, 1])
        gradient = rows.combined(odds - odds.mean())[space.free.place]
        gradient = gradient if space.free.plain else gradient / space.free.scale
        cosine = np.sqrt(len(answers) / (len(answers) + gradient.size))  # fewer than the rows where asking stopped early
        return cls(gradient, float(margin.radius.value / cosine))


def ask_along(
    x: NDArray[np.floating], space: Space, slope: Slope, top: int, lengths: Sequence[float]
) -> Flow[tuple[list[Point], Array]]:
    """Ask rows at these lengths along a slope: what changed the decision ``top``, and the answers."""
    rows, distances = yield BatchedStep(rows_along_each, Way(x, space, slope.unit, np.array(lengths)))
    answers: Array = yield PlainRows(rows)
    away = distances.tolist()
    leads, classes = leads_over(answers, top)
    changed = [other != top and far > 0 for other, far in zip(classes, away, strict=True)]
    return list(map(Point, lengths, leads, changed, away, rows)), answers


def find_witness(
    x: NDArray[np.floating],
    space: Space,
    slope: Slope,
    top: int,
    *,
    tells: bool,
    asked: Sequence[Point] | None = None,
    random: bool = False,
) -> Flow[Witness | NotHeld | None]:
    """The shortest displacement along the slope that was seen to change the decision; ``None`` when none did.

    It changes it both when it is asked alone and among others; if need be, it is stepped outwards until it does.

    Args:
        x: the input.
        space: its domain; witnesses lie within it, on its levels.
        slope: where to walk.
        top: the predicted class.
        tells: whether the answers' log-odds may say where the decision changes.
        asked: a first round along this slope.
        random: the same row asked twice is answered differently.
    """
    if not slope.leads_somewhere:
        return None
    if asked is None:
        asked, _ = yield from ask_along(x, space, slope, top, [slope.expected * factor for factor in BRACKET])
    seen, left = list(asked), ASKED * (ROUNDS - 1)
    among: dict[float, Array] = {}
    while left > 1 and (lengths := next_lengths(seen, left, tells=tells)):
        points, answers = yield from ask_along(x, space, slope, top, lengths)
        left -= len(points)
        if len(points) == FORESEEN_ROWS:
            among[points.pop().length] = answers[1::2]  # the first half of the row's check
        seen = sorted([*seen, *points], key=itemgetter(0))
    found = change_among(seen, SURE if tells else None) or change_among(seen)
    if found is None:
        return None
    rows, check = CHECK_ROWS + STEPPED_ROWS, among.get(found.length)
    held = yield from hold_row(x, found.row.copy(), space, top, rows, check, random=random)
    if isinstance(held, NotHeld):
        return held
    witness = Witness(distance=held.distance, predicted_class=held.predicted_class)
    witness.keep(held.row)
    return witness


def rows_along(x: NDArray[np.floating], space: Space, unit: Array, lengths: Array) -> tuple[NDArray[np.generic], Array]:
    """Rows at these lengths within the domain and on its levels, and how far each really is from x in units of the scale.

    Args:
        x: the input, shape \\*shape.
        space: its domain.
        unit: (d,) direction over the free features, in units of the scale.
        lengths: (n,) along it.
    """
    return rows_along_each([Way(x, space, unit, lengths)])[0]


@dataclass(frozen=True)
class Way:
    """What ``rows_along`` takes."""

    x: NDArray[np.floating]
    space: Space
    unit: Array
    lengths: Array


def rows_along_each(ways: Sequence[Way]) -> list[tuple[NDArray[np.generic], Array]]:
    """``rows_along`` of each; those of one domain and of as many lengths are worked on together, as their size allows."""
    out: list[tuple[NDArray[np.generic], Array]] = [(np.empty(0), np.empty(0))] * len(ways)
    for places in positions_by_kind((id(way.space), len(way.lengths)) for way in ways):
        first = ways[places[0]]
        count = BLOCK_ELEMENTS // max(1, len(first.lengths) * len(first.unit))
        if not first.space.free.plain or not count:
            for i in places:
                out[i] = _rows_within(ways[i])
            continue
        for start in range(0, len(places), count):
            some = places[start : start + count]
            for i, rows, distances in zip(some, *_plain_rows([ways[i] for i in some]), strict=True):
                out[i] = rows.reshape(len(rows), *first.x.shape), distances
    return out


def _plain_rows(ways: Sequence[Way]) -> tuple[NDArray[np.generic], Array]:
    """Rows (n, m, d) and distances (n, m) where each feature counts as it is, has no levels and no bound."""
    dtype = ways[0].space.dtype
    base = stacked([way.x.astype(dtype, copy=False).ravel() for way in ways]).astype(np.float64)[:, None]
    moved = stacked([way.lengths for way in ways])[:, :, None] * stacked([way.unit for way in ways])[:, None]
    moved += base
    rows = moved.astype(dtype)
    np.subtract(rows, base, out=moved)
    return rows, np.sqrt(np.vecdot(moved, moved))


def _rows_within(way: Way) -> tuple[NDArray[np.generic], Array]:
    """The same of one input, over features with bounds, levels or scales, or many of them: some features at a time."""
    x, space, unit, lengths = way.x, way.space, way.unit, way.lengths
    place, scale, quantum, low, high, plain = space.free
    start = x.astype(space.dtype, copy=False).ravel()
    base = start[place]
    rows = np.empty((len(lengths), start.size), start.dtype)
    if not plain:
        rows[...] = start
    squares, width = np.zeros(len(lengths)), max(1, PIECE_ELEMENTS // max(1, len(lengths)))
    for first in range(0, len(base), width):
        some = slice(first, first + width)
        at = some if isinstance(place, slice) else place[some]
        moved = np.multiply.outer(lengths, unit[some])
        if not plain:
            moved *= scale[some]
            levels = quantum[some]
            moved = np.where(levels > 0, np.round(moved / np.where(levels > 0, levels, 1.0)) * levels, moved)
        here = base[some].astype(np.float64)
        moved += here
        rows[:, at] = moved if plain else np.clip(moved, low[some], high[some], out=moved)
        np.subtract(rows[:, at], here, out=moved)
        if not plain:
            moved /= scale[some]
        squares += np.vecdot(moved, moved)
    return rows.reshape(len(lengths), *x.shape), np.sqrt(squares)
