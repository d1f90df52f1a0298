"""The rows, requests, bytes, seconds and money that a run takes at most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fimaudit.errors import UsageError
from fimaudit.estimation.noise import REPEATS
from fimaudit.measurement.counterexample import ROUNDS, STEPPED_ROWS, WITNESS_REQUESTS
from fimaudit.measurement.input_step import MOST_SPENT
from fimaudit.measurement.integrity_cost import MOST_INTEGRITY_ROWS, TYPICAL_ROWS, looks_at_integrity
from fimaudit.measurement.ladder_questions import LEAST_PILOT, PILOT_INPUTS
from fimaudit.measurement.query_split import ON_TOP, after_extras, after_finding, extra_rows, looks_for_witness
from fimaudit.measurement.recheck import WARY_LOOKS
from fimaudit.measurement.second_look import SUSPECTS
from fimaudit.measurement.settings import ProfileChoice, Settings

__all__ = ["Cost", "cost_of", "label_rows", "per_second", "rows_of"]

#: Rows before the pilot and at the very end, an endpoint's sentinels included, and rows for one of a sentinel in between.
START, SENTINEL = 40, 250
#: Requests that are not full: at the start, and of each input, which asks so many times at most and shares no request.
START_REQUESTS = 16
ASKED: dict[ProfileChoice, int] = {"off": 5, "cheap": 6, "full": 13}
#: Requests of one input from labels: halvings one by one, and a few blocks; 117 were the most from 2,000 labels.
LABEL_REQUESTS = 120
#: A JSON number of float64 or widened float32 digits, with its comma.
JSON_NUMBER = 20
#: Bytes of a request and its answer that are not numbers.
ENVELOPE = 200


@dataclass(frozen=True)
class Cost:
    """What a run takes: rows and requests (no retries), bytes of bodies both ways, seconds and money where known.

    All but ``expected`` are the most that it takes with any model; ``expected`` is the rows that most models take. A model
    of which the run finds that each row must be asked alone (``Preflight.row_by_row``) takes as many requests as rows.
    """

    rows: int
    requests: int
    bytes: int
    seconds: float | None
    money: float | None
    expected: int = 0


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
    Cost(rows=23587, requests=2729, bytes=19415400, seconds=272.90000000000003, money=23.587, expected=22296)
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
    requests, checks = math.ceil(rows / batch), not labels and looks_at_integrity(integrity, inputs, queries)
    if batch > 1:
        walks = ROUNDS + WITNESS_REQUESTS if looks_for_witness(witness, queries) else 0
        asked = LABEL_REQUESTS if labels else ASKED[profile] + walks
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
        min(rows, _usual_rows(inputs, queries, witness) + TYPICAL_ROWS * checks),
    )


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
    (23587, 8674)
    """
    checks = MOST_INTEGRITY_ROWS * looks_at_integrity(integrity, inputs, queries)
    rows = START + inputs * _hardest(inputs, queries, profile, witness) + checks
    return rows + rows // SENTINEL


def label_rows(inputs: int, labels: int) -> int:
    """Most rows of a run from labels alone: those of each input, the first ones asked once more, and sentinels.

    >>> label_rows(100, 1000)
    100440
    """
    rows = START + inputs * labels
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
    split = (after_finding(queries, found, REPEATS), Settings(profile=profile, witness=witness), True)
    return REPEATS + found + after_extras(*split) - 1 + extra_rows(*split) + WARY_LOOKS + STEPPED_ROWS * witness


def _positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise UsageError(f"expected {name} of at least 1, got {value}")
