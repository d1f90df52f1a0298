"""The checks, at a few inputs that are drawn from the seed.

Asked in this process through the meter like the pilot, so that neither the engine nor the order of the inputs changes what
is asked. The statistics are in ``estimation.integrity``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fimaudit.measurement.integrity_cost import SEGMENTS, SLOPES, WALKS
from fimaudit.models.meter import Meter
from fimaudit.results import SCREENED, Sensitivity
from fimaudit.runs.integrity.boundary import check_boundary
from fimaudit.runs.integrity.decoys import ChosenDecoys
from fimaudit.runs.integrity.findings import IntegrityFindings
from fimaudit.runs.integrity.history import check_history
from fimaudit.runs.integrity.last_digit import check_last_digit
from fimaudit.runs.integrity.radius import check_radii
from fimaudit.runs.integrity.rows import AskedRows, AuditedInputs, witness_row
from fimaudit.runs.integrity.slope import check_slope

__all__ = ["candidates", "check_integrity", "random_numbers"]

#: Of the random numbers that choose inputs and corners.
STREAM = 0x1A7E

#: Share of the inputs with a local radius from which on ties at the boundaries may be expected: trees have a few of them,
#: by chance (boosted trees in benchmarks/hostile.py: 2 of 16).
LOCAL_SHARE = 0.25
#: Inputs among which those to ask and the nearest other decision are chosen.
MOST_CANDIDATES = 512


def candidates(numbers: NDArray[np.int64], seed: int) -> list[int]:
    """Positions of the inputs among which the checks choose."""
    if len(numbers) <= MOST_CANDIDATES:
        return [int(i) for i in numbers]
    return sorted(int(i) for i in random_numbers(seed, 1).choice(numbers, MOST_CANDIDATES, replace=False))


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
    rng = random_numbers(seed, 0)
    measured = sorted(i for i, r in inputs.results.items() if r.status != "failed" and SCREENED not in r.flags)
    sloped = [i for i in measured if _has_local_radius(inputs.results[i])]
    chosen = [int(i) for i in rng.permutation(np.array(measured, dtype=np.int64))]
    followed = [int(i) for i in rng.permutation(np.array(sloped, dtype=np.int64))]
    asked = AskedRows(meter, inputs)
    history = check_history(asked, chosen[:WALKS], decoys, rng)
    last_digit = check_last_digit(asked, decoys.between, random_numbers(seed, 3))
    with_witness = [i for i in followed if witness_row(inputs.results[i]) is not None]
    slope = check_slope(asked, with_witness[:SLOPES])
    smooth = len(sloped) >= LOCAL_SHARE * len(measured)
    boundary, changes = check_boundary(asked, followed[:SEGMENTS] if smooth else [])
    radius, revised = check_radii(asked, measured, changes)
    return IntegrityFindings([history, last_digit, boundary, slope, radius], revised)


def _has_local_radius(result: Sensitivity) -> bool:
    return result.status == "ok" and result.kind == "local" and bool(result.margin_radius.value)


def random_numbers(seed: int, stream: int) -> np.random.Generator:
    """What is drawn for the checks."""
    return np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, STREAM + stream], dtype=np.uint64)))
