"""One input's margin radius from labels alone: a walk to the decision boundary, and the plane that touches it there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from fimaudit.estimation.spectral_norm import Limits
from fimaudit.estimation.tangent_plane import ProbitSlope, curvature, plane_radius
from fimaudit.measurement.boundary_starts import NoOtherLabel, find_starts
from fimaudit.measurement.boundary_walk import walk_boundary
from fimaudit.measurement.label_search import (
    ASKED_AGAIN,
    BASE_VOTES,
    CLOSE_VOTES,
    ITSELF,
    Counterexample,
    LabelSearch,
)
from fimaudit.measurement.protocol import Flow, MeasurementFlow
from fimaudit.measurement.settings import Settings
from fimaudit.measurement.tangent_radius import PlaneAnswers, measure_plane
from fimaudit.perturbations.random_signs import generator
from fimaudit.perturbations.ray_points import RayPoints
from fimaudit.perturbations.rows import PlainRows
from fimaudit.results import Interval, Sensitivity, Status, Witness
from fimaudit.space import Space

__all__ = ["FEWEST_LABELS", "LABELS_ONLY", "KnownLabels", "measure_labels"]

Array = NDArray[np.float64]

#: Why numbers that need probabilities are missing.
LABELS_ONLY = "labels only: spectral norm, peak and trace need probabilities"
#: Labels an input takes at least.
FEWEST_LABELS = 100
#: Rows at the end: the nearest counterexamples alone; where labels are random, votes on both sides of the last point.
LAST_ROWS, LAST_VOTES = 3, 2 * CLOSE_VOTES
#: Other inputs that a start may look at.
MOST_OTHERS = 12
#: More wrong labels than this are refused, of the input itself or of all votes: majorities would be wrong too often.
FIRST_LAPSE, MOST_LAPSE = 0.25, 0.15
#: A slope that is fewer of its standard errors is no slope. Where labels are random, votes are asked this much nearer and
#: farther than a boundary point.
CLEAR_SLOPE, EITHER_SIDE = 3.0, 0.1
#: Labels that a search by votes is begun anew with at least.
FOR_VOTES = 400
#: Where the nearest counterexample that holds is this many times as far as one that does not, it is not the last digits of a
#: row on the boundary that decide.
FARTHER = 1.001
#: Labels that a plane would give with a smaller chance are no plane's: on a real network the smallest of 80 was 0.006.
MISFIT = 1e-6
#: Stream of the random numbers.
LABEL_STREAM = 7
#: With this many features or fewer, the boundary on a ray is the whole answer, found by so many halvings of the first of so
#: many steps either way that is decided otherwise.
LINE, LINE_HALVINGS, LINE_STEPS = 1, 12, 8


@dataclass(frozen=True)
class KnownLabels:
    """Labels of the audit's own inputs, asked once before all else: from which inputs rays start.

    Attributes:
        x: (m, \\*shape) inputs, all or some of the audit's.
        labels: (m,) their classes.
        random: whether the same row was answered differently when it was asked again.
    """

    x: NDArray[Any]
    labels: NDArray[np.float64]
    random: bool = False

    def others(self, x: NDArray[Any], decision: int, space: Space) -> list[NDArray[Any]]:
        """Inputs with another label, the nearest of each label first, over the features that may change."""
        places = np.flatnonzero(self.labels != decision)
        free = ~space.frozen.ravel()
        scale = space.scale.ravel()[free]
        start = x.ravel()[free].astype(np.float64)
        far = [float(np.linalg.norm((self.x[i].ravel()[free].astype(np.float64) - start) / scale)) for i in places]
        order = [i for i in np.argsort(far, kind="stable") if far[i] > 0]
        before: Counter[float] = Counter()
        turn = {}
        for i in order:
            turn[i] = before[self.labels[places[i]]]
            before[self.labels[places[i]]] += 1
        return [self.x[places[i]] for i in sorted(order, key=lambda i: turn[i])[:MOST_OTHERS]]


def measure_labels(x: NDArray[Any], index: int, space: Space, settings: Settings, known: KnownLabels) -> MeasurementFlow:
    """Measure one input from its labels.

    Args:
        x: the input, within the domain.
        index: its position in the data: random numbers depend on it and the seed alone.
        space: the domain.
        settings: what the user chose; ``queries`` labels at most.
        known: labels of other inputs.

    Returns:
        the finished ``Sensitivity``: ``margin_radius`` and ``witness``, all else empty.
    """
    points, rng = RayPoints(x, space), generator(settings.seed, index, LABEL_STREAM)
    search = yield from _begun(points, rng, settings.queries, known.random, 1)
    if search.lapse > FIRST_LAPSE:
        return _result(index, search, "below_detection", flags=["noisy_labels"], reason=_too_random(search).reason)
    starts = yield from find_starts(search, known.others(x, search.decision, space))
    # With fewer labels there is no other search, and where the walk ends they are asked again anyway.
    votes_left = settings.queries - search.asked - ASKED_AGAIN - ITSELF >= FOR_VOTES
    if votes_left and not isinstance(starts, NoOtherLabel) and not search.random and (yield from search.fickle(starts)):
        search = yield from _begun(points, rng, settings.queries, True, search.asked)
        starts = yield from find_starts(search, known.others(x, search.decision, space))
    if isinstance(starts, NoOtherLabel):
        return _result(index, search, "no_rival_visible", reason=starts.reason)
    radius = yield from _radius(search, starts, settings)
    if radius is RANDOM_THERE:
        return _measured(index, search, radius, None)
    if isinstance(radius, Unconfirmed) and search.random:
        return _result(index, search, "below_detection", flags=["noisy_labels"], reason=radius.reason)
    witness = yield from search.confirmed()
    if search.found and (witness is None or witness.distance > FARTHER * search.found[0].distance):
        radius = NOT_REPEATED  # its distance is in the limits, and the search may have followed it
    return _measured(index, search, radius, witness)


def _begun(points: RayPoints, rng: np.random.Generator, labels: int, random: bool, asked: int) -> Flow[LabelSearch]:
    """A search at an input with its own label, by a vote where labels are random; so many were asked before."""
    repeats = BASE_VOTES if random else 1
    base = yield PlainRows(np.repeat(points.x.astype(points.space.dtype)[None], repeats, axis=0))
    found, votes = np.unique(base[:, 0], return_counts=True)
    decision, wrong = int(found[votes.argmax()]), repeats - int(votes.max())
    return LabelSearch(points, decision, rng, labels, random, asked + repeats, repeats, wrong)


@dataclass(frozen=True)
class Unconfirmed:
    """That random labels do not bear the radius out.

    Attributes:
        reason: a clause for people.
    """

    reason: str


NOT_CROSSED = Unconfirmed("the labels are random, and more of them do not confirm the boundary that the search ended at")
NO_SLOPE = Unconfirmed("the labels are random, and around the boundary they do not say how it lies")
RANDOM_THERE = Unconfirmed(
    "the boundary point that the search ended at is decided otherwise when it is asked again: labels are random around the "
    "boundary, and how they fall there says less than the distance"
)
NOT_REPEATED = Unconfirmed(
    "the nearest row with another label does not have it when it is asked alone: labels may be random around the boundary"
)
NO_PLANE = Unconfirmed(
    "around the boundary point that the search ended at, labels do not fall as they do around a plane: the region of the "
    "other class may be thin or small there, or have a corner"
)


def _too_random(search: LabelSearch) -> Unconfirmed:
    return Unconfirmed(
        f"the labels are too random for a radius: {search.outvoted} of {search.voted} differ from most others of the same "
        f"row, and it takes {MOST_LAPSE:.0%} or less"
    )


def _radius(search: LabelSearch, starts: list[Array], settings: Settings) -> Flow[Limits | Unconfirmed | None]:
    """The radius and its limits from first boundary points; ``None`` where the walk left no labels for a plane."""
    deviations = float(ndtri(0.5 + settings.confidence / 2))
    if len(starts[0]) <= LINE:
        return (yield from _line(search, min(starts, key=lambda b: float(np.linalg.norm(b)))))
    b = yield from walk_boundary(search, starts)
    if search.lapse > MOST_LAPSE:
        return _too_random(search)
    if not search.random and (yield from search.fickle([b])):
        return RANDOM_THERE

    def clear(fit: ProbitSlope) -> bool:
        return fit.slope >= CLEAR_SLOPE * fit.error

    def found(plane: PlaneAnswers) -> Limits:
        fit = plane.fit()
        length = plane.length + plane.intercept(fit)
        nearest = search.found[0].distance if search.found else float("inf")
        in_box, labels = plane.in_box(search, fit.cosine), settings.queries // search.votes
        return plane_radius(fit, length, nearest, deviations, in_box=in_box, bend=curvature(labels))

    precision = settings.precision
    enough = (
        None if precision is None else lambda plane: clear(plane.fit()) and found(plane).relative_half_width <= precision
    )
    last = LAST_VOTES if search.random else LAST_ROWS
    plane = yield from measure_plane(search, b, max(0, settings.queries - search.asked - last), enough)
    if not plane.t:
        return None
    fit = plane.fit()
    if not clear(fit):
        return NO_SLOPE if search.random else NO_PLANE
    if search.random:
        end = plane.last.b
        near, far = (search.points.clipped(share * end) for share in (1 - EITHER_SIDE, 1 + EITHER_SIDE))
        if not (yield from search.crossed(near, far)):
            return NOT_CROSSED
    elif plane.misfit() < MISFIT:
        return NO_PLANE
    return found(plane)


def _line(search: LabelSearch, start: Array) -> Flow[Limits | Unconfirmed | None]:
    """The radius where one feature may change: the nearest boundary either way, within a point that is decided otherwise.

    Sides of values that the feature takes are all that labels say: the limits lie a level apart or more. Random labels say
    on which side a boundary lies by many votes, ``EITHER_SIDE`` apart.
    """
    points = search.points
    rows = 2 * (LINE_STEPS + LINE_HALVINGS)
    last = LAST_VOTES if search.random else LAST_ROWS + ASKED_AGAIN + ITSELF
    if search.asked + rows * search.votes + last > search.labels:
        return None
    share = np.arange(1, LINE_STEPS + 1) / LINE_STEPS
    ends = np.concatenate([share[:, None] * points.clipped(way * start) for way in (1.0, -1.0)])
    beyond = (yield from search.vote(ends)).reshape(2, LINE_STEPS)
    sides = np.flatnonzero(beyond.any(axis=1))
    if not sides.size:
        return NOT_CROSSED if search.random else None
    steps = beyond.argmax(axis=1)[sides]
    far = ends[sides * LINE_STEPS + steps]
    found = yield from search.halved(list(far), steps / (steps + 1), LINE_HALVINGS)
    end, step = min(zip(found, np.abs(far[:, 0]) / (steps + 1), strict=True), key=lambda one: float(np.linalg.norm(one[0])))
    at = float(np.linalg.norm(end))
    apart = float(step) * 2.0**-LINE_HALVINGS + float(points.levels.max())
    if search.lapse > MOST_LAPSE:
        return _too_random(search)
    if search.random:
        if search.asked + LAST_VOTES > search.labels:
            return None
        apart = max(apart, EITHER_SIDE * at)
        near, beyond_it = (points.clipped((1 + way * apart / max(at, 1e-300)) * end) for way in (-1.0, 1.0))
        if not (yield from search.crossed(near, beyond_it)):
            return NOT_CROSSED
        return Limits(at, max(0.0, at - apart), at + apart)
    if (yield from search.fickle([end])):
        return RANDOM_THERE
    return Limits(at, max(0.0, at - apart), at + float(points.levels.max()))


def _measured(
    index: int, search: LabelSearch, radius: Limits | Unconfirmed | None, witness: Counterexample | None
) -> Sensitivity:
    flags, reasons = [], []
    upper, kept = radius.upper if isinstance(radius, Limits) else float("inf"), None
    if search.random or radius is RANDOM_THERE:
        reasons.append("the labels are random, so no single row is a counterexample")
        flags.append("noisy_labels")
    elif witness is None:
        upper = float("inf")
        reasons.append("the nearest rows with another label do not have it when they are asked alone")
        flags.append("unrepeatable")
    else:
        upper = min(upper, witness.distance)
        kept = Witness(distance=witness.distance, predicted_class=witness.label)
        kept.keep(witness.row)
    if not isinstance(radius, Limits):
        took = "the way to the decision boundary took all labels; raise --queries"
        reasons.append(took if radius is None else radius.reason)
        limits = Interval(upper=upper if np.isfinite(upper) else None)
        return _result(index, search, "below_detection", limits, kept, flags, "; ".join(reasons))
    interval = Interval(
        value=min(radius.value, upper), lower=min(radius.lower, upper), upper=upper if np.isfinite(upper) else None
    )
    return _result(index, search, "ok", interval, kept, flags, "; ".join(reasons) or None)


def _result(
    index: int,
    search: LabelSearch,
    status: Status,
    radius: Interval | None = None,
    witness: Witness | None = None,
    flags: Sequence[str] = (),
    reason: str | None = None,
) -> Sensitivity:
    return Sensitivity(
        index=index,
        status=status,
        method="labels",
        predicted_class=search.decision,
        queries=search.asked,
        margin_radius=radius or Interval(),
        witness=witness,
        flags=list(flags),
        reason=LABELS_ONLY if reason is None else f"{LABELS_ONLY}; {reason}",
    )
