"""The margin radius against what was seen: decisions that really changed, and slopes farther out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fimaudit.estimation.integrity import FAR_WITHIN
from fimaudit.measurement.boundary import NotHeld
from fimaudit.measurement.explain import FELL, FLIPPED, OUTSIDE, OVERSTATED, WALKED, WITNESSED
from fimaudit.measurement.scale_profile import OVERSTATES, overstatement
from fimaudit.measurement.slope_walk import SlopeWalk
from fimaudit.results import Interval, ScaleRung, Witness

__all__ = ["FAR_WITHIN_RADIUS", "WITHIN_RADIUS", "CheckedRadius", "check_radius"]

#: Flags of an input whose decision really changed nearer than its radius' lower limit, and nearer than a share of it.
WITHIN_RADIUS, FAR_WITHIN_RADIUS = "counterexample_within_radius", "counterexample_far_within_radius"

#: A slope that is steeper farther out, or a decision that changes nearer than the value, by more than this share shows a
#: curve; the smallest change of decision is then taken to be down to this share of the nearest that was found. The column
#: "silent" of benchmarks/regimes.py counts limits that a real change of decision contradicts all the same.
CURVED, NEAREST = 0.97, 0.85
#: How much nearer than along the slope the boundary may lie elsewhere: a share in any case, one for each bend along the
#: slope, and the most.
LEAST_ASIDE, PER_BEND, MOST_ASIDE = 0.02, 1.5, 0.2
#: The share of the value from which on a decision that changes before the lower limit is a bend of the slope: limits of a
#: whole Jacobian are a thousandth apart.
BENT = 0.9
#: The share of the radius from which on a rung of the profile checks it: that of the shorter of its two, and some.
CHECKS = 0.45


@dataclass(frozen=True)
class CheckedRadius:
    """A radius that nothing which was seen contradicts.

    Attributes:
        radius: cut to what was seen.
        flags: ``local_radius_overstates`` where something contradicted it, ``counterexample_within_radius`` where that was a
            real change of decision (``counterexample_far_within_radius``: a witness nearer than 0.7 of the lower limit),
            ``radius_not_checked`` where nothing could.
        reasons: what contradicted it, in words.
    """

    radius: Interval
    flags: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def check_radius(
    radius: Interval,
    profile: Sequence[ScaleRung],
    witness: Witness | NotHeld | None,
    farthest: float,
    walk: SlopeWalk | None = None,
    *,
    random: bool = False,
) -> CheckedRadius:
    """The radius from the slope at an input, cut by what was seen farther out.

    A decision that changed at some distance is an upper limit of the distance to another decision. Where it is shorter than
    the lower limit, by more than a bend of a tenth, the slope at the input is not that of its surroundings, and nothing is
    known from below; so it is where the domain ends before the lower limit. Where the slope grows steeper, or the decision
    changes before the value, the lower limit gives way. What is seen beyond the lower limit does not contradict it, and
    cuts nothing.

    Args:
        radius: from the slope at the input.
        profile: radius and flips over longer displacements, the local one first.
        witness: a displacement that changed the decision.
        farthest: the largest displacement within the domain.
        walk: how far the slope holds, where that was looked at.
        random: the same row asked twice is answered differently: what changed the decision once need not do so again, and is
            no upper limit; the lower one gives way to it.

    >>> check_radius(Interval(value=2.0, lower=1.8, upper=2.2), [], Witness(distance=0.5, predicted_class=1), 9.0).radius
    Interval(value=0.5, lower=None, upper=0.5)
    >>> check_radius(Interval(value=2.0, lower=1.8, upper=2.2), [], None, 9.0).flags
    ['radius_not_checked']
    >>> check_radius(Interval(value=0.0, lower=0.0), [], Witness(distance=0.5, predicted_class=1), 9.0).radius
    Interval(value=0.0, lower=0.0, upper=0.5)
    """
    seen = [(rung.nearest_flip or rung.displacement, FLIPPED) for rung in profile if rung.flips]
    if walk is not None and walk.changed_at is not None:
        seen.append((walk.changed_at, WALKED))
    once = min(seen)[0] if random and seen else np.inf
    seen = [] if random else seen
    if isinstance(witness, Witness):
        seen.append((witness.distance, WITNESSED))
    at, words = min(seen, default=(np.inf, ""))
    bent = radius.value is not None and at >= BENT * radius.value  # no more than a bend, for which the lower limit gives way
    reach = 1.0 if walk is None or walk.reach is None else walk.reach
    holds = 1.0 if walk is None or walk.reach is None else (1.0 - _aside(walk.bend)) * min(1.0, reach)
    if radius.lower is not None and (radius.lower > farthest or (holds * radius.lower > at and not bent)):
        cut = Interval(upper=farthest) if at > farthest else Interval(value=at, upper=at)
        words = OUTSIDE if at > farthest else words
        reason = words.format(at=min(at, farthest), lower=radius.lower)
        far = isinstance(witness, Witness) and witness.distance < FAR_WITHIN * radius.lower  # held; a flip was asked once
        real = [flag for flag, is_so in ((WITHIN_RADIUS, at <= farthest), (FAR_WITHIN_RADIUS, far)) if is_so]
        return CheckedRadius(cut, ["local_radius_overstates", *real], [reason])
    nearest = at if np.isfinite(at) else None
    if not radius.value:  # unknown, or tied as far as the answers tell
        return CheckedRadius(radius.model_copy(update={"upper": _least(radius.upper, nearest)}))
    steeper, where = overstatement(profile) or (1.0, 0.0)
    lower = radius.lower
    before = lower is not None and at < lower and not bent  # which the answers along the slope had said
    if lower is not None:
        if min(steeper, at / radius.value) < CURVED or at < lower:
            lower = min(lower, NEAREST * min(at, steeper * radius.value))
        if walk is not None:
            lower = min(lower, at, (1.0 - _aside(walk.bend)) * min(1.0, reach) * lower)
        lower = min(lower, once)
    if before or min(steeper, reach) < OVERSTATES:
        cut = Interval(value=_least(radius.value, nearest), lower=lower, upper=_least(radius.upper, nearest))
        if min(steeper, reach) >= OVERSTATES:
            reason = words.format(at=at, lower=radius.lower)
        else:
            reason = OVERSTATED.format(share=100 * steeper, at=where) if steeper <= reach else FELL.format(share=100 * reach)
        return CheckedRadius(cut, ["local_radius_overstates"], [reason])
    kept = Interval(value=radius.value, lower=lower, upper=radius.upper)
    known = (
        walk is not None
        or witness is not None
        or any(rung.displacement >= CHECKS * radius.value for rung in profile[1:] if rung.radius is not None or rung.flips)
    )
    return CheckedRadius(kept, [] if known else ["radius_not_checked"])


def _aside(bend: float | None) -> float:
    """Share by which the boundary may lie nearer elsewhere than along a slope that bends so far."""
    return 1.0 - NEAREST if bend is None else min(MOST_ASIDE, LEAST_ASIDE + PER_BEND * bend)


def _least(one: float | None, other: float | None) -> float | None:
    """The smaller of two limits, of which either may not be known."""
    return min((limit for limit in (one, other) if limit is not None), default=None)
