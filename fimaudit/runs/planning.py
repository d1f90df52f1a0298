"""Before a single query: what an audit will ask, take and cost, how sure it will be, and how to spend a budget."""

from __future__ import annotations

from dataclasses import dataclass

from fimaudit.errors import UsageError
from fimaudit.measurement.label_radius import FEWEST_LABELS
from fimaudit.runs.cost import Cost, cost_of, per_second
from fimaudit.runs.expected import Expected, expected_from_labels, expected_interval
from fimaudit.runs.proposal import Proposal, Purpose, proposal

__all__ = ["Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """What an audit will ask and take, and what to expect of it.

    Attributes:
        inputs, queries: so many inputs with so many rows each.
        cost: rows, requests, bytes, seconds and money.
        interval: the one to expect around an input's spectral norm.
        proposal: how a budget is best spent, where a purpose was named.
        within_budget: whether the budget reaches; ``None`` without one.
    """

    inputs: int
    queries: int
    cost: Cost
    interval: Expected
    proposal: Proposal | None
    within_budget: bool | None


def plan(
    inputs: int | None = None,
    *,
    features: int,
    classes: int = 10,
    queries: int = 200,
    purpose: Purpose | None = None,
    budget: int | None = None,
    batch: int = 100,
    rate: str | float | None = None,
    seconds_per_request: float | None = None,
    concurrency: int = 8,
    price_per_row: float | None = None,
    price_per_request: float | None = None,
    confidence: float = 0.95,
    binary: bool = False,
    labels: bool = False,
) -> Plan:
    """Say what an audit will ask, take and cost, before a single query.

    Args:
        inputs: how many there are; may be left out with ``purpose``.
        features, classes: numbers in one input and in one answer.
        queries: rows an input.
        purpose: ``mean``, ``p95``, ``max``, ``compare`` or ``threshold``: propose inputs and queries for it within
            ``budget``.
        budget: most rows to spend.
        batch: rows a request.
        rate: requests that an endpoint allows: ``20/s``, ``100/min``, ``5000/h``, or a number a second.
        seconds_per_request, concurrency: how long a request takes, and how many run at once.
        price_per_row, price_per_request: in any currency.
        confidence: of each interval.
        binary: count bytes for binary tensors rather than JSON.
        labels: of an audit from labels alone (``--link labels``): each input asks many small questions.

    Raises:
        UsageError: a number that makes no sense, no number of inputs, or a budget that is too small.

    >>> plan(100, features=30, rate="10/s").cost.rows
    23587
    """
    proposed: Proposal | None = None
    if labels:
        if purpose is not None:
            raise UsageError("--for proposes queries for the spectral norm, which labels alone do not give; leave it out")
        if queries < FEWEST_LABELS:
            raise UsageError(f"expected at least {FEWEST_LABELS} queries an input for a radius from labels, got {queries}")
    if purpose is not None:
        if budget is None:
            raise UsageError("--for needs --budget: the rows that may be spent")
        proposed = proposal(purpose, budget, available=inputs)
        inputs, queries = proposed.inputs, proposed.queries
    if inputs is None:
        raise UsageError("say how many inputs: --data x.npz, --inputs N, or --for with --budget")
    cost = cost_of(
        inputs,
        queries,
        features=features,
        classes=classes,
        batch=batch,
        encoding="binary" if binary else "json",
        rate=per_second(rate) if isinstance(rate, str) else rate,
        seconds_per_request=seconds_per_request,
        concurrency=concurrency,
        price_per_row=price_per_row,
        price_per_request=price_per_request,
        rows=None if proposed is None else proposed.rows,
        labels=labels,
    )
    within = None if budget is None else cost.rows <= budget
    expected = expected_from_labels(queries, confidence) if labels else expected_interval(queries, confidence)
    return Plan(inputs, queries, cost, expected, proposed, within)
