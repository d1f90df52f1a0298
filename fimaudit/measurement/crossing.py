"""Where along a line to ask next for the nearest change of decision: where log-odds will be even, else by equal division."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from fimaudit.measurement.boundary import LEAD

__all__ = ["EQUAL_ROWS", "FARTHER", "FORESEEN_ROWS", "NEAR", "SURE", "Point", "change_among", "next_lengths"]

#: Rows of a round where the change is foreseen: the input, the row there twice, and one beyond; and of any other.
FORESEEN_ROWS, EQUAL_ROWS = 4, 3
#: Lengths of a round where nothing has changed the decision yet, in the longest so far.
FARTHER = (1.1, 2.0, 6.0)
#: A row no farther beyond the change than this share of its distance is near enough: equal division ends no nearer, at a
#: quarter of the expected distance over 4^3, and the direction of the line alone costs more.
NEAR = 3e-3
#: The log-odds at which a row is aimed, and from which on it counts: one with less than a check asks for is stepped out.
AIM, SURE = 4 * LEAD, 2 * LEAD
#: A parabola that differs from a straight line by more than this share of the bracket foresees nothing.
BENT = 1 / 8
#: How far beyond the place foreseen to ask: in that difference, and in the distance to what is known, where a kink may lie.
BEYOND, BEYOND_KINK = 0.5, 1 / 128
#: The same of the row beyond, which bounds the way where the first one falls short.
OTHER, OTHER_KINK = 2.0, 1 / 8


class Point(NamedTuple):
    """A row along a line from an input that was asked.

    Attributes:
        length: along it.
        lead: log-odds by which another class leads the decision there.
        changed: whether the decision is another one there.
        distance: of the row from the input, in units of the scale.
        row: as the model was sent it.
    """

    length: float
    lead: float
    changed: bool
    distance: float
    row: NDArray[Any]


def change_among(points: Sequence[Point], least: float | None = None) -> Point | None:
    """The nearest of the points that changed the decision, by ``least`` log-odds if given; ``None`` for none."""
    changed = (point for point in points if point.changed and (least is None or point.lead >= least))
    return min(changed, key=lambda point: point.distance, default=None)


def next_lengths(points: Sequence[Point], most: int, *, tells: bool) -> list[float]:
    """The lengths of the next round, at most so many; none where the change is known as nearly as matters.

    Where the log-odds foresee the change, that is 0, the length at which to check, one beyond, and the second again: a call
    in which the row stands twice among others. Else it is equal division of the way from the last row that kept the decision
    to the first one that did not, or lengths beyond all.

    Args:
        points: by length.
        most: rows.
        tells: whether log-odds may foresee anything: not if they are rounded or random.

    >>> def asked(*leads):
    ...     return [Point(1.0 + i, lead, lead > 0, 1.0 + i, None) for i, lead in enumerate(leads)]
    >>> next_lengths(asked(-9.0, -9.0, 9.0), 9, tells=True), next_lengths(asked(-2.0, -1.0), 9, tells=True)
    ([2.25, 2.5, 2.75], [2.2, 4.0, 12.0])
    >>> [round(length, 2) for length in next_lengths(asked(-2.5, -1.5, -0.5), 9, tells=True)]
    [0.0, 3.5, 3.56, 3.5]
    """
    first = next((i for i, point in enumerate(points) if point.changed and (not tells or point.lead >= SURE)), len(points))
    low, known = points[first - 1].length if first else 0.0, first < len(points)
    high = points[first].length if known else FARTHER[1] * low
    start = max(0, min(first, len(points) - 1) - 2)
    foreseen = _foreseen(points[start : start + 3], low, high) if tells else None
    place, doubt = foreseen or (low, 0.0)
    if known and high - place <= NEAR * high:
        return []
    if foreseen and most >= FORESEEN_ROWS:
        reach = min(place - low, high - place) if known else place - low
        near = place + max(BEYOND * doubt, BEYOND_KINK * reach)
        other = place + max(OTHER * doubt, OTHER_KINK * reach, NEAR * place)
        if near < high:
            return [0.0, near, min(other, (near + high) / 2), near]
    count = min(EQUAL_ROWS, most)
    if not known:
        return [low * factor for factor in FARTHER[:count]]
    return [low + (high - low) * i / (count + 1) for i in range(1, count + 1)]


def _foreseen(points: Sequence[Point], low: float, high: float) -> tuple[float, float] | None:
    """Where log-odds reach ``AIM``, by the parabola of the length through three of them, and how far a straight line is off.

    ``None`` where they do not rise from each to the next, or where the two differ too much for what is known already.
    """
    if len(points) < 3 or not points[0].lead < points[1].lead < points[2].lead:
        return None
    (a, f), (b, g), (c, h) = ((point.length, point.lead - AIM) for point in points)
    before, after = (g * a - f * b) / (g - f), (h * b - g * c) / (h - g)
    place = (h * before - f * after) / (h - f)
    doubt = abs(place - (after if place > b else before))
    return (place, doubt) if low < place < high and doubt <= BENT * (high - low) else None
