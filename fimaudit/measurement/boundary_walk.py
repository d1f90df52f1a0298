"""From labels alone along the decision boundary to a nearer point of it, not the nearest one.

Walks from points of several classes take first steps; those whose steps say that the boundary passes nearest go on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.tangent_plane import NEAR_FOOT
from fimaudit.measurement.label_effort import effort
from fimaudit.measurement.label_search import LabelSearch, length_of
from fimaudit.measurement.protocol import Flow

__all__ = ["joined", "walk_boundary"]

Array = NDArray[np.float64]

#: Share of spatial frequencies of the walk's noise, and its length in lengths of the boundary point.
BAND, NOISE = 0.5, 0.2
#: Halvings of a quarter circle.
ARC_HALVINGS = 7
#: A walk that is dropped is joined to those that go on up to so many times the shortest one's length.
JOINS = 1.5
#: Labels of so many signs turn noise into a direction as one number without sign would (1 / E|z|^2).
SIGN_LOSS = np.pi / 2
#: Share of the labels that start and walk take near the foot of the plane.
FOOT_SHARE = 0.75


def walk_boundary(search: LabelSearch, starts: Sequence[Array]) -> Flow[Array]:
    """Steps along the boundary, each to the nearest point of a half circle, until their share of the labels is asked.

    All starts take the first step, fewer the next: those where the plane of the steps so far passes nearest. Near the
    foot of the plane few labels tell its distance, and the boundary's bend is what errs: there the walk goes on.

    Args:
        search: the search at an input.
        starts: (d,) boundary points.
    """
    until, near_foot = int(effort(search.labels).share * search.labels), int(FOOT_SHARE * search.labels)
    live = list(starts)
    if len(live[0]) < 2:
        return min(live, key=length_of)
    planes: list[float] = []
    rounds = [(min(kept, len(live)), share) for kept, share in effort(search.labels).rounds]
    count = 4
    for number, (kept, share) in enumerate(rounds):
        best = np.argsort(planes, kind="stable") if planes else np.arange(len(live))
        before = [planes[i] for i in best[:kept]] if planes else []
        live = yield from joined(search, [live[i] for i in best[:kept]], [live[i] for i in best[kept:]], until)
        if search.asked + len(live) * (4 + ARC_HALVINGS * search.votes) > near_foot:
            return live[0] if planes else min(live, key=length_of)
        spare = until - search.asked - ARC_HALVINGS * search.votes * sum(walks for walks, _ in rounds[number:])
        count = max(4, int(spare * share / sum(walks * each for walks, each in rounds[number:])))
        after = yield from _steps(search, live, count)
        seen = [_plane(search, length_of(a), length_of(b), count) for a, b in zip(live, after, strict=True)]
        planes = [float(np.sqrt(a * b)) for a, b in zip(seen, before, strict=True)] if before else seen
        live = after
    best = np.argsort(planes, kind="stable")
    planes = [planes[best[0]]]
    live = yield from joined(search, [live[best[0]]], [live[i] for i in best[1:]], near_foot)
    step = count + ARC_HALVINGS * search.votes
    while planes[0] >= NEAR_FOOT * length_of(live[0]) and search.asked + step <= near_foot:
        before, live = [length_of(live[0])], (yield from _steps(search, live[:1], count))
        planes = [_plane(search, before[0], length_of(live[0]), count)]
    return live[0]


def _plane(search: LabelSearch, before: float, after: float, count: int) -> float:
    """How far away the boundary's plane is, by a step from one distance to another with so many labels.

    With u the cosine of the step's direction and the normal's part across v, the half circle meets the plane at
    cos a = after / before, tan a = u tan(angle of v and the normal); u^2 is about m / (m + (pi / 2) k) for m labels of
    noise in k frequencies.
    """
    hit = count / (count + SIGN_LOSS * search.points.band_size(BAND))
    turned = (before / min(after, before)) ** 2 - 1.0
    return float(before * np.sqrt(hit / (hit + turned)))


def _steps(search: LabelSearch, live: Sequence[Array], count: int) -> Flow[list[Array]]:
    """One step of each of these boundary points, with so many labels each; their rows go out together."""
    points = np.stack(live)
    length = np.linalg.norm(points, axis=1)
    v = points / length[:, None]
    noise = search.points.band(search.rng, count * len(live), BAND)
    noise *= np.repeat(NOISE * length / np.sqrt(points.shape[1]), count)[:, None]
    dither = search.rng.random(noise.shape, dtype=np.float32) if search.points.space.quantised else None
    other, sent = yield from search.ask(np.repeat(points, count, axis=0) + noise, dither)
    tangent = np.zeros_like(points)
    for i, block in enumerate(np.split(np.arange(len(other)), len(live))):
        sign = np.where(other[block], 1.0, -1.0)
        if abs(sign.mean()) < 0.9:
            sign -= sign.mean()
        across = sign @ (sent[block] - points[i])
        across -= (across @ v[i]) * v[i]
        size = float(np.linalg.norm(across))
        tangent[i] = across / size if size > 0 else 0.0
    return list((yield from search.arcs(points, tangent, ARC_HALVINGS)))


def joined(search: LabelSearch, live: list[Array], dropped: Sequence[Array], until: float = np.inf) -> Flow[list[Array]]:
    """Each walk's nearest point on the half circle towards the ends of walks that end here.

    Points of one plane at L and at M, at a right angle, have a common one at 1 / sqrt(1 / L^2 + 1 / M^2): what was
    spent on a walk is not lost with it. None is joined where so many labels would be passed.
    """
    for other in sorted(dropped, key=length_of):
        if search.random or length_of(other) > JOINS * min(length_of(point) for point in live):
            continue
        if search.asked + ARC_HALVINGS * len(live) > until:
            break
        points = np.stack(live)
        v = points / np.linalg.norm(points, axis=1, keepdims=True)
        across = other - (v @ other)[:, None] * v
        size = np.linalg.norm(across, axis=1, keepdims=True)
        if (size > 0).all():
            live = list((yield from search.arcs(points, across / size, ARC_HALVINGS)))
    return live
