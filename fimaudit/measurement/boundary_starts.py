"""From labels alone to first points of the decision boundary, on short rays: of several classes where there are.

One walk from the shortest ray often ends at another class than the nearest one. So walks start at the shortest ray of
several classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.measurement.label_effort import effort
from fimaudit.measurement.label_search import RAY_HALVINGS, LabelSearch, length_of
from fimaudit.measurement.protocol import Flow

__all__ = ["NoOtherLabel", "find_starts"]

Array = NDArray[np.float64]

#: Share of spatial frequencies of random rays in turn.
BANDS = (0.1, 0.25, 0.5, 1.0)
#: Halvings of the way to the first point of each class, which is known to lie beyond ``WITHIN``.
FINE_HALVINGS = 5
#: A ray of a class is looked for up to so many lengths of the shortest ray, and believed up to so many. A long one costs
#: little: 1 / L^2 grows by every step, whatever it was at the start, and the nearest class may have no short ray.
REACH, LONGEST = 4.0, 8.0
#: No ray meets another label before this share of the shortest one.
WITHIN = 0.5
#: A ray that is decided otherwise this much nearer beats the best one.
SHORTER = 0.8
#: Without an input of another label: random rays, at so many lengths, each twice the one before.
RANDOM_RAYS, RAY_LENGTHS = 8, 8
#: Inputs with another label that are asked again where labels are random: theirs may have been the wrong one.
DOUBTED = 6
#: A race over many rays ends after so many rounds, or at this share of the labels.
MOST_ROUNDS, RACE_SHARE = 60, 0.3
#: Without an input of another label, random rays take up to this share of the labels.
RANDOM_RAYS_SHARE = 0.7


@dataclass(frozen=True)
class NoOtherLabel:
    """That no row with another label was met.

    Attributes:
        reason: a clause for people.
    """

    reason: str


def find_starts(search: LabelSearch, others: Sequence[NDArray[Any]]) -> Flow[list[Array] | NoOtherLabel]:
    """Boundary points on short rays, towards inputs with another label or at random, of different classes.

    Args:
        search: the search at an input.
        others: inputs with another label, in the order to look at them.
    """
    may = effort(search.labels)
    there = [search.points.towards(other) for other in others[: DOUBTED if search.random else may.rays]]
    asked = search.random or bool(search.points.space.frozen.any())  # with these features held, they may be decided alike
    if asked:
        there = yield from _beyond(search, there)
    first = yield from _first_boundary(search, there)
    if first is not None and not asked and np.array_equal(first, search.points.clipped(there[0])):
        # That row was never asked. It may be off by a rounding, which decides where a feature is exactly on a threshold.
        there = yield from _beyond(search, there)
        first = yield from _first_boundary(search, there)
    if first is None:
        found = yield from _random_ray(search)
        if isinstance(found, NoOtherLabel):
            return found
        first = yield from _first_boundary(search, [found])
        assert first is not None
    others_left = there[1:]
    if search.random:  # among many rays some would be believed by chance
        return [first]
    units = [other / np.linalg.norm(other) for other in others_left]
    for i in range(may.randoms):
        ray = search.points.band(search.rng, 1, BANDS[i % len(BANDS)])[0]
        units.append(ray / np.linalg.norm(ray))
    nearest = yield from _race(search, first, np.array(units), others_left)
    nearest = sorted(nearest, key=length_of)[: may.rounds[0][0]]
    nearest = [point for point in nearest if length_of(point) <= LONGEST * length_of(nearest[0])]
    inside = WITHIN * length_of(nearest[0]) / np.array([length_of(point) for point in nearest])
    return (yield from search.halved(nearest, inside, FINE_HALVINGS))


def _beyond(search: LabelSearch, points: Sequence[Array]) -> Flow[list[Array]]:
    """Those of the points that are decided otherwise."""
    if not points:
        return []
    beyond = yield from search.vote(np.stack(points))
    return [point for point, other in zip(points, beyond, strict=True) if other]


def _first_boundary(search: LabelSearch, points: Sequence[Array]) -> Flow[Array | None]:
    """The boundary on the ray to the first of the points; ``None`` where there is none."""
    return (yield from search.halved(points[:1], 0.0, RAY_HALVINGS))[0] if points else None


def _race(search: LabelSearch, first: Array, units: Array, others: Sequence[Array]) -> Flow[list[Array]]:
    """The nearest point met of each class: at ever shorter lengths on rays still beyond, then towards the others."""
    nearest: dict[int, Array] = {}

    def met(points: Array) -> Flow[NDArray[np.bool_]]:
        labels, _ = yield from search.answered(points)
        for point, label in zip(points, labels, strict=True):
            if label != search.decision and (label not in nearest or length_of(point) < length_of(nearest[label])):
                nearest[int(label)] = point
        return np.asarray(labels != search.decision)

    yield from met(first[None])
    length, racing = length_of(first), units
    for _ in range(MOST_ROUNDS):
        if search.asked + len(racing) > RACE_SHARE * search.labels:
            break
        points = search.points.clipped(length * racing)
        beyond = yield from met(points)
        if not beyond.any():
            break
        racing = racing[beyond]
        length *= SHORTER
    reach = REACH * min((length_of(point) for point in nearest.values()), default=length_of(first))
    if others and effort(search.labels).rounds[0][0] > 1:
        yield from met(search.points.clipped(np.stack([min(1.0, reach / length_of(one)) * one for one in others])))
    return list(nearest.values()) or [first]


def _random_ray(search: LabelSearch) -> Flow[Array | NoOtherLabel]:
    """The end of a random ray that is decided otherwise, at lengths up to the box, or to many times the input."""
    space = search.points.space
    width = np.minimum(search.points.upper, 4.0) - np.maximum(search.points.lower, -4.0) if space.bounded else 8.0
    size = max(float(np.linalg.norm(search.points.origin / search.points.scale)), 1.0)
    longest = float(np.linalg.norm(np.broadcast_to(width, search.points.origin.shape))) + size
    units = np.concatenate([search.points.band(search.rng, 1, BANDS[i % len(BANDS)]) for i in range(RANDOM_RAYS)])
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    for halvings in range(RAY_LENGTHS - 1, -1, -1):
        if search.asked + len(units) * search.votes > RANDOM_RAYS_SHARE * search.labels:
            return NoOtherLabel("no input of the audit has another label, and random rays took their share of the labels")
        ends = search.points.clipped(longest * 2.0**-halvings * units)
        beyond = yield from search.vote(ends)
        if beyond.any():
            return np.asarray(ends[int(np.argmax(beyond))])
    return NoOtherLabel(
        f"no input of the audit has another label, and none of {RANDOM_RAYS} random rays up to a distance of "
        f"{longest:.3g} met one"
    )
