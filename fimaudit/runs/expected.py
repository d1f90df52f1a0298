"""How wide an interval to expect around one input's number, before a single query.

With m' independent contrasts (of the queries, those that check and profile leave as a rule; one row is the base, one is lost
to the mean): relative standard error of lambda sqrt(2 / m'), times sqrt(1 - m' / d) for orthonormal directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import special

from fimaudit.errors import UsageError
from fimaudit.estimation.predictable import LEARNING
from fimaudit.estimation.spectral_norm import energy_quantile
from fimaudit.estimation.tangent_plane import curvature
from fimaudit.measurement.label_effort import effort
from fimaudit.measurement.ladder_questions import CHECK_PAIRS
from fimaudit.measurement.query_split import after_extras, after_finding, looks_for_witness
from fimaudit.measurement.settings import Settings

__all__ = ["Expected", "contrasts", "expected_from_labels", "expected_interval"]


@dataclass(frozen=True)
class Expected:
    """The interval to expect around one input's lambda, in multiples of it."""

    lower: float
    upper: float
    standard_error: float


def expected_interval(queries: int, confidence: float = 0.95) -> Expected:
    """The interval that one input's lambda will get, as multiples of lambda, where one eigenvalue dominates.

    Upper: m' / chi2_{m', alpha/2}; lower: n / chi2_{n, 1 - alpha/2} over the n predictable terms. Nothing but the sampling
    of directions is covered.

    >>> e = expected_interval(201)
    >>> round(e.lower, 2), round(e.upper, 2), round(e.standard_error, 2)
    (0.81, 1.26, 0.11)
    """
    terms = contrasts(queries)
    tail = (1.0 - confidence) / 2
    upper = terms / energy_quantile(tail, terms, None)
    predicted = terms - LEARNING
    lower = predicted / energy_quantile(1 - tail, predicted, None) if predicted > 0 else 0.0
    return Expected(lower, upper, math.sqrt(2.0 / terms))


def expected_from_labels(labels: int, confidence: float = 0.95) -> Expected:
    """The interval of one input's margin radius from labels, as multiples of it, far from the foot of the boundary.

    Sampling: about 1.4 / sqrt(labels of the plane) on the logarithm; curvature as ``fimaudit.estimation.tangent_plane``
    allows for it.

    >>> e = expected_from_labels(1000)
    >>> round(e.lower, 2), round(e.upper, 2)
    (0.71, 1.29)
    """
    z = float(special.ndtri(0.5 + confidence / 2))
    below, above = curvature(labels)
    sampling = 1.4 / math.sqrt((1 - effort(labels).share) * labels)
    lower = 1 - math.hypot(1 - math.exp(-z * sampling), z * below)
    upper = 1 + math.hypot(math.exp(z * sampling) - 1, z * above)
    return Expected(max(0.0, lower), upper, math.hypot(sampling, (below + above) / 2))


def contrasts(queries: int) -> int:
    """Contrasts of an input where nothing is out of the ordinary: a check, a row of the pilot, and the cheap profile."""
    if queries < 4:
        raise UsageError(f"expected at least 4 queries an input, got {queries}")
    settings = Settings(witness=looks_for_witness(None, queries))
    return after_extras(after_finding(queries, 4 * CHECK_PAIRS + 1, 1), settings, separate=False) - 2
