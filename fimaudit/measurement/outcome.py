"""From an input's estimate to its ``Sensitivity``: status, kind, flags and the sentence that goes with them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fimaudit.estimation.estimate import Estimate
from fimaudit.estimation.noise import OutputQuality, VisibleClasses
from fimaudit.estimation.spectral_norm import Limits
from fimaudit.measurement.scale_profile import OVERSTATES, overstatement
from fimaudit.results import FeatureShare, Interval, Kind, ScaleRung, Sensitivity, Status, Witness

__all__ = ["MeasurementOutcome", "below_detection", "measured", "unrepeatable"]


@dataclass(frozen=True)
class MeasurementOutcome:
    """How one input's measurement went.

    Attributes:
        index: of the input.
        view: its measurable classes.
        method: kind of directions.
        displacement: l2 length that was used.
        used: rows of the estimate, the base row included.
        flags: what was out of the ordinary.
        finite: why the value is one at a finite scale; ``None`` where it is local.
        profile: radius and flips over longer displacements.
        witness: a displacement that changed the decision.
        no_witness: why one that did is not kept; ``None`` where none did, or it is.
        carried_by: the features of a table towards the nearest other answer.
    """

    index: int
    view: VisibleClasses
    method: str
    displacement: float
    used: int
    flags: list[str] = field(default_factory=list)
    finite: str | None = None
    profile: list[ScaleRung] = field(default_factory=list)
    witness: Witness | None = None
    no_witness: str | None = None
    carried_by: list[FeatureShare] = field(default_factory=list)


def measured(outcome: MeasurementOutcome, estimate: Estimate, quality: OutputQuality) -> Sensitivity:
    """A measured input."""
    view, value = outcome.view, estimate.spectral.value
    partial = quality.top_k is not None and not view.whole
    radius, peak = interval(None if estimate.margin is None else estimate.margin.radius), interval(estimate.peak)
    reasons, flags = [], list(outcome.flags)
    kind: Kind = "local"
    status: Status = "ok"
    if partial:
        kind = "lower_bound"
        reasons.append("the answers show some labels only, so the spectral norm is a lower bound of the model's")
    if outcome.finite is not None:
        kind = "finite_scale"
        reasons.append(f"{outcome.finite}; the numbers are those at a displacement of {outcome.displacement:.3g}")
    if estimate.rival_hidden and not view.whole and (estimate.margin is None or not partial):
        status = "no_rival_visible"
        reasons.append("a class that the answers hide may be the nearest rival, so the margin radius has no value")
    if partial or status == "no_rival_visible":
        radius, peak = Interval(upper=radius.upper), Interval()
    shrinks = overstatement(outcome.profile)
    smallest = min((r.radius for r in outcome.profile if r.radius is not None), default=None)
    if shrinks is not None and shrinks[0] < OVERSTATES:
        flags.append("local_radius_overstates")
        reasons.append(
            f"the radius falls to {100 * shrinks[0]:.0f} % of the local one at a displacement of {shrinks[1]:.3g}: "
            "the model is calmer at this input than around it, so the local radius overstates the distance"
        )
    if outcome.no_witness is not None:
        reasons.append(f"no witness is kept: {outcome.no_witness}")
    return Sensitivity(
        **_common(outcome, status),
        kind=kind,
        spectral_norm=interval(estimate.spectral),
        peak_spectral_norm=peak,
        trace=interval(estimate.trace),
        margin_radius=radius,
        effective_rank=estimate.trace.value / value if value > 0 else None,
        contrast=estimate.contrast,
        carried_by=outcome.carried_by,
        flags=flags,
        profile=outcome.profile,
        smallest_radius=smallest if shrinks is not None else None,
        witness=outcome.witness,
        reason="; ".join(reasons) or None,
    )


def below_detection(outcome: MeasurementOutcome, limits: tuple[float, float], reason: str) -> Sensitivity:
    """An input whose answers did not change measurably: limits, and why there is no value."""
    return Sensitivity(
        **_common(outcome, "below_detection"),
        spectral_norm=interval(Limits(np.nan, 0.0, limits[0])),
        margin_radius=interval(Limits(np.nan, limits[1], np.nan)),
        flags=outcome.flags,
        reason=reason,
    )


def unrepeatable(index: int, method: str, flags: list[str], difference: float) -> Sensitivity:
    """An input with an answer that is another one each time, although the model had seemed to repeat itself."""
    return Sensitivity(
        index=index,
        status="failed",
        method=method,
        flags=[flag for flag in flags if not flag.endswith("_threshold")],  # decided from what is in doubt
        reason=f"asked again, one row around the input was answered differently (by {difference:.2g} in probability), which "
        "noise of one size does not explain: perhaps two versions of the model answer, and each can be audited alone; or an "
        "answer depends on the rows beside it",
    )


def _common(outcome: MeasurementOutcome, status: Status) -> dict[str, object]:
    top = outcome.view.top
    return {
        "index": outcome.index,
        "status": status,
        "method": outcome.method,
        "predicted_class": top,
        "probability": float(outcome.view.base[top]),
        "displacement": outcome.displacement,
        "queries": outcome.used,
    }


def interval(limits: Limits | None) -> Interval:
    """As plain data; what is not finite is left open."""
    if limits is None:
        return Interval()
    value, lower, upper = (float(v) if np.isfinite(v) else None for v in (limits.value, limits.lower, limits.upper))
    return Interval(value=value, lower=lower, upper=upper)
