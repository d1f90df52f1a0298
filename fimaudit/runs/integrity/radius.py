"""Does a decision really change far within a radius? What was found on the way, and on the halved segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fimaudit.audit_report import IntegrityCheck
from fimaudit.estimation.integrity import (
    FAR_WITHIN,
    HONEST_FAR_WITHIN,
    false_alarm,
    fewest_findings,
)
from fimaudit.measurement.radius_evidence import FAR_WITHIN_RADIUS, WITHIN_RADIUS, check_radius
from fimaudit.results import Sensitivity, Witness
from fimaudit.runs.integrity.boundary import Segment
from fimaudit.runs.integrity.findings import Outcome, check_result
from fimaudit.runs.integrity.rows import AskedRows, scaled_difference

__all__ = ["check_radii"]

RADIUS = (
    "Notices a decision that really changes far within the radius, on the way of the witness or towards another input. It "
    "is a proof about the number, not about intent, and looks along these ways only."
)


def check_radii(
    asked: AskedRows, measured: Sequence[int], changes: Sequence[Segment]
) -> tuple[IntegrityCheck, dict[int, Sensitivity]]:
    """Real changes of decision within the radius: those found on the way, and those on the segments."""
    inputs, before = asked.inputs, asked.rows
    revised: dict[int, Sensitivity] = {}
    for segment in changes:
        result = inputs.results[segment.index]
        radius = result.margin_radius
        near = float(np.linalg.norm(scaled_difference(segment.x, segment.high[1], inputs.space)))
        if radius.value is None or near >= (radius.upper or np.inf):
            continue
        held = asked.holds(segment.x, segment.high[1], segment.decision, f"hold {segment.index}")
        if held is None:
            continue
        checked = check_radius(radius, [], Witness(distance=held[0], predicted_class=held[1]), np.inf)
        flags = [*result.flags, *(flag for flag in checked.flags if flag not in result.flags)]
        reason = "; ".join([*([result.reason] if result.reason else []), *checked.reasons]) or None
        revised[segment.index] = result.model_copy(
            update={"margin_radius": checked.radius, "flags": flags, "reason": reason}
        )
    known = [revised.get(i, inputs.results[i]) for i in measured]
    walked = {segment.index for segment in changes}
    claimed = [r for r in known if r.margin_radius.value is not None and (r.witness is not None or r.index in walked)]
    within = sum(WITHIN_RADIUS in r.flags for r in claimed)
    far = sum(FAR_WITHIN_RADIUS in r.flags for r in claimed)
    need = fewest_findings(len(claimed), HONEST_FAR_WITHIN)
    numbers: dict[str, float | int | None] = {"inputs": len(claimed), "within": within, "far_within": far, "fewest": need}
    numbers["false_alarm"] = false_alarm(len(claimed), HONEST_FAR_WITHIN)
    took = asked.rows - before
    outcome: Outcome = "ok"
    finding = f"{within} of {len(claimed)} inputs change their decision within the lower limit of their radius"
    if not claimed:
        outcome, finding = "not_applicable", "no input has a radius and a real change of decision to compare it with"
    elif far >= need:
        outcome = "contradicted"
        finding = f"{finding}, {far} of them nearer than {FAR_WITHIN} of it: the radius does not hold here"
    elif not within:
        finding = f"no decision of {len(claimed)} inputs changed within the lower limit of its radius"
    return check_result("radius", outcome, RADIUS, finding, numbers, took), revised
