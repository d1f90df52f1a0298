"""No limit against its own evidence: flips, witnesses, steeper slopes and the end of the domain."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from fimaudit import Interval, audit
from fimaudit.measurement.crossing import Point
from fimaudit.measurement.radius_evidence import check_radius
from fimaudit.measurement.slope_walk import SlopeWalk
from fimaudit.results import ScaleRung, Witness

LENGTHS = st.floats(0.01, 100)


def rung(at: float, radius: float | None, flips: int = 0) -> ScaleRung:
    return ScaleRung(displacement=at, radius=radius, flips=flips, flips_upper=0.5, directions=8)


@given(LENGTHS, st.floats(0.5, 1), st.floats(1, 2), LENGTHS, LENGTHS, st.booleans(), st.booleans())
def test_no_limit_contradicts_what_was_seen(
    value: float, low: float, high: float, at: float, farthest: float, flipped: bool, witnessed: bool
) -> None:
    profile = [rung(0.001, value), rung(at, value, int(flipped))]
    witness = Witness(distance=at, predicted_class=1) if witnessed else None
    checked = check_radius(Interval(value=value, lower=low * value, upper=high * value), profile, witness, farthest)
    radius = checked.radius
    ends = [end for end in (radius.lower, radius.value, radius.upper) if end is not None]
    assert ends == sorted(ends)
    if flipped or witnessed:
        assert radius.lower is None or radius.lower <= at
        contradicted = low * value > farthest or (low * value > at and at < 0.9 * value)
        if contradicted:
            assert radius.upper is not None
            assert radius.upper <= min(at, farthest)
        assert ("local_radius_overstates" in checked.flags) == contradicted
        assert ("counterexample_within_radius" in checked.flags) == (contradicted and at <= farthest)
        assert ("counterexample_far_within_radius" in checked.flags) == (witnessed and 0.7 * low * value > at)
    if low * value > farthest:
        assert checked.flags[0] == "local_radius_overstates"


def test_a_slope_that_grows_steeper_cuts_the_lower_limit_and_is_named() -> None:
    radius = Interval(value=4.0, lower=3.9, upper=4.1)
    checked = check_radius(radius, [rung(0.01, 4.0), rung(2.0, 2.0)], None, np.inf)
    assert checked.flags == ["local_radius_overstates"]
    assert checked.radius.lower is not None
    assert checked.radius.lower <= 2.0
    assert "50 %" in checked.reasons[0]


def test_where_nothing_was_looked_at_the_radius_is_not_checked() -> None:
    radius = Interval(value=4.0, lower=3.9, upper=4.1)
    assert check_radius(radius, [], None, np.inf).flags == ["radius_not_checked"]
    assert check_radius(radius, [rung(0.01, 4.0), rung(1.0, 4.0)], None, np.inf).flags == ["radius_not_checked"]
    assert check_radius(radius, [rung(0.01, 4.0), rung(2.0, 4.0)], None, np.inf).flags == []


def test_a_saturated_network_is_flagged_and_a_linear_model_is_not() -> None:
    x, y = load_wine(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = StandardScaler().fit_transform(x)[order], y[order]
    net = MLPClassifier((20,), activation="logistic", alpha=1e-5, max_iter=1500, random_state=0).fit(x[:120], y[:120])
    line = LogisticRegression().fit(x[:120], y[:120])
    saturated, linear = (audit(m.predict_proba, x[120:144], queries=200) for m in (net, line))
    overstated = [s for s in saturated.inputs if "local_radius_overstates" in s.flags]
    assert len(overstated) >= 12
    assert all(s.reason is not None and s.margin_radius.upper is not None for s in overstated)
    assert not any("local_radius_overstates" in s.flags for s in linear.inputs)
    assert all(s.witness is not None and s.witness.distance >= 0.99 * s.margin_radius.lower for s in linear.inputs)


def test_a_slope_that_reaches_its_boundary_is_not_said_to_end_before_it() -> None:
    """Seen: a bend let the lower limit give way, and the reason said that the decision was even at 100 %."""
    found = check_radius(
        Interval(value=2.0, lower=2.0, upper=2.0),
        [],
        Witness(distance=1.7, predicted_class=1),
        9.0,
        SlopeWalk([], reach=1.0, bend=0.4),
    )
    assert found.flags == ["local_radius_overstates"]
    assert (found.radius.value, found.radius.upper) == (1.7, 1.7)
    assert found.radius.lower <= 1.7
    assert "1.7 was found that changes the decision" in found.reasons[0]


def test_a_decision_that_changed_once_is_no_upper_limit_where_answers_are_random() -> None:
    radius, flipped = Interval(value=2.0, lower=1.8, upper=2.2), [rung(0.001, 2.0), rung(0.5, 2.0, 1)]
    walk = SlopeWalk([Point(0.3, 1.0, True, 0.3, np.empty(0))])
    for profile, walked, at in ((flipped, None, 0.5), ([], walk, 0.3)):
        found = check_radius(radius, profile, None, np.inf, walked, random=True)
        assert found.radius == Interval(value=2.0, lower=at, upper=2.2)
        assert set(found.flags) <= {"radius_not_checked"}
    witness = Witness(distance=0.5, predicted_class=1)
    held = check_radius(radius, flipped, witness, np.inf, random=True)
    assert held.radius == Interval(value=0.5, upper=0.5)
    assert "counterexample_within_radius" in held.flags


def test_witnesses_of_random_answers_lie_beyond_the_boundary() -> None:
    """Of a linear model nothing nearer than the radius changes the decision. Seen: 11 of 123 witnesses did."""
    w, rng = np.array([1.0, -2.0, 0.5, 1.0]), np.random.default_rng(0)
    x = rng.standard_normal((60, 4))
    x += np.outer(rng.choice([-1, 1], 60) * rng.uniform(0.2, 1.5, 60) - x @ w, w) / (w @ w)

    found = short = 0
    for seed in range(4):
        noise = np.random.default_rng(seed)

        def noisy(rows: np.ndarray, noise: np.random.Generator = noise) -> np.ndarray:
            p = 1 / (1 + np.exp(rows @ w + 0.05 * noise.standard_normal(len(rows))))
            return np.stack([p, 1 - p], axis=1)

        report = audit(noisy, x, queries=200, seed=seed, scale="raw")
        distances = [(s.witness.distance, abs(x[s.index] @ w) / np.linalg.norm(w)) for s in report.inputs if s.witness]
        found, short = found + len(distances), short + sum(at < radius for at, radius in distances)
    assert found >= 120
    assert short <= 7  # at 1 % of 240, more once in 1,000 times
