"""Before a single query: what an audit will ask, take and cost, how sure it will be, and how to spend a budget.

Per input, with m' independent contrasts (of the queries, those that check and profile leave as a rule; one row is the base,
one is lost to the mean): relative standard error of lambda sqrt(2 / m'), times sqrt(1 - m' / d) for orthonormal
directions. Over inputs, log lambda spreads with a
standard deviation sigma of about 0.7 (measured: 20,000 queries, p95, rmse 16 % at 100 x 199 and 4.7 % at 1176 x 16, which
both give sigma_total = 0.76), so that a quantile q of the population has the standard error
sqrt(q (1 - q) / n) / phi(z_q) x sqrt(sigma^2 + 2 / m') in logs, and the mean sqrt((exp(sigma^2) - 1 + 2 / m') / n).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import special

from fimaudit.errors import UsageError
from fimaudit.estimation.noise import REPEATS
from fimaudit.estimation.predictable import LEARNING
from fimaudit.estimation.spectral_norm import energy_quantile
from fimaudit.estimation.tangent_plane import BENT_ABOVE, BENT_BELOW, FEW_ABOVE, FEW_BELOW
from fimaudit.measurement.counterexample import ROUNDS, STEPPED_ROWS, WITNESS_REQUESTS
from fimaudit.measurement.input_step import MOST_SPENT
from fimaudit.measurement.integrity_cost import MOST_INTEGRITY_ROWS, looks_at_integrity
from fimaudit.measurement.label_radius import FEW_LABELS, FEWEST_LABELS, WALK_SHARE
from fimaudit.measurement.ladder import CHECK_PAIRS, LEAST_PILOT, PILOT_INPUTS, SUSPECTS
from fimaudit.measurement.query_split import ON_TOP, after_extras, after_finding, extra_rows, looks_for_witness
from fimaudit.measurement.recheck import WARY_LOOKS
from fimaudit.measurement.settings import ProfileChoice, Settings

__all__ = [
    "PURPOSES",
    "Cost",
    "Expected",
    "Plan",
    "Proposal",
    "Purpose",
    "cost_of",
    "expected_from_labels",
    "expected_interval",
    "label_rows",
    "per_second",
    "plan",
    "proposal",
    "request_bytes",
    "rows_of",
]

Purpose = Literal["mean", "p95", "max", "compare", "threshold"]
PURPOSES: tuple[str, ...] = get_args(Purpose)

#: Rows before the pilot and at the very end, an endpoint's sentinels included, and rows for one of a sentinel in between.
START, SENTINEL = 40, 250
#: Requests that are not full: at the start, and of each input, which asks so many times at most and shares no request.
START_REQUESTS = 16
ASKED: dict[ProfileChoice, int] = {"off": 5, "cheap": 6, "full": 13}
#: Requests of one input from labels: halvings one by one, and a few blocks.
LABEL_REQUESTS = 110
#: Fewest queries of a proposal: 20 contrasts are left, from about which on the estimate's bias stays within 1 %.
FEWEST = 43
#: Standard deviation of log lambda over inputs, and of its paired difference between two models, before any measurement.
SPREAD = 0.7
PAIRED_SPREAD = 0.3
#: Queries that a sequential decision takes in the median when lambda is twice the threshold, and the most to allow.
DECISION, MOST_FOR_DECISION = 60, 200
#: A population p95 has a finite 95 % upper limit from so many inputs on.
FOR_P95 = 72
#: Inputs that are measured again for the maximum.
FINALISTS = 10
#: A JSON number of float64 or widened float32 digits, with its comma.
JSON_NUMBER = 20
#: Bytes of a request and its answer that are not numbers.
ENVELOPE = 200


@dataclass(frozen=True)
class Cost:
    """What a run takes: rows and requests (no retries), bytes of bodies both ways, seconds and money where known.

    All but ``expected`` are the most that it takes with any model; ``expected`` is the rows that most models take.
    """

    rows: int
    requests: int
    bytes: int
    seconds: float | None
    money: float | None
    expected: int = 0


@dataclass(frozen=True)
class Expected:
    """The interval to expect around one input's lambda, in multiples of it."""

    lower: float
    upper: float
    standard_error: float


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
    23467
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


def per_second(rate: str) -> float:
    """``20/s``, ``100/min``, ``5000/h`` to requests a second.

    >>> per_second("120/min")
    2.0
    """
    number, _, unit = rate.partition("/")
    seconds = {"": 1.0, "s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0}
    try:
        value = float(number) / seconds[unit.strip()]
    except (ValueError, KeyError):
        raise UsageError(f"expected a rate like 20/s, 100/min or 5000/h, got {rate!r}") from None
    if not value > 0:
        raise UsageError(f"expected a rate above 0, got {rate!r}")
    return value


def request_bytes(features: int, classes: int, batch: int, encoding: Literal["json", "binary"] = "json") -> int:
    """Bytes of one request and its answer, headers left out.

    >>> request_bytes(30, 2, 100, "binary")
    13000
    """
    number = JSON_NUMBER if encoding == "json" else 4
    return batch * (features + classes) * number + ENVELOPE


def cost_of(
    inputs: int,
    queries: int,
    *,
    features: int,
    classes: int = 10,
    batch: int = 100,
    encoding: Literal["json", "binary"] = "json",
    rate: float | None = None,
    seconds_per_request: float | None = None,
    concurrency: int = 8,
    price_per_row: float | None = None,
    price_per_request: float | None = None,
    rows: int | None = None,
    profile: ProfileChoice = "cheap",
    witness: bool | None = None,
    labels: bool = False,
    integrity: bool | None = None,
) -> Cost:
    """What ``inputs`` x ``queries`` rows will take at most, with what comes on top; retries are not in it.

    Args:
        inputs, queries: inputs, and rows for each.
        features, classes: numbers in one row and in one answer.
        batch: rows a request.
        encoding: ``json`` or ``binary`` tensors.
        rate: requests a second that the endpoint allows.
        seconds_per_request, concurrency: how long a request takes, and how many run at once.
        price_per_row, price_per_request: in any currency; both may apply.
        rows: rows in all, where they are known: ``Proposal.rows``.
        profile, witness, integrity: as for ``audit``.
        labels: of an audit from labels alone.

    Raises:
        UsageError: a number that must be positive is not.

    >>> cost_of(100, 200, features=30, rate=10.0, price_per_row=0.001)
    Cost(rows=23467, requests=2508, bytes=19275200, seconds=250.8, money=23.467, expected=22128)
    """
    _positive(inputs=inputs, queries=queries, features=features, classes=classes, batch=batch, concurrency=concurrency)
    for name, value in (("rate", rate), ("seconds_per_request", seconds_per_request)):
        if value is not None and not value > 0:
            raise UsageError(f"expected {name} above 0, got {value}")
    for name, value in (("price_per_row", price_per_row), ("price_per_request", price_per_request)):
        if value is not None and not value >= 0:
            raise UsageError(f"expected {name} of at least 0, got {value}")
    if labels:
        rows = label_rows(inputs, queries)
    rows = rows_of(inputs, queries, profile, witness=witness, integrity=integrity) if rows is None else rows
    requests = math.ceil(rows / batch)
    if batch > 1:
        walks = ROUNDS + WITNESS_REQUESTS if looks_for_witness(witness, queries) else 0
        asked = LABEL_REQUESTS if labels else ASKED[profile] + walks
        checks = not labels and looks_at_integrity(integrity, inputs, queries)
        asked_last = MOST_INTEGRITY_ROWS * checks  # nearly one row a request
        requests = min(rows, requests + START_REQUESTS + asked * inputs + rows // 1000 + asked_last)
    paces = [1.0 / rate if rate else None, seconds_per_request / concurrency if seconds_per_request else None]
    slowest = max((pace for pace in paces if pace is not None), default=None)
    prices = [price_per_row * rows if price_per_row is not None else None]
    prices.append(price_per_request * requests if price_per_request is not None else None)
    known = [price for price in prices if price is not None]
    return Cost(
        rows,
        requests,
        request_bytes(features, classes, rows, encoding) + (requests - 1) * ENVELOPE,
        None if slowest is None else requests * slowest,
        sum(known) if known else None,
        min(rows, _usual_rows(inputs, queries, witness)),
    )


def expected_interval(queries: int, confidence: float = 0.95, features: int | None = None) -> Expected:
    """The interval that one input's lambda will get, as multiples of lambda, where one eigenvalue dominates.

    Upper: m' / chi2_{m', alpha/2}; lower: n / chi2_{n, 1 - alpha/2} over the n predictable terms; with ``features``, the
    Beta quantiles of orthonormal directions. Nothing but the sampling of directions is covered.

    >>> e = expected_interval(201)
    >>> round(e.lower, 2), round(e.upper, 2), round(e.standard_error, 2)
    (0.81, 1.26, 0.11)
    """
    terms = _terms(queries)
    if features is not None and terms >= features:
        return Expected(0.999, 1.001, 0.0)
    tail = (1.0 - confidence) / 2
    upper = terms / energy_quantile(tail, terms, features)
    predicted = terms - LEARNING
    lower = predicted / energy_quantile(1 - tail, predicted, features) if predicted > 0 else 0.0
    error = math.sqrt(2.0 / terms * (1.0 - terms / features if features is not None else 1.0))
    return Expected(lower, upper, error)


def label_rows(inputs: int, labels: int) -> int:
    """Most rows of a run from labels alone: those of each input, the first ones asked once more, and sentinels.

    >>> label_rows(100, 1000)
    100440
    """
    rows = START + inputs * labels
    return rows + rows // SENTINEL


def expected_from_labels(labels: int, confidence: float = 0.95) -> Expected:
    """The interval of one input's margin radius from labels, as multiples of it, far from the foot of the boundary.

    Sampling: about 1.4 / sqrt(labels of the plane); curvature as ``fimaudit.estimation.tangent_plane`` allows for it.

    >>> e = expected_from_labels(1000)
    >>> round(e.lower, 2), round(e.upper, 2)
    (0.66, 1.31)
    """
    z = float(special.ndtri(0.5 + confidence / 2))
    below, above = (FEW_BELOW, FEW_ABOVE) if labels < FEW_LABELS else (BENT_BELOW, BENT_ABOVE)
    sampling = 1.4 / math.sqrt((1 - WALK_SHARE) * labels)
    lower, upper = 1 - z * math.hypot(sampling, below), 1 + z * math.hypot(sampling, above)
    return Expected(max(0.0, lower), upper, math.hypot(sampling, (below + above) / 2))


def proposal(purpose: Purpose, budget: int, *, available: int | None = None, spread: float | None = None) -> Proposal:
    """How many inputs, with how many queries each, answer a question best within ``budget`` rows.

    Args:
        purpose: ``mean`` or ``p95`` of the population, ``max`` of these inputs, ``compare`` two models on the same
            inputs, ``threshold`` for a decision on each input.
        budget: most rows in all (for ``compare``: of both models together).
        available: how many inputs there are; no limit when left out.
        spread: standard deviation of log lambda over inputs (of the paired log ratio for ``compare``), where known.

    Raises:
        UsageError: unknown purpose, or a budget too small for one input.

    >>> proposal("p95", 20_000).inputs, proposal("p95", 20_000).queries
    (220, 55)
    """
    if purpose not in PURPOSES:
        raise UsageError(f"expected a purpose among {', '.join(PURPOSES)}, got {purpose!r}")
    models = 2 if purpose == "compare" else 1
    each = budget // models
    if each < rows_of(1, FEWEST):
        needed = models * rows_of(1, FEWEST)
        raise UsageError(f"a budget of {budget} rows is too small for {purpose}: one input takes {needed} rows")
    if available is not None:
        _positive(available=available)
    if purpose == "threshold":
        return _decisions(each, available)
    if purpose == "max":
        return _largest(each, available)
    sigma = spread if spread is not None else (PAIRED_SPREAD if purpose == "compare" else SPREAD)
    if not sigma >= 0:
        raise UsageError(f"expected a spread of at least 0, got {sigma}")
    inputs, queries = _split(each, available, sigma, models)
    within = models * 2.0 / _terms(queries)
    rows = models * rows_of(inputs, queries)
    if purpose == "p95":
        density = math.exp(-(special.ndtri(0.95) ** 2) / 2) / math.sqrt(2 * math.pi)
        error = math.sqrt(0.95 * 0.05 / inputs) / density * math.sqrt(sigma**2 + within)
        reason = "for a population quantile many inputs with few directions beat few inputs with many"
        if inputs < FOR_P95:
            reason += f"; with {inputs} inputs there is no finite upper limit of the population's p95, which needs {FOR_P95}"
    elif purpose == "compare":
        error = math.sqrt((sigma**2 + within) / inputs)
        reason = "both models get the same inputs and directions; the error is that of the ratio of typical values"
    else:
        error = math.sqrt((math.expm1(sigma**2) + within) / inputs)
        reason = "the spread between inputs dominates the mean, so inputs count more than directions"
    return Proposal(purpose, inputs, queries, rows, error, reason)


def rows_of(
    inputs: int,
    queries: int,
    profile: ProfileChoice = "cheap",
    *,
    witness: bool | None = None,
    integrity: bool | None = None,
) -> int:
    """Most rows of a run, pilot, checks and sentinels included.

    From about 100 queries on, many inputs take ``most_on_top`` rows each beside their queries at most, and a second look,
    whatever the model; a witness on the decision boundary 20 more. With fewer, an input that needs a displacement of its own
    or answers at random may take much more: its measurement keeps a share of the queries. All inputs may be such.

    Args:
        inputs, queries: inputs, and rows for each.
        profile, witness, integrity: as for ``audit``.

    >>> rows_of(100, 200), rows_of(100, 40)
    (23467, 8674)
    """
    checks = MOST_INTEGRITY_ROWS * looks_at_integrity(integrity, inputs, queries)
    rows = START + inputs * _hardest(inputs, queries, profile, witness) + checks
    return rows + rows // SENTINEL


def _usual_rows(inputs: int, queries: int, witness: bool | None) -> int:
    """Rows where no input is out of the ordinary: pilot and checks come out of the queries."""
    rows = START + inputs * (queries + STEPPED_ROWS * looks_for_witness(witness, queries))
    return rows + rows // SENTINEL


def _hardest(inputs: int, queries: int, profile: ProfileChoice = "cheap", witness: bool | None = None) -> int:
    """Rows of one input that answers at random and needs a displacement of its own, its share of the pilot included."""
    pilot_inputs = min(PILOT_INPUTS, inputs)  # asked again, and repeated where only that shows a random model
    pilot = max(ON_TOP * inputs * queries, LEAST_PILOT) + (REPEATS + 2 * SUSPECTS) * pilot_inputs
    found = MOST_SPENT + math.ceil(pilot / inputs)
    witness = looks_for_witness(witness, queries)
    extra = extra_rows(Settings(profile=profile, witness=witness), True)
    main = after_extras(after_finding(queries, found, REPEATS), extra)
    return REPEATS + found + main - 1 + extra + WARY_LOOKS + STEPPED_ROWS * witness


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
            best = min(best, ((sigma**2 + models * 2.0 / _terms(int(queries))) / inputs, inputs))
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
    error = math.sqrt(2.0 / _terms(max(again, queries)))
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


def _terms(queries: int) -> int:
    """Contrasts of an input where nothing is out of the ordinary: a check, a row of the pilot, and the cheap profile."""
    if queries < 4:
        raise UsageError(f"expected at least 4 queries an input, got {queries}")
    return (
        after_extras(
            after_finding(queries, 4 * CHECK_PAIRS + 1, 1),
            extra_rows(Settings(witness=looks_for_witness(None, queries)), False),
        )
        - 2
    )


def _positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise UsageError(f"expected {name} of at least 1, got {value}")
