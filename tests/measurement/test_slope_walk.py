"""How far the slope at an input holds, and that the radius' lower limit and the flag follow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from fimaudit import Interval, audit
from fimaudit.measurement.crossing import Point
from fimaudit.measurement.query_split import most_on_top
from fimaudit.measurement.radius_evidence import check_radius
from fimaudit.measurement.slope_walk import SlopeWalk, first_even, how_far

Array = np.ndarray
LENGTHS = np.array([0.1, 2.0, 3.0, 4.0])


def answers(margin: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Two classes whose log-odds are a function of the row."""

    def model(rows: Array) -> Array:
        p = 1 / (1 + np.exp(-margin(np.asarray(rows, dtype=np.float64))))
        return np.stack([p, 1 - p], axis=1)

    return model


def walk(reach: float, bend: float, changed: bool = False) -> SlopeWalk:
    return SlopeWalk([Point(1.0, 1.0 if changed else -1.0, changed, 1.0, np.zeros(1))], reach, bend)


def steeper_farther_out(features: int) -> Callable[[Array], Array]:
    """Log-odds 4 - 2 t - t^2 / 2 along one oblique direction: even at t = 1.46, by the slope at 0 at t = 2."""
    way = np.ones(features) / np.sqrt(features)

    def margin(rows: Array) -> Array:
        t = rows @ way
        return np.asarray(4 - 2 * t - 0.5 * t**2)

    return margin


@given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_linear_log_odds_reach_as_far_as_they_say_and_do_not_bend(gap: float, slope: float) -> None:
    expected = gap / slope
    lengths = expected * np.array([0.1, 0.5, 0.75, 1.3])
    found = how_far(lengths, gap - slope * np.concatenate([[0.0], lengths]))
    assert found is not None
    assert found == pytest.approx((1.0, 0.0), abs=1e-6)


def test_log_odds_that_fall_faster_reach_less_far_and_those_that_do_not_fall_say_nothing() -> None:
    places = np.concatenate([[0.0], LENGTHS])
    reach, bend = how_far(LENGTHS, 4 - places - 0.25 * places**2) or (np.nan, np.nan)
    assert reach == pytest.approx((np.sqrt(20) - 2) / (4 / 1.025), rel=0.01)
    assert bend > 0.5
    assert how_far(LENGTHS, 4 + places) is None
    beyond, _ = how_far(LENGTHS, 8 - places) or (np.nan, 0.0)
    assert beyond == pytest.approx(1.0)
    assert (how_far(LENGTHS, 4 - np.tanh(places)) or (0.0, 0.0))[0] > 10


@given(st.lists(st.floats(0.05, 5), min_size=2, max_size=6), st.data())
def test_log_odds_are_even_where_the_monotone_cubics_of_scipy_are(widths: list[float], data: st.DataObject) -> None:
    count = len(widths)
    further = st.lists(st.floats(-4, 4).filter(lambda value: abs(value) > 1e-3), min_size=count, max_size=count)
    places, odds = np.cumsum([0.0, *widths]), [data.draw(st.floats(0.01, 4)), *data.draw(further)]
    roots = PchipInterpolator(places, odds).solve(0.0, extrapolate=False)
    found = first_even(places.tolist(), odds)
    assert found == (pytest.approx(roots.min(), rel=1e-9) if roots.size else None)


def test_the_lower_limit_gives_way_to_a_bend_and_to_a_short_reach() -> None:
    radius = Interval(value=1.0, lower=0.99, upper=1.01)

    def lower(of: SlopeWalk) -> float:
        found = check_radius(radius, [], None, np.inf, of).radius.lower
        assert found is not None
        return found

    assert lower(walk(1.0, 0.0)) > 0.96
    assert lower(walk(1.3, 0.1)) < 0.85
    assert lower(walk(0.8, 0.0)) < 0.8
    assert lower(walk(1.0, 5.0)) >= 0.79
    far = check_radius(radius, [], None, np.inf, walk(0.5, 0.3))
    assert far.flags == ["local_radius_overstates"]
    assert "50 %" in far.reasons[0]
    assert check_radius(radius, [], None, np.inf, walk(1.0, 0.0)).flags == []


@pytest.mark.parametrize(("features", "queries"), [(1, 20), (1, 50), (3, 50), (10, 50), (10, 200), (40, 50), (40, 200)])
def test_no_lower_limit_lies_beyond_a_boundary_that_is_nearer_than_the_slope_says(features: int, queries: int) -> None:
    x = np.random.default_rng(0).normal(0, 0.2, (6, features))
    margin = steeper_farther_out(features)
    report = audit(answers(margin), x, queries=queries, mode="black-box", witness=False)
    way = np.ones(features) / np.sqrt(features)
    for s in report.inputs:
        true = np.sqrt(12) - 2 - x[s.index] @ way
        assert s.status == "ok"
        flagged = "local_radius_overstates" in s.flags
        assert flagged or (s.margin_radius.lower or 0.0) <= 1.001 * true
        assert "radius_not_checked" not in s.flags
        assert s.queries <= queries + most_on_top(queries)


@pytest.mark.parametrize("queries", [50, 200])
def test_a_linear_model_loses_next_to_nothing(queries: int) -> None:
    way = np.random.default_rng(1).normal(size=12)
    x = np.random.default_rng(2).normal(size=(8, 12))
    report = audit(answers(lambda rows: rows @ way), x, queries=queries, mode="black-box")
    for s in report.inputs:
        true = abs(x[s.index] @ way) / np.linalg.norm(way)
        assert s.margin_radius.lower is not None
        assert s.margin_radius.value == pytest.approx(true, rel=1e-3)
        assert 0.96 * true < s.margin_radius.lower <= true
        assert not {"local_radius_overstates", "radius_not_checked", "kinked"} & set(s.flags)


@pytest.mark.parametrize("queries", [50, 200])
def test_one_feature_that_jumps_ahead_of_the_slope_is_seen(queries: int) -> None:
    """A gentle slope everywhere, and a cliff of one feature at 0.5 where the slope alone says 2."""

    def margin(rows: Array) -> Array:
        return np.asarray(2 - rows[:, 0] - 0.01 * rows[:, 1:].sum(axis=1) - 40 * np.maximum(rows[:, 0] - 0.45, 0))

    x = np.random.default_rng(3).normal(0, 0.05, (8, 5))
    report = audit(answers(margin), x, queries=queries, mode="black-box", witness=False)
    for s in report.inputs:
        assert "local_radius_overstates" in s.flags
        assert s.margin_radius.lower is None or s.margin_radius.lower < 0.6
        assert s.margin_radius.upper is not None


def test_what_is_walked_comes_out_of_the_profile() -> None:
    asked: list[int] = []

    def model(rows: Array) -> Array:
        asked.append(len(rows))
        return answers(steeper_farther_out(30))(rows)

    x = np.random.default_rng(0).normal(0, 0.2, (10, 30))
    for profile in ("off", "cheap"):
        asked.clear()
        audit(model, x, queries=60, mode="black-box", profile=profile, witness=False, integrity=False)  # type: ignore[arg-type]
        assert sum(asked) <= 10 * (60 + most_on_top(60)) + 80
