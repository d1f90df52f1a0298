"""Do answers depend on what was asked before? The same rows outwards from an input, and in reverse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import InputFailed
from fimaudit.estimation.integrity import apart, history_matters, noticed, threshold
from fimaudit.measurement.counterexample import rows_along
from fimaudit.measurement.integrity_cost import BACK_AGAIN, RUNGS
from fimaudit.results import IntegrityCheck
from fimaudit.runs.integrity.findings import check_result
from fimaudit.runs.integrity.rows import AskedRows, AuditedInputs, scaled_difference

__all__ = ["check_history"]

Array = NDArray[np.float64]

#: A walk ends in the corner and starts at so many displacements, as far as ratios of its steps in this range allow:
#: any below 2 leaves a rung nearer to the next one than to the input, so that a store of earlier rows answers it from that.
FROM, RATIO, MOST_RATIO = 3.0, 1.6, 1.8
#: Shares of the calls that a second version may take, of which the report says how surely it would have been noticed.
SHARES = (0.1, 0.5)

HISTORY = (
    "Notices answers that depend on what was asked before: caches of near-duplicates, steps that shrink near earlier rows, "
    "another model after some queries. Cannot notice a server that keeps every answer for good and compares new rows with "
    "its oldest ones only, nor one that recognises the audit."
)


def check_history(asked: AskedRows, chosen: Sequence[int], rng: np.random.Generator) -> IntegrityCheck:
    """There and back: the same rows outwards from an input to a random corner of the domain, and in reverse."""
    quality, before = asked.quality, asked.rows
    walks, found, largest, quiet, rungs, calls = 0, 0, 0.0, 0.0, 0, 0
    for n, index in enumerate(chosen):
        rows = _walk_rows(asked.inputs, index, rng)
        try:
            out = asked.walk(rows, f"out {n}")
            back = [asked.walk(rows[::-1], f"back {n}")[::-1]]
            difference, noise = apart(out, back[0], quality.quantum, quality.batch_effect), 0.0
            if history_matters(difference, 0.0, quality.batch_effect_logs):
                back += [asked.walk(rows[::-1], f"back {n} again {k}")[::-1] for k in range(BACK_AGAIN)]
                pairs = [(back[i], back[j]) for i in range(len(back)) for j in range(i)]
                noise = max(apart(a, b, quality.quantum, quality.batch_effect) for a, b in pairs)
        except InputFailed:
            continue
        walks, rungs, calls = walks + 1, max(rungs, len(rows)), calls + asked.calls(rows)
        found += history_matters(difference, noise, quality.batch_effect_logs)
        if difference >= largest:
            largest, quiet = difference, noise
    least = threshold(quiet, quality.batch_effect_logs)
    numbers = {
        "walks": walks,
        "rows_a_walk": rungs,
        "contradicting": found,
        "largest": largest,
        "repeats": quiet,
        "calls_repeated": calls,
        "noticed_difference": least,
        **{f"noticed_share_{share}": noticed(share, calls) for share in SHARES},
    }
    took = asked.rows - before
    if not walks:
        return check_result("history", "not_applicable", HISTORY, "no input could be asked", numbers, took)
    if found:
        finding = (
            f"rows asked a second time, in reverse order, were answered otherwise on {found} of {walks} walks "
            f"(by {largest:.2g} in log p, where repeats differ by {quiet:.2g}): answers depend on what was asked before, or "
            "several models answer"
        )
        return check_result("history", "contradicted", HISTORY, finding, numbers, took)
    finding = f"{walks} walks of {rungs} rows, there and back, were answered alike" + (
        f" (within {largest:.2g} in log p)" if largest else ""
    )
    power = " and ".join(f"{share:.0%} of the calls with probability {noticed(share, calls):.2f}" for share in SHARES)
    finding += (
        f"; a second version that moves log p by more than {least:.2g} would have been noticed here if it took {power}"
    )
    return check_result("history", "ok", HISTORY, finding, numbers, took)


def _walk_rows(inputs: AuditedInputs, index: int, rng: np.random.Generator) -> NDArray[Any]:
    """The input, and rows at log-spaced lengths towards a corner of the box, or of the data's range where it is open."""
    space, x = inputs.space, inputs.row(index)
    low, high = _range(inputs)
    corner = np.where(rng.integers(0, 2, size=low.shape) == 1, high, low)
    way = scaled_difference(x, corner, space)
    length = float(np.linalg.norm(way))
    if not length > 0:
        return x[None]
    displacement = inputs.results[index].displacement or inputs.displacement
    end, steps = length, RUNGS - 2
    start = np.clip(FROM * displacement, end / MOST_RATIO**steps, end / RATIO**steps)
    rows, _ = rows_along(x, space, way / length, np.geomspace(start, end, steps + 1))
    return np.concatenate([x[None], rows])


def _range(inputs: AuditedInputs) -> tuple[Array, Array]:
    """The box; where a feature has no bound, the data's range, or a step of the scale to either side if they agree there."""
    space, x = inputs.space, inputs.x.astype(np.float64)
    least, most = x.min(axis=0), x.max(axis=0)
    same = np.where(most > least, 0.0, space.scale)
    low = np.where(np.isfinite(space.lower), space.lower, least - same)
    return low, np.where(np.isfinite(space.upper), space.upper, most + same)
