"""From what one input's answers showed to its ``Sensitivity``: status, kind, flags and the sentence that goes with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.attribution import feature_shares, listed
from fimaudit.estimation.estimate import Estimate, undetected
from fimaudit.estimation.spectral_norm import Limits
from fimaudit.measurement.boundary import NotHeld
from fimaudit.measurement.context import DisplacedContext
from fimaudit.measurement.design import MainAnswers
from fimaudit.measurement.explain import (
    BENT,
    COUNTED,
    DISAGREE,
    FAR_STEP,
    JUMPED,
    LONGER,
    NO_CHANGE,
    NO_SLOPE,
    NOT_SMOOTH,
    PARTIAL,
    RIVAL_HIDDEN,
    SHORTER,
    UNREPEATABLE,
    undetected_reason,
)
from fimaudit.measurement.radius_evidence import check_radius
from fimaudit.measurement.random_designs import RandomDesign
from fimaudit.measurement.scale_profile import overstatement
from fimaudit.measurement.slope_walk import SlopeWalk
from fimaudit.results import FeatureShare, Interval, Kind, ScaleRung, Sensitivity, Status, Witness

__all__ = ["below_detection", "measured", "steps_disagree", "unrepeatable"]


def measured(
    ctx: DisplacedContext,
    main: MainAnswers,
    estimate: Estimate,
    profile: list[ScaleRung],
    walk: SlopeWalk | None,
    witness: Witness | NotHeld | None,
    *,
    kinked: bool = False,
) -> Sensitivity:
    """A measured input.

    Args:
        ctx: the input.
        main: what the main directions showed.
        estimate: the same numbers, with limits that allow for the step's error.
        profile: radius and flips over longer displacements.
        walk: how far the slope holds.
        witness: a displacement that changed the decision, or why one that did is not kept.
        kinked: whether single features do not add up to what they do together.
    """
    view, value = main.view, estimate.spectral.value
    partial = ctx.quality.top_k is not None and not view.whole
    radius, peak = interval(None if estimate.margin is None else estimate.margin.radius), interval(estimate.peak)
    kind, nonlinear_nearer, reasons = _kind(ctx, main, radius, partial)
    flags = [*_flags(ctx, main, estimate)]
    status: Status = "ok"
    if kinked and "kinked" not in flags:
        flags.append("kinked")
    if main.jumps and "jumps" not in flags:
        flags.append("jumps")
    if estimate.rival_hidden and (estimate.margin is None or not partial):
        status = "no_rival_visible"
        reasons.append(RIVAL_HIDDEN)
    if partial or status == "no_rival_visible":
        radius, peak = Interval(upper=radius.upper), Interval()
    if main.jumps or not ctx.step.has_slope:
        radius = Interval()
        reasons.append(NO_SLOPE)
    elif nonlinear_nearer and radius.value is not None and ctx.step.rho > radius.value:
        radius = Interval()
        reasons.append(SHORTER)
    shrinks = overstatement(profile)
    checked = check_radius(radius, profile, witness, ctx.space.farthest(ctx.x), walk, random=ctx.quality.random)
    radius, flags = checked.radius, [*flags, *checked.flags]
    reasons += checked.reasons
    smallest = min((rung.radius for rung in profile if rung.radius is not None), default=None)
    if isinstance(witness, NotHeld):
        reasons.append(f"no witness is kept: {witness.reason}")
    return Sensitivity(
        **_common(ctx, main, status),
        kind=kind,
        spectral_norm=interval(estimate.spectral),
        peak_spectral_norm=peak,
        trace=interval(estimate.trace),
        margin_radius=radius,
        effective_rank=estimate.trace.value / value if value > 0 else None,
        contrast=estimate.contrast,
        carried_by=_carried_by(ctx, main),
        flags=flags,
        profile=profile,
        smallest_radius=smallest if shrinks is not None else None,
        witness=witness if isinstance(witness, Witness) else None,
        reason="; ".join(reasons) or None,
    )


def _kind(ctx: DisplacedContext, main: MainAnswers, radius: Interval, partial: bool) -> tuple[Kind, bool, list[str]]:
    """What kind the values are of, whether the answers are known to be nonlinear over shorter displacements, and why."""
    kind: Kind = "lower_bound" if partial else "local"
    at, reasons = ctx.step.rho, [PARTIAL] if partial else []
    nonlinear_nearer = ctx.step.finite is not None and not ctx.step.behind_noise
    if ctx.far_from_common is not None:
        reasons.append(FAR_STEP.format(times=ctx.far_from_common))
    if ctx.step.finite is not None:
        kind = "finite_scale"
        reasons.append(f"{ctx.step.finite}; the numbers are those at a displacement of {at:.3g}")
    if kind == "local" and main.view.noise is not None and radius.value is not None and at > radius.value:
        kind = "finite_scale"
        reasons.append(LONGER.format(at=at))
    if ctx.quality.may_be_votes:
        nonlinear_nearer = True
        if kind != "finite_scale":
            kind = "finite_scale" if kind == "local" else kind
            reasons.append(COUNTED.format(step=ctx.quality.quantum, at=at))
    if kind == "local" and main.bends:
        kind, nonlinear_nearer = "finite_scale", True
        reasons.append(BENT.format(at=at))
    if main.jumps:
        kind = "finite_scale"
        reasons.append(JUMPED.format(at=at))
    return kind, nonlinear_nearer, reasons


def below_detection(
    ctx: DisplacedContext,
    main: MainAnswers,
    profile: Sequence[ScaleRung] = (),
    witness: Witness | NotHeld | None = None,
) -> Sensitivity:
    """An input whose answers did not change measurably: limits, and why there is no value."""
    upper, lower = undetected(main.view, main.answers, ctx.quantum, main.length, ctx.settings.confidence, main.factor)
    unmoved = not moved(main.answers, ctx.base_answers.base, ctx.quantum)
    smooth = ctx.steps.surface == "smooth" and not ctx.quality.may_be_votes
    norm, radius = Limits(np.nan, 0.0, upper if smooth else np.inf), Limits(np.nan, lower, np.nan)
    reasons = [undetected_reason(ctx, main, known=smooth)]
    if unmoved or not smooth:
        radius = Limits(np.nan, np.nan, np.nan)
        reasons.append(NO_CHANGE if unmoved else NOT_SMOOTH)
    margin = check_radius(interval(radius), profile, witness, np.inf, random=ctx.quality.random).radius
    return Sensitivity(
        **_common(ctx, main, "below_detection"),
        profile=list(profile),
        witness=witness if isinstance(witness, Witness) else None,
        kind="finite_scale" if unmoved or ctx.step.finite is not None or ctx.quality.may_be_votes else "local",
        spectral_norm=interval(norm),
        margin_radius=margin,
        flags=_flags(ctx, main),
        reason="; ".join(reasons),
    )


def steps_disagree(
    ctx: DisplacedContext, main: MainAnswers, witness: Witness | NotHeld | None, why: str = DISAGREE
) -> Sensitivity:
    """An input whose whole Jacobian is another one over another step, by so much that no value is left of it."""
    upper = np.inf if main.estimate is None else main.estimate.spectral.upper
    return Sensitivity(
        **_common(ctx, main, "below_detection"),
        kind="finite_scale",
        spectral_norm=interval(Limits(np.nan, 0.0, upper)),
        margin_radius=check_radius(Interval(), [], witness, np.inf).radius,
        witness=witness if isinstance(witness, Witness) else None,
        flags=_flags(ctx, main),
        reason=why.format(at=ctx.step.rho),
    )


def unrepeatable(ctx: DisplacedContext, main: MainAnswers, difference: float) -> Sensitivity:
    """An input with an answer that is another one each time, although the model had seemed to repeat itself.

    No threshold is decided from answers that do not repeat.
    """
    reason = UNREPEATABLE.format(difference=difference)
    return Sensitivity(index=ctx.index, status="failed", method=main.method, flags=ctx.flags, reason=reason)


def moved(answers: NDArray[np.float64], base: NDArray[np.float64], quantum: float) -> bool:
    """Whether any of (m, K) answers differs from those to the input (repeats, K) by more than the spacing of its numbers.

    >>> base = np.array([[0.7, 0.3]])
    >>> moved(base + 1e-9, base, 0.0), moved(base + 0.01, base, 0.01), moved(base + 0.02, base, 0.01)
    (False, False, True)
    """
    centre = base.mean(axis=0)
    spacing = np.maximum(quantum, np.spacing(centre.astype(np.float32)).astype(np.float64))
    return bool((np.abs(answers - centre) > 1.5 * spacing).any()) if len(answers) else False


def _flags(ctx: DisplacedContext, main: MainAnswers, estimate: Estimate | None = None) -> list[str]:
    """What was out of the ordinary, and the side of the threshold: as decided while asking, else as the limits tell."""
    threshold, decision = ctx.settings.threshold, main.threshold
    if threshold is not None and decision is None and estimate is not None:
        if estimate.spectral.lower > threshold:
            decision = "above"
        elif estimate.spectral.upper < threshold:
            decision = "below"
    return ctx.flags if decision is None else [*ctx.flags, f"{decision}_threshold"]


def _carried_by(ctx: DisplacedContext, main: MainAnswers) -> list[FeatureShare]:
    """The features of a table towards the nearest other answer."""
    if main.gradient is None or not listed(ctx.x):
        return []
    gradient, directions = main.gradient
    orthogonal = isinstance(main.design, RandomDesign) and main.design.orthogonal
    return feature_shares(gradient, ctx.space.positions, directions, orthogonal=orthogonal)


def _common(ctx: DisplacedContext, main: MainAnswers, status: Status) -> dict[str, Any]:
    top = main.view.top
    return {
        "index": ctx.index,
        "status": status,
        "method": main.method,
        "predicted_class": top,
        "probability": float(main.view.base[top]),
        "displacement": ctx.step.rho,
        "queries": main.used,
    }


def interval(limits: Limits | None) -> Interval:
    """As plain data; what is not finite is left open."""
    if limits is None:
        return Interval()
    return Interval(value=_known(limits.value), lower=_known(limits.lower), upper=_known(limits.upper))


def _known(number: float) -> float | None:
    """A finite number, else nothing."""
    return float(number) if math.isfinite(number) else None
