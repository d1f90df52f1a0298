"""One input's margin radius from labels alone: a walk to the decision boundary, and the plane that touches it there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from fimaudit.estimation.tangent_plane import PlaneRadius, curvature, plane_radius
from fimaudit.measurement.boundary_walk import BASE_VOTES, BoundaryWalk, Counterexample, NoOtherLabel
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
#: Share of the labels that start and walk take, and near the foot of the plane; the rest goes to the plane.
WALK_SHARE, FOOT_SHARE = 0.6, 0.75
#: Rows at the end: the nearest counterexamples alone.
LAST_ROWS = 3
#: Other inputs that a start may look at.
MOST_OTHERS = 12
#: Random labels are taken for no worse than this.
MOST_LAPSE = 0.4
#: Stream of the random numbers.
LABEL_STREAM = 7
#: With this many features or fewer, the boundary on a ray is the whole answer, found by so many halvings.
LINE, LINE_HALVINGS = 1, 12


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
    points = RayPoints(x, space)
    repeats = BASE_VOTES if known.random else 1
    base = yield PlainRows(np.repeat(x.astype(space.dtype)[None], repeats, axis=0))
    labels, votes = np.unique(base[:, 0], return_counts=True)
    decision, lapse = int(labels[votes.argmax()]), min(MOST_LAPSE, 1.0 - float(votes.max()) / repeats)
    rng = generator(settings.seed, index, LABEL_STREAM)
    walk = BoundaryWalk(points, decision, rng, settings.queries, known.random, lapse, 1 + repeats)
    starts = yield from walk.start(known.others(x, decision, space))
    if isinstance(starts, NoOtherLabel):
        return _result(index, walk, "no_rival_visible", reason=starts.reason)
    radius = yield from _radius(walk, starts, settings)
    witness = yield from walk.confirmed()
    return _measured(index, walk, radius, witness)


def _radius(walk: BoundaryWalk, starts: list[Array], settings: Settings) -> Flow[PlaneRadius | None]:
    """The radius and its limits from first boundary points; ``None`` where the walk left no labels for a plane."""
    deviations = float(ndtri(0.5 + settings.confidence / 2))
    if len(starts[0]) <= LINE:
        nearest = min(starts, key=lambda b: float(np.linalg.norm(b)))
        far, at = (float(np.linalg.norm(b)) for b in (nearest, *(yield from walk.halved([nearest], 0.0, LINE_HALVINGS))))
        return PlaneRadius(at, at - 2.0**-LINE_HALVINGS * far, at)
    b = yield from walk.walk(starts, int(WALK_SHARE * settings.queries), int(FOOT_SHARE * settings.queries))

    def found(plane: PlaneAnswers) -> PlaneRadius:
        fit = plane.fit()
        length = plane.length + plane.intercept(fit)
        nearest = walk.found[0].distance if walk.found else float("inf")
        in_box, labels = plane.in_box(walk, fit.cosine), settings.queries // walk.votes
        return plane_radius(fit, length, nearest, deviations, in_box=in_box, bend=curvature(labels))

    precision = settings.precision
    enough = None if precision is None else lambda plane: found(plane).half_width <= precision
    plane = yield from measure_plane(walk, b, max(0, settings.queries - walk.asked - LAST_ROWS), enough)
    return found(plane) if plane.t else None


def _measured(index: int, walk: BoundaryWalk, radius: PlaneRadius | None, witness: Counterexample | None) -> Sensitivity:
    flags, reasons = [], []
    upper, kept = float("inf") if radius is None else radius.upper, None
    if walk.random:
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
    if radius is None:
        reasons.append("the way to the decision boundary took all labels; raise --queries")
        limits = Interval(upper=upper if np.isfinite(upper) else None)
        return _result(index, walk, "below_detection", limits, kept, flags, "; ".join(reasons))
    interval = Interval(
        value=min(radius.value, upper), lower=min(radius.lower, upper), upper=upper if np.isfinite(upper) else None
    )
    return _result(index, walk, "ok", interval, kept, flags, "; ".join(reasons) or None)


def _result(
    index: int,
    walk: BoundaryWalk,
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
        predicted_class=walk.decision,
        queries=walk.asked,
        margin_radius=radius or Interval(),
        witness=witness,
        flags=list(flags),
        reason=LABELS_ONLY if reason is None else f"{LABELS_ONLY}; {reason}",
    )
