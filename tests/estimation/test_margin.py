"""The margin radius: against the closed form of linear softmax models, ties, and classes that do not move."""

from __future__ import annotations

import numpy as np
import pytest

from fimaudit.estimation.margin import peak_with_gaps
from fimaudit.estimation.noise import OutputQuality
from fimaudit.estimation.predictable import LEARNING
from fimaudit.estimation.spectral_norm import Limits, energy_quantile
from tests.cases import CASES, Case, linear, log_softmax, margin_of, normal_inputs

LINEAR = [
    Case(f"linear K={k} d={d}", linear(k, k, d, gain), normal_inputs(k, 3, d))
    for k, d, gain in ((2, 40, 1.0), (5, 40, 3.0), (30, 60, 1.0))
] + [case for case in CASES if case.name.startswith("linear K=30")]


def slopes(case: Case, index: int, V: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    z = case.model.logits(case.x[index][None])[0]
    J = case.model.jacobian(case.x[index])
    log_p = log_softmax(z)
    return V @ (J - np.exp(log_p) @ J).T, log_p, int(z.argmax())


@pytest.mark.parametrize("case", LINEAR, ids=lambda c: c.name)
def test_value_is_the_distance_to_the_nearest_hyperplane(case: Case) -> None:
    """All directions of the space at once: (z_c - z_k) / |w_c - w_k|, the smallest over k, exactly."""
    d = case.x[0].size
    for index in range(len(case.x)):
        truth = case.truth(index)
        logs, log_p, top = slopes(case, index, np.sqrt(d) * np.eye(d))
        found = margin_of(logs, log_p, top, 0.95, d)
        assert found is not None
        assert found.radius.value == pytest.approx(truth.radius, rel=1e-9)
        assert found.rival == truth.rival
        assert found.radius.lower == pytest.approx(truth.radius, rel=1e-9)  # nothing is left to chance
        # moving that far along the normal changes the decision, a little less does not
        normal = case.model.V[truth.rival] - case.model.V[top]
        for share, decision in ((0.999, top), (1.001, truth.rival)):
            moved = case.x[index] + share * truth.radius * normal / np.linalg.norm(normal)
            assert case.model.logits(moved[None])[0].argmax() == decision


@pytest.mark.parametrize("case", LINEAR, ids=lambda c: c.name)
def test_limits_hold_the_value_and_narrow_with_directions(case: Case) -> None:
    d = case.x[0].size
    V = np.sign(np.random.default_rng(0).standard_normal((400, d)))
    wide, narrow = (margin_of(*slopes(case, 0, V[:m]), 0.95) for m in (30, 400))
    assert wide is not None
    assert narrow is not None
    for found in (wide, narrow):
        assert found.radius.lower < found.radius.value < found.radius.upper
    assert narrow.radius.upper / narrow.radius.lower < wide.radius.upper / wide.radius.lower
    assert narrow.radius.value == pytest.approx(case.truth(0).radius, rel=0.15)


def test_radius_scales_with_the_unit_and_not_with_the_logits() -> None:
    case = LINEAR[1]
    V = np.sign(np.random.default_rng(0).standard_normal((60, 40)))
    logs, log_p, top = slopes(case, 0, V)
    one = margin_of(logs, log_p, top, 0.95)
    z = case.model.logits(case.x[0][None])[0]
    sharper = margin_of(
        V @ (5 * case.model.V - np.exp(log_softmax(5 * z)) @ (5 * case.model.V)).T, log_softmax(5 * z), top, 0.95
    )
    doubled = margin_of(2 * logs, log_p, top, 0.95)
    assert one is not None
    assert sharper is not None
    assert doubled is not None
    for name in ("value", "lower", "upper"):
        assert getattr(sharper.radius, name) == pytest.approx(getattr(one.radius, name))
        assert getattr(doubled.radius, name) == pytest.approx(getattr(one.radius, name) / 2)


def test_a_tie_is_a_changed_decision_at_distance_zero() -> None:
    logs = np.random.default_rng(0).standard_normal((20, 3))
    found = margin_of(logs, np.log([0.4, 0.4, 0.2]), 0, 0.95)
    assert found is not None
    assert (found.radius.value, found.radius.lower, found.radius.upper) == (0, 0, 0)
    assert found.rival == 1


@pytest.mark.parametrize(("share", "counts"), [(0.995, False), (0.9995, True)])
def test_the_spacing_of_numbers_counts_beside_a_near_tie(share: float, counts: bool) -> None:
    """Elsewhere the spacing of float32 leaves at most 2e-4 of the gap open, which no limit allows for."""
    base = np.array([[1.0, share, 0.4]]) / (1.4 + share)
    assert (OutputQuality().view(base, base).error is not None) == counts
    assert counts or 2 * 2.0**-24 / -np.log(share) < 2e-4


@pytest.mark.parametrize(("share", "known"), [(0.2, False), (0.3, True)])
def test_beside_a_rival_that_may_be_far_away_the_peak_has_no_value(share: float, known: bool) -> None:
    found = peak_with_gaps(Limits(4.0, 3.0, 5.0), np.array([share, 9.0]), np.zeros(2), np.array([1.0, 9.0]))
    assert np.isfinite(found.value) == known
    assert found.lower == (pytest.approx(3.0 * share**2) if known else 0.0)
    assert found.upper == np.inf


def test_classes_that_do_not_move_are_never_the_nearest() -> None:
    logs = np.zeros((20, 3))
    assert margin_of(logs, np.log([0.6, 0.3, 0.1]), 0, 0.95) is None
    logs[:, 2] = np.random.default_rng(0).standard_normal(20)
    found = margin_of(logs, np.log([0.6, 0.3, 0.1]), 0, 0.95)
    assert found is not None
    assert found.rival == 2
    assert np.isfinite([found.radius.value, found.radius.lower, found.radius.upper]).all()


def test_too_few_contrasts_leave_the_upper_limit_open() -> None:
    logs = np.random.default_rng(0).standard_normal((LEARNING, 3))
    found = margin_of(logs, np.log([0.6, 0.3, 0.1]), 0, 0.95)
    assert found is not None
    assert found.radius.upper == np.inf
    assert found.radius.lower == 0  # few sign vectors: no upper limit of any norm


@pytest.mark.parametrize("classes", [12, 70])
def test_the_upper_limit_follows_the_class_that_was_nearest_before_each_term(classes: int) -> None:
    rng = np.random.default_rng(classes)
    logs = rng.standard_normal((60, classes)) * (1.0 + 30.0 * np.linspace(0, 1, 60)[:, None] * rng.random(classes))
    log_p = np.append(-1.0, -2.0 - 0.1 * rng.random(classes - 1))
    margin = margin_of(logs, log_p, 0, 0.95)
    scaled = ((logs[:, :1] - logs[:, 1:]) / (log_p[0] - log_p[1:])) ** 2
    nearest = np.cumsum(scaled, axis=0)[LEARNING - 1 : -1].argmax(axis=1)
    assert len(set(nearest.tolist())) > 1
    total = scaled[np.arange(LEARNING, 60), nearest].sum()
    assert margin is not None
    assert margin.radius.upper == pytest.approx(np.sqrt(energy_quantile(0.975, 60 - LEARNING, None) / total), rel=1e-12)
