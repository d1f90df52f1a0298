"""What labels alone say of points around one input: asked, counted, by majority where labels are random.

Points are displacements of the input (``RayPoints``). Every row that is decided otherwise is a real counterexample; the
nearest ones are kept.
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

__all__ = [
    "ASKED_AGAIN",
    "BASE_VOTES",
    "CLOSE_VOTES",
    "ITSELF",
    "RAY_HALVINGS",
    "Counterexample",
    "LabelSearch",
    "length_of",
]

Array = NDArray[np.float64]

#: Random labels are asked so often, and the majority counts; the input itself so often, which shows how random they are.
VOTES, BASE_VOTES = 5, 25
#: A majority of one vote is wrong too often for a search that never comes back to it: so many votes decide then.
CLOSE_VOTES = 15
#: Boundary points are asked again so often in all, and half of that where labels are few: they may be random there, though
#: none is at the inputs. Where they are, as many points as not are decided otherwise than before.
ASKED_AGAIN, FEW_LABELS = 8, 400
#: And the input itself, whose label may have been the wrong one.
ITSELF = 2
#: Votes on either side of a boundary are divided by so much more than at the input, at most: with one label in ten flipped
#: both shares are a tenth, and are seen with errors of 0.06.
MORE_DIVIDED = 0.15
#: Halvings of a ray; a majority that is asked once more leaves the labels for those of a first one.
RAY_HALVINGS = 8
#: Nearest counterexamples that are kept to be asked once more alone.
KEPT = 3


@dataclass(frozen=True)
class Counterexample:
    """A row that was decided otherwise: its distance in units of the scale, and its label."""

    row: NDArray[Any]
    distance: float
    label: int


@dataclass
class LabelSearch:
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
        self.at_input = self.lapse  # before any other row is voted on
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
        labels, sent = yield from self.answered(points, dither)
        return labels != self.decision, sent

    def answered(self, points: Array, dither: NDArray[np.floating[Any]] | None = None) -> Flow[tuple[Array, Array]]:
        """The labels of (m, d) points, and the points that were really asked."""
        rows, sent = self.points.rows(points, self._dither if dither is None else dither)
        answers = yield PlainRows(rows)
        self.asked += len(rows)
        labels = answers[:, 0]
        self._keep(rows, sent, labels, labels != self.decision)
        return labels, sent

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

    def fickle(self, points: Sequence[Array]) -> Flow[bool]:
        """Whether labels are random: a boundary point that was decided otherwise is not now, or the input itself is."""
        times = ASKED_AGAIN if self.labels >= FEW_LABELS else ASKED_AGAIN // 2
        again = np.repeat(np.stack(points), -(-times // len(points)), axis=0)
        other, _ = yield from self.ask(np.concatenate([again, np.zeros((ITSELF, again.shape[1]))]))
        return not bool(other[:-ITSELF].all()) or bool(other[-ITSELF:].any())

    def crossed(self, near: Array, far: Array) -> Flow[bool]:
        """Whether a boundary lies between two points where labels are random, by many votes at each.

        They are hardly more divided there than at the input: where they are, how labels fall says less than the distance.
        """
        other, _ = yield from self.ask(np.repeat(np.stack([near, far]), CLOSE_VOTES, axis=0))
        inside, outside = other.reshape(2, CLOSE_VOTES).mean(axis=1)
        return bool(inside < 0.5 < outside and (inside + 1 - outside) / 2 <= self.at_input + MORE_DIVIDED)

    def halved(self, far: Sequence[Array], near: float | Array, halvings: int) -> Flow[list[Array]]:
        """On segments to points that are decided otherwise, the nearest such after so many halvings from a share on."""
        ends = np.stack(far)
        low, high = np.broadcast_to(near, len(ends)), np.ones(len(ends))
        for _ in range(halvings):
            middle = (low + high) / 2
            beyond = yield from self.vote(self.points.clipped(middle[:, None] * ends))
            low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
        return list(self.points.clipped(high[:, None] * ends))

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

    def confirmed(self) -> Flow[Counterexample | None]:
        """The nearest row decided otherwise that is so too when it is asked alone, one call a row; at most three."""
        for candidate in self.found[:KEPT]:
            answers = yield PlainRows(candidate.row[None])
            self.asked += 1
            if answers[0, 0] != self.decision:
                return Counterexample(candidate.row, candidate.distance, int(answers[0, 0]))
        return None

    def _keep(self, rows: NDArray[Any], sent: Array, labels: Array, other: NDArray[np.bool_]) -> None:
        places = np.flatnonzero(other & sent.any(axis=1))  # the input itself is no counterexample to itself
        if self.random or not places.size:
            return
        distances = np.linalg.norm(sent[places], axis=1)
        for place in np.argsort(distances, kind="stable")[:KEPT]:
            if len(self.found) < KEPT or distances[place] < self.found[-1].distance:
                row = rows[places[place]].copy()
                self.found.append(Counterexample(row, float(distances[place]), int(labels[places[place]])))
        self.found = sorted(self.found, key=lambda one: one.distance)[:KEPT]


def length_of(point: Array) -> float:
    """The l2 length of a displacement, in units of the scale."""
    return float(np.linalg.norm(point))
