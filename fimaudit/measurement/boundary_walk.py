"""From labels alone to a point of the decision boundary, not the nearest one: rays first, then steps along the boundary.

One walk from the shortest ray often ends at another class than the nearest one. So walks start at the shortest ray of
several classes, and go on from those whose first steps say that the boundary passes nearest.

Points are displacements of one input (``RayPoints``). Every row that is decided otherwise is a real counterexample; the
nearest one is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.tangent_plane import NEAR_FOOT
from fimaudit.measurement.protocol import Flow
from fimaudit.perturbations.ray_points import RayPoints
from fimaudit.perturbations.rows import PlainRows

__all__ = ["BASE_VOTES", "BoundaryWalk", "Counterexample", "NoOtherLabel", "effort"]

Array = NDArray[np.float64]

#: Share of spatial frequencies of random rays in turn, and of the walk's noise.
BANDS, WALK_BAND = (0.1, 0.25, 0.5, 1.0), 0.5
#: Length of the walk's noise in lengths of the boundary point, and halvings of a quarter circle or of a ray.
NOISE, ARC_HALVINGS, RAY_HALVINGS, FINE_HALVINGS = 0.2, 7, 8, 5
#: A walk that is dropped is joined to those that go on up to so many times the shortest one's length.
JOINS = 1.5
#: Labels of so many signs turn noise into a direction as one number without sign would (1 / E|z|^2).
SIGN_LOSS = np.pi / 2
#: A ray of a class is looked for up to so many lengths of the shortest ray, and believed up to so many. A long one costs
#: little: 1 / L^2 grows by every step, whatever it was at the start, and the nearest class may have no short ray.
REACH, LONGEST = 4.0, 8.0
#: No ray meets another label before this share of the shortest one.
WITHIN = 0.5
#: A ray that is decided otherwise this much nearer beats the best one.
SHORTER = 0.8
#: Without an input of another label: random rays, at so many lengths, each twice the one before.
RANDOM_RAYS, RAY_LENGTHS = 8, 8
#: Random labels are asked so often, and the majority counts; the input itself so often, which shows how random they are.
VOTES, BASE_VOTES = 5, 25
#: Share of the labels that start and walk take near the foot of the plane.
FOOT_SHARE = 0.75
#: A majority of one vote is wrong too often for a search that never comes back to it: so many votes decide then.
CLOSE_VOTES = 15
#: Inputs with another label that are asked again where labels are random: theirs may have been the wrong one.
DOUBTED = 6
#: A race over many rays ends after so many rounds, or at this share of the labels.
MOST_ROUNDS, RACE_SHARE = 60, 0.3
#: Without an input of another label, random rays take up to this share of the labels.
RANDOM_RAYS_SHARE = 0.7
#: Nearest counterexamples that are kept to be asked once more alone.
KEPT = 3


@dataclass(frozen=True)
class Effort:
    """What a search may do with so many labels at least.

    Attributes:
        labels: at least.
        rays, randoms: rays to inputs with another label, and random rays.
        share: of the labels, for start and walk; the rest goes to the plane where the walk ends.
        rounds: steps of the walk, the number of walks that take it and the share of the labels of each.
    """

    labels: int
    rays: int
    randoms: int
    share: float
    rounds: tuple[tuple[int, float], ...]


#: Five starts, against one, took the radii that are 1.3 times too long from 23 to 10 % on a network (benchmarks/labels.py).
#: A first step says little: of two that went on from there, the nearest one was missing on one input in seven on a network.
#: Of 1,000 labels the step of the last walk alone would take 100 that say more about its plane; of 500 the walk would end
#: too far away without it, and with 2,000 there are enough for both.
EFFORTS = (
    Effort(1600, 12, 16, 0.6, ((5, 1.0), (3, 1.5), (2, 2.0), (1, 4.0))),
    Effort(800, 12, 16, 0.5, ((5, 1.0), (3, 1.5), (2, 2.0))),
    Effort(400, 12, 16, 0.6, ((3, 1.0), (2, 1.0), (1, 2.0))),
    Effort(0, 6, 8, 0.6, ((1, 1.0), (1, 2.0))),
)


def effort(labels: int) -> Effort:
    """What a search may do with so many labels.

    >>> effort(1000).share
    0.5
    """
    return next(one for one in EFFORTS if labels >= one.labels)


@dataclass(frozen=True)
class Counterexample:
    """A row that was decided otherwise: its distance in units of the scale, and its label."""

    row: NDArray[Any]
    distance: float
    label: int


@dataclass(frozen=True)
class NoOtherLabel:
    """That no row with another label was met.

    Attributes:
        reason: a clause for people.
    """

    reason: str


@dataclass
class BoundaryWalk:
    """The search at one input; asks through flows, and counts.

    Attributes:
        points: the input.
        decision: its label.
        rng: random numbers of this input.
        labels: most labels to ask in all, of which ``asked`` were.
        random: whether the same row may be answered differently, so that a majority decides and no row is a counterexample.
        voted, outvoted: labels of rows that were asked several times, and those that the majority overruled.
        found: the nearest rows decided otherwise, the nearest first.
    """

    points: RayPoints
    decision: int
    rng: np.random.Generator
    labels: int
    random: bool = False
    asked: int = 0
    voted: int = 0
    outvoted: int = 0
    found: list[Counterexample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._effort = effort(self.labels)
        self._dither = self.rng.random(len(self.points.origin), dtype=np.float32)

    @property
    def votes(self) -> int:
        """How often a row is asked."""
        return VOTES if self.random else 1

    @property
    def lapse(self) -> float:
        """Share of labels that are wrong at random."""
        return self.outvoted / max(self.voted, 1) if self.random else 0.0

    @property
    def most_votes(self) -> int:
        """How often a row is asked at most."""
        return CLOSE_VOTES if self.random else 1

    def ask(self, points: Array, dither: NDArray[np.floating[Any]] | None = None) -> Flow[tuple[NDArray[np.bool_], Array]]:
        """Whether each of (m, d) points is decided otherwise, and the points that were really asked."""
        labels, sent = yield from self._labels(points, dither)
        return labels != self.decision, sent

    def start(self, others: Sequence[NDArray[Any]]) -> Flow[list[Array] | NoOtherLabel]:
        """Boundary points on short rays, towards inputs with another label or at random, of different classes.

        Args:
            others: inputs with another label, in the order to look at them.
        """
        may = self._effort
        there = [self.points.towards(other) for other in others[: DOUBTED if self.random else may.rays]]
        if there and (self.random or self.points.space.frozen.any()):  # with these features held, they may be decided alike
            beyond = yield from self.vote(np.stack(there))
            there = [point for point, other in zip(there, beyond, strict=True) if other]
        if there:
            first, others_left = there[0], there[1:]
        else:
            found = yield from self._random_ray()
            if isinstance(found, NoOtherLabel):
                return found
            first, others_left = found, []
        first = (yield from self.halved([first], 0.0, RAY_HALVINGS))[0]
        if self.random:  # among many rays some would be believed by chance
            return [first]
        units = [other / np.linalg.norm(other) for other in others_left]
        for i in range(may.randoms):
            ray = self.points.band(self.rng, 1, BANDS[i % len(BANDS)])[0]
            units.append(ray / np.linalg.norm(ray))
        nearest = yield from self._race(first, np.array(units), others_left)
        nearest = sorted(nearest, key=_length)[: may.rounds[0][0]]
        nearest = [point for point in nearest if _length(point) <= LONGEST * _length(nearest[0])]
        inside = WITHIN * _length(nearest[0]) / np.array([_length(point) for point in nearest])
        return (yield from self.halved(nearest, inside, FINE_HALVINGS))

    def walk(self, starts: Sequence[Array]) -> Flow[Array]:
        """Steps along the boundary, each to the nearest point of a half circle, until their share of the labels is asked.

        All starts take the first step, fewer the next: those where the plane of the steps so far passes nearest. Near the
        foot of the plane few labels tell its distance, and the boundary's bend is what errs: there the walk goes on.

        Args:
            starts: (d,) boundary points.
        """
        until, near_foot = int(self._effort.share * self.labels), int(FOOT_SHARE * self.labels)
        live = list(starts)
        if len(live[0]) < 2:
            return min(live, key=_length)
        planes: list[float] = []
        rounds = [(min(kept, len(live)), share) for kept, share in self._effort.rounds]
        count = 4
        for number, (kept, share) in enumerate(rounds):
            best = np.argsort(planes, kind="stable") if planes else np.arange(len(live))
            before = [planes[i] for i in best[:kept]] if planes else []
            live = yield from self._joined([live[i] for i in best[:kept]], [live[i] for i in best[kept:]], until)
            if self.asked + len(live) * (4 + ARC_HALVINGS * self.votes) > near_foot:
                return live[0] if planes else min(live, key=_length)
            spare = until - self.asked - ARC_HALVINGS * self.votes * sum(walks for walks, _ in rounds[number:])
            count = max(4, int(spare * share / sum(walks * each for walks, each in rounds[number:])))
            after = yield from self._steps(live, count)
            seen = [self._plane(_length(a), _length(b), count) for a, b in zip(live, after, strict=True)]
            planes = [float(np.sqrt(a * b)) for a, b in zip(seen, before, strict=True)] if before else seen
            live = after
        best = np.argsort(planes, kind="stable")
        planes = [planes[best[0]]]
        live = yield from self._joined([live[best[0]]], [live[i] for i in best[1:]], near_foot)
        step = count + ARC_HALVINGS * self.votes
        while planes[0] >= NEAR_FOOT * _length(live[0]) and self.asked + step <= near_foot:
            before, live = [_length(live[0])], (yield from self._steps(live[:1], count))
            planes = [self._plane(before[0], _length(live[0]), count)]
        return live[0]

    def vote(self, points: Array) -> Flow[NDArray[np.bool_]]:
        """Whether each point is decided otherwise, by majority where labels are random."""
        votes = self.votes
        other, _ = yield from self.ask(np.repeat(points, votes, axis=0))
        lead, counts = 2 * other.reshape(-1, votes).sum(axis=1) - votes, np.full(len(points), votes)
        close = np.flatnonzero(np.abs(lead) == 1) if self.random else np.empty(0, int)
        more = self.most_votes - votes
        spare = self.labels - self.asked - RAY_HALVINGS * votes  # a first ray is paid for without
        if close.size and more * close.size <= spare:
            other, _ = yield from self.ask(np.repeat(points[close], more, axis=0))
            lead[close] += 2 * other.reshape(-1, more).sum(axis=1) - more
            counts[close] += more
        self.voted += int(counts.sum())
        self.outvoted += int((counts - np.abs(lead)).sum()) // 2
        return np.asarray(lead > 0)

    def crossed(self, near: Array, far: Array) -> Flow[bool]:
        """Whether a boundary lies between two points where labels are random, by many votes at each."""
        other, _ = yield from self.ask(np.repeat(np.stack([near, far]), CLOSE_VOTES, axis=0))
        inside, outside = other.reshape(2, CLOSE_VOTES).mean(axis=1)
        return bool(inside < 0.5 < outside)

    def halved(self, far: Sequence[Array], near: float | Array, halvings: int) -> Flow[list[Array]]:
        """On segments to points that are decided otherwise, the nearest such after so many halvings from a share on."""
        ends = np.stack(far)
        low, high = np.broadcast_to(near, len(ends)), np.ones(len(ends))
        for _ in range(halvings):
            middle = (low + high) / 2
            beyond = yield from self.vote(self.points.clipped(middle[:, None] * ends))
            low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
        return list(self.points.clipped(high[:, None] * ends))

    def confirmed(self) -> Flow[Counterexample | None]:
        """The nearest row decided otherwise that is so too when it is asked alone, one call a row; at most three."""
        for candidate in self.found[:KEPT]:
            answers = yield PlainRows(candidate.row[None])
            self.asked += 1
            if answers[0, 0] != self.decision:
                return Counterexample(candidate.row, candidate.distance, int(answers[0, 0]))
        return None

    def _labels(self, points: Array, dither: NDArray[np.floating[Any]] | None = None) -> Flow[tuple[Array, Array]]:
        """The labels of (m, d) points, and the points that were really asked."""
        rows, sent = self.points.rows(points, self._dither if dither is None else dither)
        answers = yield PlainRows(rows)
        self.asked += len(rows)
        labels = answers[:, 0]
        self._keep(rows, sent, labels, labels != self.decision)
        return labels, sent

    def _plane(self, before: float, after: float, count: int) -> float:
        """How far away the boundary's plane is, by a step from one distance to another with so many labels.

        With u the cosine of the step's direction and the normal's part across v, the half circle meets the plane at
        cos a = after / before, tan a = u tan(angle of v and the normal); u^2 is about m / (m + (pi / 2) k) for m labels of
        noise in k frequencies.
        """
        hit = count / (count + SIGN_LOSS * self.points.band_size(WALK_BAND))
        turned = (before / min(after, before)) ** 2 - 1.0
        return float(before * np.sqrt(hit / (hit + turned)))

    def _steps(self, live: Sequence[Array], count: int) -> Flow[list[Array]]:
        """One step of each of these boundary points, with so many labels each; their rows go out together."""
        points = np.stack(live)
        length = np.linalg.norm(points, axis=1)
        v = points / length[:, None]
        noise = self.points.band(self.rng, count * len(live), WALK_BAND)
        noise *= np.repeat(NOISE * length / np.sqrt(points.shape[1]), count)[:, None]
        dither = self.rng.random(noise.shape, dtype=np.float32) if self.points.space.quantised else None
        other, sent = yield from self.ask(np.repeat(points, count, axis=0) + noise, dither)
        tangent = np.zeros_like(points)
        for i, block in enumerate(np.split(np.arange(len(other)), len(live))):
            sign = np.where(other[block], 1.0, -1.0)
            if abs(sign.mean()) < 0.9:
                sign -= sign.mean()
            across = sign @ (sent[block] - points[i])
            across -= (across @ v[i]) * v[i]
            size = float(np.linalg.norm(across))
            tangent[i] = across / size if size > 0 else 0.0
        return list((yield from self.arcs(points, tangent, ARC_HALVINGS)))

    def _joined(self, live: list[Array], dropped: Sequence[Array], until: float = np.inf) -> Flow[list[Array]]:
        """Each walk's nearest point on the half circle towards the ends of walks that end here.

        Points of one plane at L and at M, at a right angle, have a common one at 1 / sqrt(1 / L^2 + 1 / M^2): what was
        spent on a walk is not lost with it. None is joined where so many labels would be passed.
        """
        for other in sorted(dropped, key=_length):
            if self.random or _length(other) > JOINS * min(_length(point) for point in live):
                continue
            if self.asked + ARC_HALVINGS * len(live) > until:
                break
            points = np.stack(live)
            v = points / np.linalg.norm(points, axis=1, keepdims=True)
            across = other - (v @ other)[:, None] * v
            size = np.linalg.norm(across, axis=1, keepdims=True)
            if (size > 0).all():
                live = list((yield from self.arcs(points, across / size, ARC_HALVINGS)))
        return live

    def arcs(self, points: Array, tangent: Array, halvings: int) -> Flow[Array]:
        """The nearest boundary points on half circles over the input and each of (m, d) points, leaving in a direction.

        Args:
            points: boundary points.
            tangent: (m, d) unit directions orthogonal to the points.
            halvings: of a quarter circle.
        """
        length = np.linalg.norm(points, axis=1)
        v = points / length[:, None]
        low, high, best = np.zeros(len(points)), np.full(len(points), np.pi / 2), points.copy()
        for _ in range(halvings):
            angle = (low + high) / 2
            along, turn = (np.cos(angle) * length)[:, None], np.sin(angle)[:, None]
            at = self.points.clipped(along * (v * np.cos(angle)[:, None] + tangent * turn))
            beyond = yield from self.vote(at)
            low, high = np.where(beyond, angle, low), np.where(beyond, high, angle)
            best[beyond] = at[beyond]
        return best

    def _race(self, first: Array, units: Array, others: Sequence[Array]) -> Flow[list[Array]]:
        """The nearest point met of each class: at ever shorter lengths on rays still beyond, then towards the others."""
        nearest: dict[int, Array] = {}

        def met(points: Array) -> Flow[NDArray[np.bool_]]:
            labels, _ = yield from self._labels(points)
            for point, label in zip(points, labels, strict=True):
                if label != self.decision and (label not in nearest or _length(point) < _length(nearest[label])):
                    nearest[int(label)] = point
            return np.asarray(labels != self.decision)

        yield from met(first[None])
        length, racing = _length(first), units
        for _ in range(MOST_ROUNDS):
            if self.asked + len(racing) > RACE_SHARE * self.labels:
                break
            points = self.points.clipped(length * racing)
            beyond = yield from met(points)
            if not beyond.any():
                break
            racing = racing[beyond]
            length *= SHORTER
        reach = REACH * min((_length(point) for point in nearest.values()), default=_length(first))
        if others and self._effort.rounds[0][0] > 1:
            yield from met(self.points.clipped(np.stack([min(1.0, reach / _length(one)) * one for one in others])))
        return list(nearest.values()) or [first]

    def _random_ray(self) -> Flow[Array | NoOtherLabel]:
        """The end of a random ray that is decided otherwise, at lengths up to the box, or to many times the input."""
        space = self.points.space
        width = np.minimum(self.points.upper, 4.0) - np.maximum(self.points.lower, -4.0) if space.bounded else 8.0
        size = max(float(np.linalg.norm(self.points.origin / self.points.scale)), 1.0)
        longest = float(np.linalg.norm(np.broadcast_to(width, self.points.origin.shape))) + size
        units = np.concatenate([self.points.band(self.rng, 1, BANDS[i % len(BANDS)]) for i in range(RANDOM_RAYS)])
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        for halvings in range(RAY_LENGTHS - 1, -1, -1):
            if self.asked + len(units) * self.votes > RANDOM_RAYS_SHARE * self.labels:
                return NoOtherLabel(
                    "no input of the audit has another label, and random rays took their share of the labels"
                )
            ends = self.points.clipped(longest * 2.0**-halvings * units)
            beyond = yield from self.vote(ends)
            if beyond.any():
                return np.asarray(ends[int(np.argmax(beyond))])
        return NoOtherLabel(
            f"no input of the audit has another label, and none of {RANDOM_RAYS} random rays up to a distance of "
            f"{longest:.3g} met one"
        )

    def _keep(self, rows: NDArray[Any], sent: Array, labels: Array, other: NDArray[np.bool_]) -> None:
        places = np.flatnonzero(other)
        if self.random or not places.size:
            return
        distances = np.linalg.norm(sent[places], axis=1)
        for place in np.argsort(distances, kind="stable")[:KEPT]:
            if len(self.found) < KEPT or distances[place] < self.found[-1].distance:
                row = rows[places[place]].copy()
                self.found.append(Counterexample(row, float(distances[place]), int(labels[places[place]])))
        self.found = sorted(self.found, key=lambda one: one.distance)[:KEPT]


def _length(point: Array) -> float:
    return float(np.linalg.norm(point))
