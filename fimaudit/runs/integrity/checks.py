"""The checks, at a few inputs that are drawn from the seed.

What needs no result of an input (``decoys``) was asked among the inputs' rows as far as the run came to it. The rest is
asked here, in this process through the meter like the pilot, so that neither the engine nor the order of the inputs changes
what is asked. The statistics are in ``estimation.integrity``.
"""

from __future__ import annotations

import numpy as np

from fimaudit.engines.decoys import ask_decoys
from fimaudit.measurement.integrity_cost import SEGMENTS, SLOPES
from fimaudit.models.meter import Meter
from fimaudit.results import SCREENED, Sensitivity
from fimaudit.runs.integrity.boundary import check_boundary
from fimaudit.runs.integrity.ceiling import check_ceiling
from fimaudit.runs.integrity.decoys import ChosenDecoys
from fimaudit.runs.integrity.drawing import random_numbers
from fimaudit.runs.integrity.findings import IntegrityFindings
from fimaudit.runs.integrity.history import check_history
from fimaudit.runs.integrity.last_digit import check_last_digit
from fimaudit.runs.integrity.radius import check_radii
from fimaudit.runs.integrity.rows import AskedRows, AuditedInputs, witness_row
from fimaudit.runs.integrity.slope import check_slope
from fimaudit.runs.integrity.walks import replace_failed_walks

__all__ = ["check_integrity"]

#: Share of the inputs with a local radius from which on ties at the boundaries may be expected: trees have a few of them,
#: by chance (boosted trees in benchmarks/hostile.py: 2 of 16).
LOCAL_SHARE = 0.25


def check_integrity(meter: Meter, inputs: AuditedInputs, decoys: ChosenDecoys, seed: int) -> IntegrityFindings:
    """Ask the rows of the checks, and judge them.

    Args:
        meter: the door to the model.
        inputs: what was measured.
        decoys: what was asked among them.
        seed: of the choice of inputs and corners.

    Raises:
        BudgetExhausted, ModelFailure: no more can be asked.
    """
    measured = sorted(i for i, r in inputs.results.items() if r.status != "failed" and SCREENED not in r.flags)
    sloped = [i for i in measured if _has_local_radius(inputs.results[i])]
    followed = [int(i) for i in random_numbers(seed, 6).permutation(np.array(sloped, dtype=np.int64))]
    walks = replace_failed_walks(decoys.walks, inputs, measured, decoys.wanted, seed, meter)
    ask_decoys([*decoys.asked_once, *(way for walk in walks for way in (walk.out, walk.back))], meter)
    asked = AskedRows(meter, inputs)
    history = check_history(asked, walks, decoys, random_numbers(seed, 7))
    last_digit = check_last_digit(asked, decoys.neighbours)
    with_witness = [i for i in followed if witness_row(inputs.results[i]) is not None]
    slope = check_slope(asked, with_witness[:SLOPES])
    smooth = len(sloped) >= LOCAL_SHARE * len(measured)
    boundary, changes = check_boundary(asked, followed[:SEGMENTS] if smooth else [])
    radius, revised = check_radii(asked, measured, changes)
    ceiling = check_ceiling(asked, measured)
    return IntegrityFindings([history, last_digit, boundary, slope, radius, ceiling], revised)


def _has_local_radius(result: Sensitivity) -> bool:
    return result.status == "ok" and result.kind == "local" and bool(result.margin_radius.value)
