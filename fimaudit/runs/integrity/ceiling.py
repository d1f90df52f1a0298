"""Is one number the largest probability of many inputs, while their other numbers move? Then confidence is capped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fimaudit.audit_report import IntegrityCheck
from fimaudit.estimation.integrity import HONEST_CEILING, PILED, at_ceiling, ceiling_rounded, reaches_one, runner_up_movement
from fimaudit.runs.integrity.findings import Outcome, check_result
from fimaudit.runs.integrity.rows import AskedRows

__all__ = ["check_ceiling"]

#: Of the inputs, the share that must have the largest probability of all, and how many at least.
SHARE, LEAST = 0.25, 4
#: What a cap on confidence changes: of the margin radius it takes nothing near a decision.
METRICS = ("spectral_norm", "peak_spectral_norm")

CEILING = (
    "Notices a largest probability that is one number at many inputs while the other numbers move: confidence that is cut "
    "off, by whom and why ever. Cannot notice a cap that bends smoothly, nor one of two classes, and says nothing where "
    "answers are rounded or random."
)


def check_ceiling(asked: AskedRows, measured: Sequence[int]) -> IntegrityCheck:
    """Compare the largest probabilities of the inputs, and the rest of the answers that were seen there; asks nothing."""
    results, quality = asked.inputs.results, asked.quality
    tops = np.array([p for i in measured if (p := results[i].probability) is not None])
    seen = np.array(asked.seen) if asked.seen else np.empty((0, 2))
    largest = float(max(tops.max(initial=0.0), seen.max(initial=0.0)))
    why = None
    if quality.random:
        why = "answers are random"
    elif seen.shape[1] < 3:
        why = "of two classes nothing moves beside the largest probability"
    elif len(tops) < LEAST:
        why = "too few inputs"
    elif ceiling_rounded(largest, quality.quantum) and not reaches_one(largest):
        why = "answers are rounded"
    numbers: dict[str, float | int | None] = {"inputs": len(tops), "largest": largest, "false_alarm": HONEST_CEILING}
    if why is not None or reaches_one(largest):
        outcome: Outcome = "ok" if why is None else "not_applicable"
        return check_result("ceiling", outcome, CEILING, why or "the largest probability of all reaches 1", numbers, 0)
    piled, moves = int(at_ceiling(tops, largest).sum()), runner_up_movement(seen, largest)
    fewest = max(LEAST, int(np.ceil(SHARE * len(tops))))
    numbers |= {"piled": piled, "fewest": fewest, "others_move": moves}
    if piled >= fewest and moves >= PILED:
        finding = (
            f"the largest probability of {piled} of {len(tops)} inputs is {largest:.6g} to the last digits, where the other "
            f"numbers move by up to {moves:.0%} of what is left: confidence is cut off, and the norms are those of the cut"
        )
        return check_result("ceiling", "contradicted", CEILING, finding, numbers, 0, METRICS)
    finding = f"the largest probability of all, {largest:.6g}, is that of {piled} of {len(tops)} inputs"
    return check_result("ceiling", "ok", CEILING, finding, numbers, 0)
