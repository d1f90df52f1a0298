"""What a finite step does to the norm, against what the limits allow for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fimaudit import audit
from fimaudit.estimation.estimate import Estimate
from fimaudit.estimation.margin import Margin
from fimaudit.estimation.secants import contrasts
from fimaudit.estimation.spectral_norm import Limits
from fimaudit.measurement.context import InputStep
from fimaudit.measurement.pilot import Steps
from fimaudit.measurement.plateau import FLAT
from tests.cases import normal_inputs

FEATURES, CLASSES, HIDDEN, INPUTS = 400, 5, 200, 20


class Network:
    """Softmax of V a(U x + b), in float32, many units near their bend: curved for tanh, kinked for ReLU."""

    def __init__(self, seed: int, kinked: bool) -> None:
        rng = np.random.default_rng(seed)
        self.kinked = kinked
        self.U = 10.0 * rng.standard_normal((HIDDEN, FEATURES)) / np.sqrt(FEATURES)
        self.b = 0.3 * rng.standard_normal(HIDDEN)
        self.V = 2.0 * rng.standard_normal((CLASSES, HIDDEN)) / np.sqrt(HIDDEN)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        z = np.atleast_2d(rows).astype(np.float64) @ self.U.T + self.b
        logits = (np.maximum(z, 0.0) if self.kinked else np.tanh(z)) @ self.V.T
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (e / e.sum(axis=1, keepdims=True)).astype(np.float32)

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """(K, d) of 2 sqrt(p) at x."""
        z = self.U @ x.astype(np.float64) + self.b
        slope = (z > 0).astype(float) if self.kinked else 1 - np.tanh(z) ** 2
        of_logits = (self.V * slope) @ self.U
        p = self(x)[0].astype(np.float64)
        return np.sqrt(p)[:, None] * (of_logits - p @ of_logits)


@pytest.fixture
def widened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[InputStep, float]]:
    """The step of every estimate that is widened, and the value by which its input is found again."""
    seen: list[tuple[InputStep, float]] = []
    widen = InputStep.widened

    def recorded(step: InputStep, estimate: Estimate, **how: Any) -> Estimate:
        seen.append((step, estimate.spectral.value))
        return widen(step, estimate, **how)

    monkeypatch.setattr(InputStep, "widened", recorded)
    return seen


def top(y: np.ndarray) -> float:
    return float(np.linalg.eigvalsh(y.T @ y / len(y))[-1])


@pytest.mark.parametrize("kinked", [False, True])
def test_what_a_step_does_to_the_norm_is_within_what_is_allowed_for_it(
    kinked: bool, widened: list[tuple[InputStep, float]]
) -> None:
    """The same directions at the step and along the exact Jacobian, so that nothing but the step is between the two."""
    off, allowed, before = [], [], []
    for seed in range(4):
        network, x = Network(seed, kinked), normal_inputs(seed, INPUTS, FEATURES).astype(np.float32)
        widened.clear()
        for one in audit(network, x, queries=60, seed=seed).inputs:
            step = next(step for step, value in widened if value == one.spectral_norm.value)
            assert step.finite is None
            if step.bend is None:
                continue
            V = np.random.default_rng(one.index).choice([-1.0, 1.0], (100, FEATURES))
            h, at = step.rho / np.sqrt(FEATURES), x[one.index]
            sent = contrasts(2.0 * np.sqrt(network((at + h * V).astype(np.float32)).astype(np.float64)) / h)
            off.append(abs(np.log(top(sent) / top(contrasts(V @ network.jacobian(at).T)))))
            allowed.append(step.norm_error)
            before.append(step.error)
    assert len(off) >= 0.8 * 4 * INPUTS
    assert np.mean(np.array(off) > allowed) <= 0.10
    assert np.median(allowed) <= 0.7 * np.median(before)


def test_the_nearer_the_end_of_the_linear_range_the_more_is_allowed_for() -> None:
    bends = [Steps(1.0, [], 1, reach=reach).bend for reach in (0.0, 1.0, 5.0, 21.0, 31.0, 1e3, np.inf)]
    assert bends == pytest.approx([FLAT / 2, FLAT / 2, FLAT / 2, 0.01, 0.2 / 30, 0.005, FLAT / 2])
    assert Steps(1.0, [], 1, reach=1e3, wavers=True).bend == FLAT / 2


def test_an_input_that_found_a_step_of_its_own_or_is_behind_noise_is_given_all_that_a_plateau_may_move() -> None:
    assert InputStep(0.1, change=0.02).norm_error == InputStep(0.1, change=0.02).error == FLAT / 2 + 0.02
    assert InputStep(0.1, change=0.02, bend=0.005).norm_error == 0.02
    assert InputStep(0.1, change=0.02, bend=0.005).error == FLAT / 2 + 0.02


@pytest.mark.parametrize("exact", [False, True])
def test_norm_and_trace_widen_by_the_error_of_norms_and_what_comes_from_log_p_by_all_of_it(exact: bool) -> None:
    step, one = InputStep(0.1, change=0.02, bend=0.005), Limits(1.0, 0.8, 1.25)
    wide = step.widened(Estimate(one, one, one, Margin(one, 1), None), exact=exact)
    of_norms, of_odds = (0.02, 0.02) if exact else (0.02, FLAT / 2 + 0.02)
    assert wide.peak is not None
    assert wide.margin is not None
    found = [wide.spectral, wide.trace, wide.peak, wide.margin.radius]
    for limits, by in zip(found, [of_norms, of_norms, of_odds, of_odds / 2], strict=True):
        assert (limits.value, limits.lower, limits.upper) == pytest.approx((1.0, 0.8 * np.exp(-by), 1.25 * np.exp(by)))
