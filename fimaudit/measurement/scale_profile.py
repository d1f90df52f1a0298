"""Beyond the local: the margin radius and the share of flipped answers at displacements up to the size of the domain.

A saturated or gradient-masked model looks calm at the input and is not at a distance. The profile repeats the radius over
longer displacements of the same directions: where it falls below three quarters of the local one, the local one overstates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fimaudit.estimation.grouping import positions_by_kind, stacked
from fimaudit.estimation.margin import first_order_radii
from fimaudit.estimation.noise import VisibleClasses, tables_of_each
from fimaudit.estimation.predictable import TINY
from fimaudit.estimation.secants import log_probabilities, visible_classes
from fimaudit.measurement.context import DisplacedContext
from fimaudit.measurement.design import MainAnswers
from fimaudit.measurement.energy import (
    PROFILE,
    Answered,
    Displacements,
    Rungs,
    Signs,
    displaced_rungs_each,
    draw_signs,
)
from fimaudit.measurement.protocol import BatchedStep, Flow
from fimaudit.measurement.query_split import OWN_RUNGS, PROFILE_RUNGS, WALK_ROWS, own_rungs
from fimaudit.measurement.random_designs import RandomDesign
from fimaudit.perturbations.rows import RowRange
from fimaudit.results import ScaleRung

__all__ = ["OVERSTATES", "Profile", "flips_upper", "measure_profile", "overstatement"]

Array = NDArray[np.float64]

#: The profile ends where more than this share of the answers flip: the secants then say little of the decision.
MOST_FLIPS = 0.25
#: At the edge of the box the base moves inward; beyond this share of the radius it is another input.
MOST_INWARD = 0.5
#: T(x), the smallest radius of the profile over the local one, below which the local one overstates.
OVERSTATES = 0.75


@dataclass(frozen=True)
class Profile:
    """What longer displacements showed.

    Attributes:
        rungs: radius and flips on each, the local displacement first.
        first: the answers that begin with those at the local displacement; ``None`` where none were asked.
    """

    rungs: list[ScaleRung] = field(default_factory=list)
    first: Answered | None = None


def measure_profile(ctx: DisplacedContext, main: MainAnswers) -> Flow[Profile]:
    """Radius and flips over longer displacements; none where none is wanted.

    The rungs lie at the input's own radius, and at half of it (``own_rungs``), where it can be checked, and where there is
    none, or with the full profile, at sizes of the domain.

    Args:
        ctx: the input.
        main: what the main directions showed. Random ones go on to be displaced further, and their answers at the local
            displacement are known.
    """
    choice = ctx.settings.profile
    margin = None if main.estimate is None or not ctx.step.has_slope else main.estimate.margin
    count, rho = ctx.profiled, ctx.step.rho
    if not count or (margin is None and ctx.step.has_slope):
        return Profile()
    if choice == "cheap" and margin is not None:
        count -= WALK_ROWS // len(OWN_RUNGS)
    drawn = main.design if isinstance(main.design, RandomDesign) else None
    directions = drawn or draw_signs(ctx.settings.seed, ctx.index, PROFILE, ctx.profiled, ctx.x.size)
    known = main.answers[:0] if drawn is None else main.answers[:count]
    own = [] if margin is None else [factor * margin.radius.value for factor in own_rungs(ctx.settings, drawn is None)]
    longer = own if own and choice == "cheap" else [*own, *(factor * ctx.steps.span for factor in PROFILE_RUNGS[choice])]
    rhos = [rho, *sorted(one for one in longer if one > rho)]
    ahead = len(rhos) if choice == "cheap" else 1  # the full profile stops asking where the answers flip
    out: list[ScaleRung] = []
    nearest: Answered | None = None
    for first in range(0, len(rhos), ahead):
        rungs = yield from _rungs_at(ctx, directions, rhos[first : first + ahead], count)
        answers = known[:0] if first else known
        if len(answers) < len(rungs.rows):
            answers = np.concatenate([answers, (yield RowRange(rungs.rows, len(answers), len(rungs.rows)))])
        answered = Answered(rungs, answers, ctx.base_answers)
        nearest = nearest or answered
        read: RungsRead = yield BatchedStep(read_profiles, answered)
        if margin is None:
            read = read._replace(radii=[None] * len(read.flips))
        for rung in _rungs(ctx, answered, read):
            out.append(rung)
            if rung.flips > MOST_FLIPS * rung.directions:
                out[-1] = rung.model_copy(update={"radius": None}) if out[1:] else rung
                return Profile(out, nearest)
            if out[1:] and ctx.space.inward(ctx.x, rhos[len(out) - 1]) > MOST_INWARD * (out[0].radius or 0.0):
                out[-1] = rung.model_copy(update={"radius": None})
    return Profile(out, nearest)


class RungsRead(NamedTuple):
    """What the answers of one input say on each rung.

    Attributes:
        radii: the margin radius, from the classes visible there, without limits; ``None`` for none.
        changed: (rungs, m) whether a displacement changed the decision.
        flips: how many of a rung did.
    """

    radii: list[float | None]
    changed: NDArray[np.bool_]
    flips: list[int]


def _rungs(ctx: DisplacedContext, answered: Answered, read: RungsRead) -> list[ScaleRung]:
    """Radius and flips of each rung."""
    space, directions, confidence = ctx.space, read.changed.shape[1], ctx.settings.confidence
    displacements = (answered.rungs.lengths * math.sqrt(space.features)).tolist()
    out = []
    for place, (at, radius, flips) in enumerate(zip(displacements, read.radii, read.flips, strict=True)):
        nearest = None
        if flips:
            rows = answered.rungs.rows.build(place * directions, (place + 1) * directions)[read.changed[place]]
            moved = (rows.astype(np.float64) - ctx.x) / space.scale
            nearest = float(np.linalg.norm(moved[:, ~space.frozen], axis=1).min())
        out.append(
            ScaleRung(
                displacement=at,
                radius=radius,
                flips=flips,
                nearest_flip=nearest,
                flips_upper=flips_upper(flips, directions, confidence),
                directions=directions,
            )
        )
    return out


def read_profiles(answered: Sequence[Answered]) -> list[RungsRead]:
    """What the answers of each input say; inputs of one kind are worked on together."""
    out: list[RungsRead | None] = [None] * len(answered)
    for places in positions_by_kind(one.kind or i for i, one in enumerate(answered)):
        some = [answered[i] for i in places]
        tops = np.array([one.base_answers.view.top for one in some])
        pieces = stacked([one.pieces for one in some])
        changed = pieces.argmax(axis=3) != tops[:, None, None]
        each = zip(places, _margin_radii(some).tolist(), changed, changed.sum(axis=2).tolist(), strict=True)
        for i, radii, flipped, flips in each:
            out[i] = RungsRead([one if math.isfinite(one) else None for one in radii], flipped, flips)
    return [one for one in out if one is not None]


def _margin_radii(some: Sequence[Answered]) -> Array:
    """Radii (n, rungs) of inputs of one kind, infinite for none."""
    (rungs, m, _), lengths = some[0].pieces.shape, stacked([one.rungs.lengths for one in some])
    views = [one.base_answers.view for one in some]
    if some[0].kind is None:  # labels may drop out of the list on some rungs
        each = [(some[0].base_answers.view_of(piece), piece) for piece in some[0].pieces]
        by_rung = [
            _radii([view], view.table(piece)[None, None], lengths[:, [rung]])[0, 0] if not view.unmeasurable else np.inf
            for rung, (view, piece) in enumerate(each)
        ]
        return np.array([by_rung])
    if views[0].unmeasurable:
        return np.full(lengths.shape, np.inf)
    table = tables_of_each(views, [one.answers for one in some])
    return _radii(views, table.reshape(len(some), rungs, m, -1), lengths)


def _radii(views: Sequence[VisibleClasses], p: Array, lengths: Array) -> Array:
    """Radii (n, rungs), infinite for none, from measurable columns (n, rungs, m, C) at ``lengths`` (n, rungs)."""
    n, rungs, m, _ = p.shape
    base = stacked([view.columns for view in views])
    top = np.array([int(view.place[0]) for view in views])
    i = np.arange(n)
    keep = visible_classes(np.concatenate([p, np.broadcast_to(base[:, None, None], (n, rungs, 1, base.shape[1]))], axis=2))
    keep[..., -1] &= ~np.array([view.rest for view in views])[:, None]
    visible = np.where(keep[:, :, None], p, 1.0).reshape(n, rungs * m, -1)
    logs = log_probabilities(visible, top)
    odds = (np.take_along_axis(logs, top[:, None, None], axis=2) - logs).reshape(n, rungs, m, -1)
    odds -= odds.mean(axis=2, keepdims=True)
    safe = np.where(lengths > 0, lengths, np.inf)[:, :, None]
    norms2 = (odds * odds).sum(axis=2) / (m - 1) / safe**2
    noises = [view.noise for view in views]
    if any(noise is not None for noise in noises):
        diagonal = stacked([np.zeros(base.shape[1]) if noise is None else noise.diagonal for noise in noises])
        added = diagonal / np.maximum(base, TINY)
        norms2 -= (added + added[i, top][:, None])[:, None] / safe**2
    keep &= keep[i, :, top][:, :, None] & (norms2 > 0)
    keep[i, :, top] = False
    base_logs = log_probabilities(np.maximum(base, TINY)[:, None], top)[:, 0]
    gaps = (base_logs[i, top][:, None] - base_logs)[:, None]
    return np.asarray(first_order_radii(gaps, np.sqrt(np.where(keep, norms2, 0.0))).min(axis=2))


def _rungs_at(ctx: DisplacedContext, directions: Signs | RandomDesign, rhos: Sequence[float], count: int) -> Flow[Rungs]:
    """The first so many directions, of the profile alone or the main ones, at these displacements."""
    if isinstance(directions, RandomDesign):
        return directions.first_at(rhos, count)
    wanted = Displacements(ctx.x, ctx.space, directions.first(count), rhos)
    rungs: Rungs = yield BatchedStep(displaced_rungs_each, wanted)
    return rungs


@lru_cache(maxsize=1024)
def flips_upper(flips: int, directions: int, confidence: float) -> float:
    """Clopper-Pearson upper limit of the share of random displacements that change the decision.

    >>> round(flips_upper(0, 16, 0.95), 3)
    0.171
    """
    if flips >= directions:
        return 1.0
    return float(special.betaincinv(flips + 1, directions - flips, confidence))


def overstatement(profile: Sequence[ScaleRung]) -> tuple[float, float] | None:
    """T(x) = min r(rho) / r(rho_0) and the smallest rung's place as (T, displacement); ``None`` without two radii."""
    known = [(rung.radius, rung.displacement) for rung in profile if rung.radius is not None]
    if len(known) < 2 or profile[0].radius is None or profile[0].radius <= 0:
        return None
    smallest, at = min(known)
    return smallest / profile[0].radius, at
