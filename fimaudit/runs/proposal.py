"""How a budget of rows is best spent: so many inputs, with so many queries each, for the question that is asked.

Over inputs, log lambda spreads with a standard deviation sigma of about 0.7 (measured: 20,000 queries, p95, rmse 16 % at
100 x 199 and 4.7 % at 1176 x 16, which both give sigma_total = 0.76). With m' contrasts an input, a quantile q of the
population has the standard error sqrt(q (1 - q) / n) / phi(z_q) x sqrt(sigma^2 + 2 / m') in logs, the mean
sqrt((exp(sigma^2) - 1 + 2 / m') / n).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import special

from fimaudit.errors import UsageError
from fimaudit.runs.cost import START, rows_of
from fimaudit.runs.expected import contrasts
from fimaudit.statistics.one_sided import FOR_TAIL

__all__ = ["PURPOSES", "Proposal", "Purpose", "proposal"]

Purpose = Literal["mean", "p95", "max", "compare", "threshold"]
PURPOSES: tuple[str, ...] = get_args(Purpose)

#: Fewest queries of a proposal: 20 contrasts are left, from about which on the estimate's bias stays within 1 %.
FEWEST = 43
#: Standard deviation of log lambda over inputs, and of its paired difference between two models, before any measurement.
SPREAD = 0.7
PAIRED_SPREAD = 0.3
#: Queries that a sequential decision takes in the median when lambda is twice the threshold, and the most to allow.
DECISION, MOST_FOR_DECISION = 60, 200
#: Inputs that are measured again for the maximum.
FINALISTS = 10


@dataclass(frozen=True)
class Proposal:
    """How to spend a budget.

    Attributes:
        inputs, queries: so many inputs with so many rows each.
        again: rows each for the ten largest once more (``max`` only).
        rows: in all, with what comes on top; never more than the budget.
        standard_error: relative, of the number that was asked for; ``None`` where a decision is the answer.
        reason: a sentence.
    """

    purpose: Purpose
    inputs: int
    queries: int
    rows: int
    standard_error: float | None
    reason: str
    again: int = 0


def proposal(purpose: Purpose, budget: int, *, available: int | None = None) -> Proposal:
    """How many inputs, with how many queries each, answer a question best within ``budget`` rows.

    Args:
        purpose: ``mean`` or ``p95`` of the population, ``max`` of these inputs, ``compare`` two models on the same
            inputs, ``threshold`` for a decision on each input.
        budget: most rows in all (for ``compare``: of both models together).
        available: how many inputs there are; no limit when left out.

    Raises:
        UsageError: unknown purpose, or a budget too small for one input.

    >>> proposal("p95", 20_000).inputs, proposal("p95", 20_000).queries
    (231, 43)
    """
    if purpose not in PURPOSES:
        raise UsageError(f"expected a purpose among {', '.join(PURPOSES)}, got {purpose!r}")
    models = 2 if purpose == "compare" else 1
    each = budget // models
    if each < rows_of(1, FEWEST):
        needed = models * rows_of(1, FEWEST)
        raise UsageError(f"a budget of {budget} rows is too small for {purpose}: one input takes {needed} rows")
    if available is not None and available < 1:
        raise UsageError(f"expected available of at least 1, got {available}")
    if purpose == "threshold":
        return _decisions(each, available)
    if purpose == "max":
        return _largest(each, available)
    sigma = PAIRED_SPREAD if purpose == "compare" else SPREAD
    inputs, queries = _split(each, available, sigma, models)
    within = models * 2.0 / contrasts(queries)
    rows = models * rows_of(inputs, queries)
    if purpose == "p95":
        density = math.exp(-(special.ndtri(0.95) ** 2) / 2) / math.sqrt(2 * math.pi)
        error = math.sqrt(0.95 * 0.05 / inputs) / density * math.sqrt(sigma**2 + within)
        reason = "for a population quantile many inputs with few directions beat few inputs with many"
        if inputs < FOR_TAIL:
            reason += (
                f"; with {inputs} inputs there is no finite upper limit of the population's p95, which needs {FOR_TAIL}"
            )
    elif purpose == "compare":
        error = math.sqrt((sigma**2 + within) / inputs)
        reason = "both models get the same inputs and directions; the error is that of the ratio of typical values"
    else:
        error = math.sqrt((math.expm1(sigma**2) + within) / inputs)
        reason = "the spread between inputs dominates the mean, so inputs count more than directions"
    return Proposal(purpose, inputs, queries, rows, error, reason)


def _inputs_within(budget: int, queries: int, available: int | None) -> int:
    """Most inputs with so many queries each."""
    inputs = max(0, budget - START) // queries
    if available is not None:
        inputs = min(inputs, available)
    return bisect_right(range(1, inputs + 1), budget, key=lambda n: rows_of(n, queries))


def _queries_within(budget: int, inputs: int) -> int:
    """Most queries for each of so many inputs, but no fewer than keep bias away."""
    most = max(FEWEST, budget // inputs)
    return max(FEWEST, FEWEST - 1 + bisect_right(range(FEWEST, most + 1), budget, key=lambda q: rows_of(inputs, q)))


def _split(budget: int, available: int | None, sigma: float, models: int) -> tuple[int, int]:
    """The n and q within the budget that minimise (sigma^2 + models 2 / (q - 2)) / n; q no smaller than keeps bias away."""
    best = (math.inf, 1)
    for queries in np.unique(np.geomspace(FEWEST, max(FEWEST, budget), 400).astype(int)):
        inputs = _inputs_within(budget, int(queries), available)
        if inputs > 0:
            best = min(best, ((sigma**2 + models * 2.0 / contrasts(int(queries))) / inputs, inputs))
    return best[1], _queries_within(budget, best[1])


def _largest(budget: int, available: int | None) -> Proposal:
    """All inputs with few queries, then the largest again with fresh directions."""
    inputs = _inputs_within(budget, FEWEST, available)
    finalists = min(FINALISTS, inputs)
    queries = _queries_within(budget * 2 // 3, inputs)
    left = budget - rows_of(inputs, queries)
    again = _queries_within(left, finalists)
    if again < 2 * FEWEST:
        again, queries = 0, _queries_within(budget, inputs)
    error = math.sqrt(2.0 / contrasts(max(again, queries)))
    reason = (
        f"screen every input, then measure the {finalists} largest again with fresh directions"
        if again
        else "screen every input"
    )
    if available is not None and inputs < available:
        reason += f"; the budget reaches {inputs} of {available} inputs, so it is the maximum of those"
    rows = rows_of(inputs, queries) + (rows_of(finalists, again) if again else 0)
    return Proposal("max", inputs, queries, rows, error, reason, again)


def _decisions(budget: int, available: int | None) -> Proposal:
    inputs = max(1, _inputs_within(budget, DECISION, available))
    queries = min(MOST_FOR_DECISION, _queries_within(budget, inputs))
    reason = (
        f"a sequential decision takes about {DECISION} queries where lambda is twice the threshold and stops by itself; "
        f"{queries} is where an input is left undecided"
    )
    return Proposal("threshold", inputs, queries, rows_of(inputs, queries), None, reason)
