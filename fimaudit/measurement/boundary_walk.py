"""From labels alone to a point of the decision boundary, not the nearest one: rays first, then steps along the boundary.

Points are displacements of one input (``RayPoints``). Every row that is decided otherwise is a real counterexample; the
nearest one is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.measurement.protocol import Flow
from fimaudit.perturbations.ray_points import RayPoints
from fimaudit.perturbations.rows import PlainRows

__all__ = ["BASE_VOTES", "BoundaryWalk", "Counterexample", "NoOtherLabel"]

Array = NDArray[np.float64]

#: Rays to inputs with another label, random rays, and steps of the walk, by labels at least: few labels find no time.
EFFORT = ((800, 12, 16, 4), (400, 12, 16, 3), (0, 6, 8, 2))
#: Share of spatial frequencies of random rays in turn, and of the walk's noise.
BANDS, WALK_BAND = (0.1, 0.25, 0.5, 1.0), 0.5
#: Length of the walk's noise in lengths of the boundary point, and halvings of a quarter circle or of a ray.
NOISE, ARC_HALVINGS, RAY_HALVINGS, FINE_HALVINGS = 0.1, 9, 8, 8
#: A ray that is decided otherwise this much nearer beats the best one.
SHORTER = 0.8
#: Without an input of another label: random rays, at so many lengths, each twice the one before.
RANDOM_RAYS, RAY_LENGTHS = 8, 8
#: Random labels are asked so often, and the majority counts; the input itself so often, which shows how random they are.
VOTES, BASE_VOTES = 5, 25
#: A race over many rays ends after so many rounds.
MOST_ROUNDS = 60
#: Nearest counterexamples that are kept to be asked once more alone.
KEPT = 3


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
        lapse: share of labels that are wrong at random.
        found: the nearest rows decided otherwise, the nearest first.
        lengths: distance of the boundary point after each step.
    """

    points: RayPoints
    decision: int
    rng: np.random.Generator
    labels: int
    random: bool = False
    lapse: float = 0.0
    asked: int = 0
    found: list[Counterexample] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._dither = self.rng.random(len(self.points.origin), dtype=np.float32)

    def ask(self, points: Array, dither: NDArray[np.floating[Any]] | None = None) -> Flow[tuple[NDArray[np.bool_], Array]]:
        """Whether each of (m, d) points is decided otherwise, and the points that were really asked."""
        rows, sent = self.points.rows(points, self._dither if dither is None else dither)
        answers = yield PlainRows(rows)
        self.asked += len(rows)
        other = answers[:, 0] != self.decision
        self._keep(rows, sent, answers[:, 0], other)
        return other, sent

    def start(self, others: Sequence[NDArray[Any]]) -> Flow[Array | NoOtherLabel]:
        """A boundary point on a short ray: towards inputs with another label, or at random.

        Args:
            others: inputs with another label, nearest first.
        """
        rays, randoms, _ = self._effort
        there = [self.points.towards(other) for other in others[:rays]]
        if self.points.space.frozen.any() and there:  # with these features held, they may be decided alike
            beyond = yield from self.vote(np.stack(there))
            there = [point for point, other in zip(there, beyond, strict=True) if other]
        if there:
            best, others_left = there[0], there[1:]
        else:
            found = yield from self._random_ray()
            if isinstance(found, NoOtherLabel):
                return found
            best, others_left = found, []
        best = yield from self._halved(best, 0.0, RAY_HALVINGS)
        units = [other / np.linalg.norm(other) for other in others_left]
        for i in range(randoms):
            ray = self.points.band(self.rng, 1, BANDS[i % len(BANDS)])[0]
            units.append(ray / np.linalg.norm(ray))
        if not self.random:  # among many rays some would be believed by chance
            best = yield from self._race(best, np.array(units))
        self.lengths.append(float(np.linalg.norm(best)))
        return best

    def walk(self, b: Array, until: int) -> Flow[Array]:
        """Steps along the boundary, each to the nearest point of a half circle, until so many labels are asked."""
        steps = self._effort[2]
        spare = until - self.asked - ARC_HALVINGS * self._votes * steps
        if len(b) < 2:
            return b
        for step in range(steps):
            share = max(4, int(spare * (step + 1) * 2 / (steps * (steps + 1))))
            b = yield from self._step(b, share)
            self.lengths.append(float(np.linalg.norm(b)))
        return b

    def vote(self, points: Array) -> Flow[NDArray[np.bool_]]:
        """Whether each point is decided otherwise, by majority where labels are random."""
        votes = self._votes
        other, _ = yield from self.ask(np.repeat(points, votes, axis=0))
        return np.asarray(other.reshape(-1, votes).mean(axis=1) > 0.5)

    def confirmed(self) -> Flow[Counterexample | None]:
        """The nearest row decided otherwise that is so too when it is asked alone, one call a row; at most three."""
        for candidate in self.found[:KEPT]:
            answers = yield PlainRows(candidate.row[None])
            self.asked += 1
            if answers[0, 0] != self.decision:
                return Counterexample(candidate.row, candidate.distance, int(answers[0, 0]))
        return None

    @property
    def _votes(self) -> int:
        return VOTES if self.random else 1

    @property
    def _effort(self) -> tuple[int, int, int]:
        return next(rest for least, *rest in EFFORT if self.labels >= least)  # type: ignore[return-value]

    def _step(self, b: Array, count: int) -> Flow[Array]:
        length = float(np.linalg.norm(b))
        v = b / length
        noise = self.points.band(self.rng, count, WALK_BAND) * (NOISE * length / np.sqrt(len(b)))
        dither = self.rng.random(noise.shape, dtype=np.float32) if self.points.space.quantised else None
        other, sent = yield from self.ask(b + noise, dither)
        sign = np.where(other, 1.0, -1.0)
        if abs(sign.mean()) < 0.9:
            sign -= sign.mean()
        tangent = sign @ (sent - b)
        tangent -= (tangent @ v) * v
        size = float(np.linalg.norm(tangent))
        if not size > 0:
            return b
        tangent /= size
        low, high, best = 0.0, np.pi / 2, b
        for _ in range(ARC_HALVINGS):
            angle = (low + high) / 2
            at = self.points.clipped(length * np.cos(angle) * (v * np.cos(angle) + tangent * np.sin(angle)))
            if (yield from self.vote(at[None]))[0]:
                low, best = angle, at
            else:
                high = angle
        return best

    def _halved(self, far: Array, near: float, halvings: int) -> Flow[Array]:
        """On the segment to a point that is decided otherwise, the nearest such after so many halvings from a share on."""
        low, high = near, 1.0
        for _ in range(halvings):
            middle = (low + high) / 2
            if (yield from self.vote(self.points.clipped(middle * far)[None]))[0]:
                high = middle
            else:
                low = middle
        return self.points.clipped(high * far)

    def _race(self, best: Array, units: Array) -> Flow[Array]:
        """The shortest of the best point and rays along these units: at ever shorter lengths, with those still beyond."""
        length, racing = float(np.linalg.norm(best)), units
        leader, failed = best, False
        for _ in range(MOST_ROUNDS):
            beyond = yield from self.vote(self.points.clipped(length * racing))
            if not beyond.any():
                break
            racing, failed = racing[beyond], True
            leader = self.points.clipped(length * racing[0])
            length *= SHORTER
        if not failed:
            return (yield from self._halved(best, 1 - 2.0**-RAY_HALVINGS, FINE_HALVINGS // 2))
        finalists = [self.points.clipped(length / SHORTER * unit) for unit in racing[:KEPT]]
        for finalist in finalists:
            short = yield from self._halved(finalist, SHORTER, 3)
            if np.linalg.norm(short) < np.linalg.norm(leader):
                leader = short
        return (yield from self._halved(leader, SHORTER, FINE_HALVINGS))

    def _random_ray(self) -> Flow[Array | NoOtherLabel]:
        """The end of a random ray that is decided otherwise, at lengths up to the box, or to many times the input."""
        space = self.points.space
        width = np.minimum(self.points.upper, 4.0) - np.maximum(self.points.lower, -4.0) if space.bounded else 8.0
        size = max(float(np.linalg.norm(self.points.origin / self.points.scale)), 1.0)
        longest = float(np.linalg.norm(np.broadcast_to(width, self.points.origin.shape))) + size
        units = np.concatenate([self.points.band(self.rng, 1, BANDS[i % len(BANDS)]) for i in range(RANDOM_RAYS)])
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        for halvings in range(RAY_LENGTHS - 1, -1, -1):
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
