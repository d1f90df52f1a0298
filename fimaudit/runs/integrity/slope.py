"""Do the slopes at the inputs reach their decisions? How much of the way to a witness they account for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.audit_report import IntegrityCheck
from fimaudit.estimation.integrity import (
    HONEST_SHORT_SLOPE,
    SHORT_SLOPE,
    false_alarm,
    fewest_findings,
    slope_reach,
)
from fimaudit.measurement.counterexample import rows_along
from fimaudit.runs.integrity.findings import check_result
from fimaudit.runs.integrity.rows import AskedRows, scaled_difference, witness_row

__all__ = ["check_slope"]

SLOPE = (
    "Notices slopes at the inputs that would take the model less than 0.4 of the way to a decision that really changes "
    "there: floored scores, steep flanks, flattened margins. Cannot notice a continuous recalibration that lengthens "
    "the radius less than about threefold, nor tell changed scores from an honest network whose slopes end early."
)


def check_slope(asked: AskedRows, chosen: Sequence[int]) -> IntegrityCheck:
    """How much of the way to the witness the slope at the input accounts for."""
    inputs, space, quantum, before = asked.inputs, asked.inputs.space, asked.quality.quantum, asked.rows
    ways: list[tuple[int, int, float, float, NDArray[Any], NDArray[Any]]] = []
    for index in chosen:
        result, x = inputs.results[index], inputs.row(index)
        witness = result.witness
        end = witness_row(result)
        if witness is None or end is None or result.predicted_class is None:
            continue
        way = scaled_difference(x, end, space)
        distance = float(np.linalg.norm(way))
        length = min(result.displacement or inputs.displacement, distance / 4)
        rows, steps = rows_along(x, space, way / distance, np.array([length]))
        if steps[0] > 0:
            ways.append((result.predicted_class, witness.predicted_class, float(steps[0]), distance, x, rows[0]))
    answers = asked.each([row for *_, x, at_step in ways for row in (x, at_step)], "slopes")
    asked.seen += [answer[0] for answer in answers[::2] if answer is not None]
    reached = [
        slope_reach(at_input, at_step, *way[:4], quantum)
        for way, at_input, at_step in zip(ways, answers[::2], answers[1::2], strict=True)
        if at_input is not None and at_step is not None
    ]
    known = [one for one in reached if one is not None]
    short, need = sum(one < SHORT_SLOPE for one in known), fewest_findings(len(known), HONEST_SHORT_SLOPE)
    middle = float(np.median(known)) if known else None
    numbers = {"inputs": len(known), "short": short, "fewest": need, "median": middle}
    numbers["false_alarm"] = false_alarm(len(known), HONEST_SHORT_SLOPE)
    took = asked.rows - before
    if need > len(known):
        why = "too few inputs have a local radius and a witness"
        return check_result("slope", "not_applicable", SLOPE, why, numbers, took)
    most = "at most " if asked.quality.random else ""
    said = f"the slope takes {most}{middle:.2f} of the way to a decision that really changes (median of {len(known)} inputs)"
    if short >= need:
        finding = (
            f"{said}, and less than {SHORT_SLOPE} at {short} of them: the slopes end before the decisions, so the radius "
            "does not hold here, because scores were changed or because the model is overfit or saturated"
        )
        return check_result("slope", "contradicted", SLOPE, finding, numbers, took)
    return check_result("slope", "ok", SLOPE, said, numbers, took)
