"""How far the slope at an input holds: log-odds over a few lengths along it, up to where a linear function would change.

The first-order radius is gap / |gradient|. Where the log-odds fall faster along the gradient than they begin to, another
decision is nearer by that share, whatever random displacements show: in d dimensions these move the log-odds sqrt(d) times
less. Where the log-odds bend either way, the boundary bends too, and lies nearer elsewhere than straight ahead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fimaudit.estimation.predictable import TINY
from fimaudit.measurement.context import DisplacedContext
from fimaudit.measurement.counterexample import ask_along
from fimaudit.measurement.crossing import Point, change_among
from fimaudit.measurement.design import MainAnswers
from fimaudit.measurement.protocol import Flow
from fimaudit.measurement.query_split import WALK_ROWS

__all__ = ["SlopeWalk", "first_even", "how_far", "walk_slope"]

#: Lengths in expected distances of the boundary, after a short one that shows the slope along the way itself.
LENGTHS = (0.5, 0.75, 1.0)
#: That one: the input's displacement, within these shares of the expected distance.
SHORTEST, LONGEST = 1 / 64, 1 / 8
#: To which share of the way between two of them the place is found at which log-odds are even.
EVEN_WITHIN = 1e-15


@dataclass(frozen=True)
class SlopeWalk:
    """What the answers along the slope say.

    Attributes:
        asked: the rows, and which of them changed the decision.
        reach: where the log-odds are even, over where they would be if they fell as they begin to; ``None`` unknown.
        bend: the largest departure of their fall from a linear one, as a share of it; ``None`` unknown.
    """

    asked: Sequence[Point]
    reach: float | None = None
    bend: float | None = None

    @property
    def changed_at(self) -> float | None:
        """The shortest displacement asked that changed the decision; ``None`` for none."""
        nearest = change_among(self.asked)
        return None if nearest is None else nearest.distance


def walk_slope(ctx: DisplacedContext, main: MainAnswers) -> Flow[SlopeWalk | None]:
    """Ask ``WALK_ROWS`` rows along the slope; ``None`` where none is known.

    Answers that are noisy, or that lie on levels, show changes of decision only.

    Args:
        ctx: the input.
        main: what the main directions showed.
    """
    slope, estimate = main.slope, main.estimate
    if slope is None or estimate is None or estimate.margin is None or not ctx.step.has_slope or not ctx.by_class:
        return None
    if not slope.leads_somewhere:
        return None
    expected = slope.expected
    short = min(max(ctx.step.rho, SHORTEST * expected), LONGEST * expected)
    lengths = [short, *(expected * share for share in LENGTHS)]
    assert len(lengths) == WALK_ROWS
    asked, answers = yield from ask_along(ctx.x, ctx.space, slope, main.view.top, lengths)
    if main.view.noise is not None or ctx.space.quantised or ctx.quality.random:
        return SlopeWalk(asked)
    own, other = (
        [max(p, TINY) for p in (float(main.view.base[k]), *answers[:, k].tolist())]
        for k in (main.view.top, estimate.margin.rival)
    )
    reach, bend = how_far(lengths, [math.log(a / b) for a, b in zip(own, other, strict=True)]) or (None, None)
    return SlopeWalk(asked, reach, bend)


def how_far(lengths: Sequence[float], odds: Sequence[float]) -> tuple[float, float] | None:
    """(reach, bend) of log-odds: where they are even over where a linear function would be, and how far they are from it.

    Args:
        lengths: (n,) along the slope, rising; the first one shows the slope.
        odds: (1 + n,) at the input and there.

    Returns:
        ``None`` where they do not begin to fall.

    >>> lengths = [0.1, 1.0, 1.5, 2.0]
    >>> reach, bend = how_far(lengths, [2.0, *(2 - length for length in lengths)])
    >>> round(reach, 9), round(bend, 9)
    (1.0, 0.0)
    >>> reach, bend = how_far(lengths, [2.0, 1.9, 0.8, 0.05, -0.8])
    >>> round(reach, 2), round(bend, 2)
    (0.77, 0.4)
    """
    slope = (odds[0] - odds[1]) / lengths[0]
    if not slope > 0 or not odds[0] > 0:
        return None
    straight = odds[0] / slope
    even = first_even([0.0, *lengths], odds)
    if even is None:
        fall = (odds[-2] - odds[-1]) / (lengths[-1] - lengths[-2])
        even = lengths[-1] + odds[-1] / fall if fall > 0 else math.inf
    apart = (abs(odds[0] - there - slope * length) for there, length in zip(odds[2:], lengths[1:], strict=True))
    return even / straight, max(apart) / (slope * lengths[-1])


def first_even(places: Sequence[float], odds: Sequence[float]) -> float | None:
    """Where log-odds that begin above 0 first meet 0, between their places by monotone cubics; ``None`` where they do not.

    The cubics are those of Fritsch and Butland (1984), which rise or fall with the values that they join, so that each has
    one root at most, and none where its values have one sign.

    Args:
        places: at least three, rising.
        odds: there.

    >>> first_even([0.0, 1.0, 2.0], [3.0, 1.0, -1.0]), first_even([0.0, 1.0, 2.0], [3.0, 2.0, 1.0])
    (1.5, None)
    """
    last = next((k for k, value in enumerate(odds) if value <= 0), None)
    if last is None:
        return None
    widths = [b - a for a, b in pairwise(places)]
    rises = [(b - a) / width for (a, b), width in zip(pairwise(odds), widths, strict=True)]
    width, begin, end = widths[last - 1], odds[last - 1], odds[last]
    steep, flat = (_cubic_slope(widths, rises, k) * width for k in (last - 1, last))
    low, high, place = 0.0, 1.0, begin / (begin - end)
    while low < place < high:  # Newton's steps, and halving where one would leave what is left
        rest = 1.0 - place
        near, far = begin * (1.0 + 2.0 * place) + steep * place, end * (1.0 + 2.0 * rest) - flat * rest
        value = near * rest**2 + far * place**2
        low, high = (place, high) if value > 0 else (low, place)
        slope = 6.0 * (end - begin) * place * rest + steep * rest * (1.0 - 3.0 * place) - flat * place * (2.0 - 3.0 * place)
        step = value / slope if slope < 0 else 1.0
        if abs(step) <= EVEN_WITHIN:
            break
        place = place - step if low < place - step < high else (low + high) / 2
    return places[last - 1] + place * width


def _cubic_slope(widths: Sequence[float], rises: Sequence[float], k: int) -> float:
    """The slope of the monotone cubics at place k, from the widths and the mean slopes of the pieces."""
    if 0 < k < len(rises):
        one, two, before, after = widths[k - 1], widths[k], rises[k - 1], rises[k]
        if before * after <= 0:
            return 0.0
        return 3.0 * (one + two) / ((2.0 * two + one) / before + (two + 2.0 * one) / after)
    (own, beside), (rise, further) = (part[:2] if k == 0 else part[:-3:-1] for part in (widths, rises))
    slope = ((2.0 * own + beside) * rise - own * further) / (own + beside)
    if slope * rise <= 0:
        return 0.0
    return 3.0 * rise if rise * further <= 0 and abs(slope) > 3.0 * abs(rise) else slope
