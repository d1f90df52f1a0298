"""Few features, noisy answers: least squares finds the whole Jacobian, and its intervals hold."""

from __future__ import annotations

import numpy as np
import pytest

from fimaudit import InputDomain, audit
from fimaudit.estimation.noise import OutputQuality
from fimaudit.measurement.least_squares import antipodal_pairs, estimate_pairs

FEATURES, CLASSES = 12, 4


def probabilities(rows: np.ndarray) -> np.ndarray:
    """A softmax regression."""
    weights = np.random.default_rng(0).standard_normal((FEATURES, CLASSES))
    z = np.asarray(rows, float) @ weights
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def truth(x: np.ndarray) -> tuple[float, float, float]:
    """Spectral norm, trace and margin radius at x."""
    weights = np.random.default_rng(0).standard_normal((FEATURES, CLASSES))
    p = probabilities(x[None])[0]
    gradients = weights - (weights @ p)[:, None]
    fisher = (gradients * p) @ gradients.T
    top = int(p.argmax())
    radii = [np.log(p[top] / p[k]) / np.linalg.norm(weights[:, top] - weights[:, k]) for k in range(CLASSES) if k != top]
    return float(np.linalg.eigvalsh(fisher)[-1]), float(np.trace(fisher)), float(min(radii))


@pytest.mark.parametrize("sigma", [0.0, 1e-5, 1e-4])
def test_intervals_hold_at_every_level_of_noise(sigma: float) -> None:
    """150 inputs: norm, trace and radius inside their 95 % interval as often, less 3 standard errors; no bias."""
    rng = np.random.default_rng(1)
    space = InputDomain().resolve(np.zeros((1, FEATURES)), "float64")
    held: list[bool] = []
    errors = []
    for index in range(150):
        x = 0.3 * rng.standard_normal(FEATURES)
        pairs = antipodal_pairs(x, index, space, 1e-2, 120, 0)
        assert pairs is not None
        base = probabilities(x[None])
        answers = probabilities(pairs.rows.build(0, len(pairs.rows)))
        answers = answers + sigma * rng.standard_normal(answers.shape)
        view = OutputQuality(quantum=1e-9 if sigma else 0.0).view(base, base[:0])
        found, descent = estimate_pairs(view, pairs, answers, 0.95)
        assert found is not None
        assert found.margin is not None
        assert descent is not None
        exact = truth(x)
        for limits, value in zip((found.spectral, found.trace, found.margin.radius), exact, strict=True):
            held.append(limits.lower <= value <= limits.upper)
        errors.append(found.spectral.value / exact[0] - 1)
    assert np.mean(held) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / len(held) * 3)  # three numbers of one input go together
    assert abs(np.mean(errors)) <= 3 * np.std(errors) / np.sqrt(len(errors)) + 1e-4
    assert np.median(np.abs(errors)) <= (1e-4 if sigma == 0 else 0.1)


def test_too_few_pairs_or_features_that_hardly_move_are_left_alone() -> None:
    x = np.zeros(FEATURES)
    space = InputDomain().resolve(x[None], "float64")
    assert antipodal_pairs(x, 0, space, 1e-2, 2 * FEATURES + 10, 0) is None
    narrow = InputDomain(lower=np.r_[-1e-6, np.full(11, -1.0)], upper=np.r_[1e-6, np.full(11, 1.0)]).resolve(
        x[None], "float64"
    )
    assert antipodal_pairs(x, 0, narrow, 1e-1, 120, 0) is None


def test_a_rounded_table_is_measured_this_way_and_better_than_by_random_directions() -> None:
    rng = np.random.default_rng(2)
    x = 0.3 * rng.standard_normal((40, FEATURES))
    rounded = audit(lambda rows: np.round(probabilities(rows), 3), x, queries=200, input_shape=(FEATURES,))
    used = [s for s in rounded.inputs if s.method == "least-squares"]
    assert len(used) > 10
    errors = [s.spectral_norm.value / truth(x[s.index])[0] - 1 for s in used]
    assert np.median(np.abs(errors)) < 0.03  # random directions alone leave 7 %
    assert np.mean([s.spectral_norm.lower <= truth(x[s.index])[0] <= s.spectral_norm.upper for s in used]) >= 0.85
