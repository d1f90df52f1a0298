"""The same inputs measured again: with another seed, with more and fewer queries, and by steps of another length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fimaudit import audit
from fimaudit.domain import InputDomain
from fimaudit.estimation.margin import first_order_radii
from fimaudit.models.classifier import Classifier
from fimaudit.results import Sensitivity

__all__ = ["QUERIES", "STEPS", "measure_stability"]

#: Rows an input, and multiples of the displacement that the audit chose.
QUERIES, STEPS = (25, 50, 100, 200, 400), (0.01, 0.1, 1.0, 10.0, 100.0)
#: Directions of a fixed step.
DIRECTIONS = 100


def measure_stability(
    classifier: Classifier, x: np.ndarray, domain: InputDomain, inputs: Sequence[Sensitivity], seed: int
) -> dict[str, Any]:
    """Radii by queries (with another seed of the audit), and by multiples of the displacement at fixed directions."""
    by_queries = {}
    for queries in QUERIES:
        report = audit(
            classifier, x, domain=domain, queries=queries, mode="black-box", seed=seed + 1000, witness=False, integrity=False
        )
        by_queries[str(queries)] = [s.margin_radius.value for s in report.inputs]
    by_step = {
        str(factor): [
            radius_at(classifier, x[s.index], factor * (s.displacement or 1e-2), 1000 * seed + s.index)
            for s in inputs[: len(x)]
        ]
        for factor in STEPS
    }
    return {"queries": by_queries, "steps": by_step}


def radius_at(classifier: Classifier, x: np.ndarray, displacement: float, seed: int) -> float | None:
    """The first-order radius from forward differences of one length, the domain's bounds aside.

    min over k of log(p_c / p_k) / |grad log(p_c / p_k)|, the squared norm from the mean square over Rademacher directions.
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (DIRECTIONS, *x.shape))
    step = displacement / np.sqrt(x.size)
    rows = np.concatenate([x[None], x + step * signs]).astype(classifier.info.dtype)
    logs = np.log(np.maximum(classifier.probabilities(rows), 1e-300))
    top = int(logs[0].argmax())
    odds = logs[:, [top]] - np.delete(logs, top, axis=1)
    norms = np.sqrt((((odds[1:] - odds[0]) / step) ** 2).mean(axis=0))
    found = float(first_order_radii(odds[0], norms).min())
    return found if np.isfinite(found) else None
