"""The statistics of the integrity checks on answers that are known: what they say, and how often they are wrong."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fimaudit.estimation.integrity import (
    ERROR,
    HONEST_FAR_WITHIN,
    HONEST_JUMP,
    HONEST_SHORT_SLOPE,
    false_alarm,
    fewest_findings,
    history_matters,
    is_jump,
    jump_share,
    log_difference,
    log_odds,
    slope_reach,
)

Array = NDArray[np.float64]


def two(odds: float | Array) -> Array:
    """Answers of two classes with these log-odds of the first."""
    p = 1 / (1 + np.exp(-np.atleast_1d(np.asarray(odds, dtype=float))))
    return np.stack([p, 1 - p], axis=1)


@pytest.mark.parametrize("honest", [HONEST_JUMP, HONEST_SHORT_SLOPE, HONEST_FAR_WITHIN])
@pytest.mark.parametrize("inputs", [1, 4, 8, 16, 100, 512])
def test_the_fewest_keep_the_error_rate_and_one_less_does_not(honest: float, inputs: int) -> None:
    k = fewest_findings(inputs, honest)
    assert stats.binom.sf(k - 1, inputs, honest) <= 0.01 or k > inputs
    assert k == 1 or stats.binom.sf(k - 2, inputs, honest) > 0.01


@pytest.mark.parametrize(("honest", "inputs"), [(HONEST_JUMP, 4), (HONEST_SHORT_SLOPE, 8), (HONEST_FAR_WITHIN, 16)])
def test_the_stated_false_alarm_is_how_often_honest_inputs_show_it(honest: float, inputs: int) -> None:
    shown = np.random.default_rng(0).random((400_000, inputs)) < honest
    alarms = (shown.sum(axis=1) >= fewest_findings(inputs, honest)).mean()
    stated = false_alarm(inputs, honest)
    assert 0 < stated <= ERROR
    assert alarms == pytest.approx(stated, abs=4 * np.sqrt(stated / 400_000))
    assert false_alarm(1, HONEST_SHORT_SLOPE) == 0.0  # one input alone accuses nobody


def test_equal_answers_are_not_apart_and_rounding_either_way_is_allowed_for() -> None:
    first = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]])
    assert log_difference(first, first) == 0
    moved = first + np.array([[0.01, -0.01, 0.0], [-0.01, 0.01, 0.0]])
    assert log_difference(first, moved) > 0.05
    assert log_difference(first, moved, quantum=0.01) == 0
    assert log_difference(first, moved, batch_effect=0.01) == 0


def test_noise_of_any_size_is_not_history() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for deviation in (1e-6, 1e-3, 0.03, 1.0):
        for _ in range(400):  # 13 rows of two classes: few differences, so that the quietest repeats count
            odds = rng.normal(0, 2, 13)
            out, *back = (two(odds + deviation * rng.standard_normal(13)) for _ in range(5))
            noise = max(log_difference(back[i], back[j]) for i in range(4) for j in range(i))
            alarms += history_matters(log_difference(out, back[0]), noise)
    assert alarms == 0


def test_noise_that_a_request_shares_is_seldom_taken_for_history() -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(2000):
        odds = rng.normal(0, 2, 13)
        out, *back = (two(odds + 0.1 * rng.standard_normal()) for _ in range(5))
        noise = max(log_difference(back[i], back[j]) for i in range(4) for j in range(i))
        alarms += history_matters(log_difference(out, back[0]), noise)
    assert alarms <= 20


def test_a_jump_is_what_is_left_beside_rounding_and_noise() -> None:
    assert jump_share(two(0.5), two(-0.5), 0, 1, 4.0) == pytest.approx(0.25)
    assert jump_share(two([0.5, 0.45]), two([-0.5, -0.4]), 0, 1, 4.0) == pytest.approx((0.85 - 0.15) / 4)
    assert jump_share(two(0.01), two(-0.01), 0, 1, 4.0, quantum=0.01) < 0


def test_what_the_slope_explains_or_halving_takes_away_is_no_jump() -> None:
    assert is_jump(0.5, 0.5, 1e-6, 1.0)
    assert not is_jump(0.04, 0.04, 1e-6, 1.0)
    assert not is_jump(0.5, 0.5 / 64, 1e-6, 1.0)
    assert not is_jump(0.5, 0.12, 1e-6, 1.0)
    assert not is_jump(0.5, 0.5, 0.2, 1.0)  # levels leave a fifth of the radius between the rows


@pytest.mark.parametrize("power", [1.0, 0.5, 0.25])
def test_a_recalibrated_margin_multiplies_the_reach_by_its_elasticity(power: float) -> None:
    def margin(at: float) -> float:
        return float(np.sign(2.0 - at) * abs(2.0 - at) ** power)

    found = slope_reach(two(margin(0)), two(margin(1e-4)), 0, 1, 1e-4, 2.0)
    assert found == pytest.approx(power, rel=1e-3)


def test_the_reach_is_at_most_what_rounding_allows() -> None:
    exact = two(2.0), two(1.9999)
    rounded = tuple(np.round(answer, 3) for answer in exact)
    reach = slope_reach(*exact, 0, 1, 1e-4, 2.0)
    assert reach == pytest.approx(1.0, rel=1e-3)
    allowed = slope_reach(*rounded, 0, 1, 1e-4, 2.0, quantum=1e-3)
    assert allowed is not None
    assert allowed > 1
    assert slope_reach(two(-1.0), two(-1.1), 0, 1, 0.1, 2.0) is None


def test_of_a_hidden_class_no_reach_is_claimed() -> None:
    """A probability that is 0 in the model's numbers stays 0 a step on: that is no flat slope."""
    hidden = np.array([[1.0, 0.0]])
    assert slope_reach(hidden, hidden, 0, 1, 0.1, 2.0) is None
    tiny = (np.array([[1.0, np.exp(-odds)]]) for odds in (60.0, 57.0))
    assert slope_reach(*tiny, 0, 1, 0.1, 2.0) == pytest.approx(1.0)


def test_hidden_classes_have_finite_odds() -> None:
    odds, moved = log_odds(np.array([[1.0, 0.0]]), 0, 1, quantum=0.01)
    assert np.isfinite(odds).all()
    assert np.isfinite(moved).all()
