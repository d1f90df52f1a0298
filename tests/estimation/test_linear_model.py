"""The linear yardstick: fitted as scikit-learn fits it, and its distances are those of a search along the way."""

from __future__ import annotations

import numpy as np
import pytest

from fimaudit.estimation.linear_model import cross_fitted, fit, margin_radii


def blobs(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return rng.normal(size=(n, 5)) + 2.0 * rng.normal(size=(classes, 5))[y], y


def test_it_is_the_model_that_scikit_learn_fits() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = blobs(120, 3)
    weights, offsets = fit(x, y, 3)
    other = linear.LogisticRegression(tol=1e-8, max_iter=2000).fit(x, y)
    np.testing.assert_allclose(weights - weights.mean(axis=0), other.coef_ - other.coef_.mean(axis=0), atol=2e-3)
    np.testing.assert_allclose(offsets - offsets.mean(), other.intercept_ - other.intercept_.mean(), atol=5e-3)


def test_distances_lead_to_another_answer() -> None:
    rng = np.random.default_rng(1)
    slopes, offsets, x = rng.normal(size=(4, 6)), rng.normal(size=4), rng.normal(size=(30, 6))
    z = x @ slopes.T + offsets
    radii = margin_radii(z, slopes)
    for one, radius, answer in zip(x, radii, z.argmax(axis=1), strict=True):
        away = rng.normal(size=(4000, 6))
        away *= 0.999 * radius / np.linalg.norm(away, axis=1, keepdims=True)
        assert (((one + away) @ slopes.T + offsets).argmax(axis=1) == answer).all()
        ways = np.delete(slopes, answer, axis=0) - slopes[answer]
        ways *= 1.001 * radius / np.linalg.norm(ways, axis=1, keepdims=True)
        assert (((one + ways) @ slopes.T + offsets).argmax(axis=1) != answer).any()


def test_units_and_held_features() -> None:
    x, y = blobs(200, 2)
    free = cross_fitted(x, y, np.ones(5), 0)
    tenfold = cross_fitted(x, y, np.full(5, 10.0), 0)
    held = cross_fitted(x, y, np.array([1.0, 1, 0, 0, 0]), 0)
    assert free is not None
    assert tenfold is not None
    assert held is not None
    assert tenfold[0] == pytest.approx(free[0] / 10)
    assert held[0] > free[0]  # fewer features may change
    assert free[1] == held[1] > 0.8
    assert cross_fitted(x, np.zeros(200, dtype=np.int64), np.ones(5), 0) is None
