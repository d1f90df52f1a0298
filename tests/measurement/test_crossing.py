"""Where a change of decision is looked for along a line: foreseen where the answers let it be, else by equal division."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fimaudit import audit
from fimaudit.domain import InputDomain
from fimaudit.measurement.boundary import CHECK_ROWS, LEAD
from fimaudit.measurement.counterexample import ASKED, BRACKET, ROUNDS, Slope, find_witness
from fimaudit.measurement.crossing import EQUAL_ROWS, FORESEEN_ROWS, NEAR, Point, next_lengths

Lead = Callable[[float], float]
WALK = (0.5, 0.75, 1.0)


def points(lead: Lead, lengths: tuple[float, ...] = WALK) -> list[Point]:
    return [Point(length, lead(length), lead(length) > 0, length, np.zeros(1)) for length in lengths]


def witness(lead: Lead, *, tells: bool = True, expected: float = 1.0) -> tuple[float, list[int]]:
    """Distance of a witness along one feature whose log-odds are a function of it, and the rows of each request."""
    x = np.zeros(1)
    flow = find_witness(x, InputDomain().resolve(x[None], "float64"), Slope(np.ones(1), expected), 0, tells=tells)
    sizes: list[int] = []
    reply = None
    while True:
        try:
            wanted = flow.send(reply)
        except StopIteration as end:
            return end.value.distance, sizes
        if hasattr(wanted, "function"):
            reply = wanted.function([wanted.argument])[0]
            continue
        rows = wanted.build(0, len(wanted))
        sizes.append(len(rows))
        odds = np.array([lead(float(row[0])) for row in rows])
        second = 1 / (1 + np.exp(-np.clip(odds, -600, 600)))
        reply = np.stack([1 - second, second], axis=1)


@given(st.floats(0.35, 2.9), st.floats(-0.3, 0.3), st.floats(0.01, 20))
def test_a_smooth_change_is_found_near_in_few_requests_and_checked_alone_last(at: float, bend: float, gap: float) -> None:
    def lead(t: float) -> float:
        s = t / at
        return gap * (s - 1 + bend * s * (s - 1))

    distance, sizes = witness(lead)
    assert at < distance <= (1 + NEAR) * at + (0.75 if at < 1.5 else 1.5) / (EQUAL_ROWS + 1) ** (ROUNDS - 1)
    assert sizes[0] == len(BRACKET)
    assert sizes[-1] == 1
    assert len(sizes) <= 5
    assert sum(sizes) <= ASKED * ROUNDS + CHECK_ROWS


def test_a_line_takes_one_round_and_half_a_check() -> None:
    distance, sizes = witness(lambda t: 3.0 * (t - 0.9))
    assert sizes == [len(BRACKET), FORESEEN_ROWS, 1]
    assert 0.9 + LEAD / 3 <= distance < 0.9 * (1 + NEAR)


@given(st.floats(0.76, 2.9))
def test_labels_alone_are_divided_equally(at: float) -> None:
    distance, sizes = witness(lambda t: 500.0 if t > at else -500.0)
    width = 0.75 if at < 1.5 else 1.5
    assert at < distance <= at + width / (EQUAL_ROWS + 1) ** (ROUNDS - 1) + 1e-12
    assert sizes[: ROUNDS + 1] == [ASKED] * ROUNDS + [4]


@given(st.floats(0.05, 2.9), st.floats(0, 3), st.floats(0, 3), st.floats(0.01, 5))
def test_a_jump_behind_any_slope_is_found_within_a_share_of_the_way(at: float, down: float, up: float, rise: float) -> None:
    distance, sizes = witness(lambda t: -0.1 - down + rise * (t - at) * 0.1 if t <= at else 0.1 + up + rise * (t - at))
    assert at < distance <= at + 1.5 / 12
    assert sum(sizes) <= ASKED * ROUNDS + CHECK_ROWS


@given(st.lists(st.floats(-5, 5).filter(lambda v: abs(v) > 1e-3), min_size=3, max_size=6), st.integers(2, 9))
def test_rounds_stay_within_what_is_known_and_affordable(leads: list[float], most: int) -> None:
    asked = [Point(1.0 + i, lead, lead > 0, 1.0 + i, np.zeros(1)) for i, lead in enumerate(leads)]
    first = next((i for i, lead in enumerate(leads) if lead > 0), None)
    for tells in (True, False):
        lengths = next_lengths(asked, most, tells=tells)
        assert len(lengths) <= most
        foreseen = len(lengths) == FORESEEN_ROWS
        assert not foreseen or (tells and lengths[0] == 0.0 and lengths[1] == lengths[3] <= lengths[2])
        for length in lengths[foreseen:]:
            low = asked[-1].length if first is None else asked[first - 1].length if first else 0.0
            assert low < length < (np.inf if first is None else asked[first].length)


@pytest.mark.parametrize("digits", [None, 6, 2])
def test_an_audit_asks_less_where_answers_foretell(digits: int | None) -> None:
    """Witnesses lie where the line meets the boundary whether answers are rounded or not; coarse ones take each round."""
    weights = np.random.default_rng(0).standard_normal((40, 3))
    sizes: list[int] = []

    def model(rows: np.ndarray) -> np.ndarray:
        sizes.append(len(rows))
        odds = np.exp(rows @ weights / 8)
        p = odds / odds.sum(axis=1, keepdims=True)
        return p if digits is None else np.round(p, digits)

    x = np.random.default_rng(1).standard_normal((12, 40))
    report = audit(model, x, queries=200, witness=True, integrity=False, link="identity")
    found = [s for s in report.inputs if s.witness is not None]
    assert len(found) >= 10
    rounds = sum(size == ASKED for size in sizes)
    assert (rounds > 2 * len(found)) if digits == 2 else (rounds < len(found) / 2)
    for s in found:
        assert s.witness is not None
        top, rows = s.predicted_class, x[s.index] @ weights / 8
        ways = [(rows[top] - rows[k]) / np.linalg.norm(weights[:, top] - weights[:, k]) * 8 for k in range(3) if k != top]
        assert s.witness.distance >= (1 - 0.02 * (digits == 2)) * min(ways)
