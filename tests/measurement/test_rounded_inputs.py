"""A smooth network behind a front end that rounds its inputs, as files of images do: the displacement spans the levels."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from fimaudit import Report, audit
from fimaudit.measurement.ladder import most_fallen


@cache
def network() -> tuple[MLPClassifier, np.ndarray]:
    """A network on digits of 20 x 20 pixels in [0, 1], and images that it was not fitted to."""
    data = load_digits()
    x = np.array([zoom(image / 16, 2.5, order=1).ravel() for image in data.images], np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], data.target[order]
    fitted = MLPClassifier((32,), activation="tanh", alpha=1.0, random_state=0, tol=10.0, n_iter_no_change=30).fit(
        x[:800], y[:800]
    )
    return fitted, x[800:]


def images(where: str, levels: int, count: int, seed: int) -> np.ndarray:
    """Images whose pixels lie on the levels, at the edges between them (k / 16), or anywhere."""
    x, rng = network()[1], np.random.default_rng(seed)
    x = x[rng.permutation(len(x))[:count]]
    if where == "levels":
        x = np.round(x * levels) / levels
    if where == "anywhere":
        x = np.clip(x + rng.uniform(-0.5, 0.5, x.shape) / levels, 0, 1)
    return x.astype(np.float32)


def exact_norm(x: np.ndarray) -> float:
    """Of the network without rounding, by central differences."""
    fitted = network()[0]
    steps = 1e-4 * np.eye(x.size)
    ahead, behind = (2 * np.sqrt(fitted.predict_proba(x + sign * steps)) for sign in (1, -1))
    return float(np.linalg.norm((ahead - behind) / 2e-4, 2) ** 2)


def measured(where: str, levels: int, count: int, seed: int, bounds: dict[str, float]) -> tuple[Report, np.ndarray]:
    """The report, and the spectral norms over those of the network without rounding."""
    x, fitted = images(where, levels, count, seed), network()[0]
    report = audit(lambda rows: fitted.predict_proba(np.round(rows * levels) / levels), x, queries=200, seed=seed, **bounds)
    values = np.array([one.spectral_norm.value or np.nan for one in report.inputs])
    return report, values / [exact_norm(one) for one in x]


@pytest.mark.parametrize("bounds", [{}, {"lower": 0.0, "upper": 1.0}], ids=["unbounded", "bounded"])
@pytest.mark.parametrize("count", [4, 16, 40])
@pytest.mark.parametrize("where", ["levels", "edges", "anywhere"])
def test_eight_bits_leave_the_norm_of_the_network(where: str, count: int, bounds: dict[str, float]) -> None:
    for seed in range(2):
        report, ratios = measured(where, 255, count, seed, bounds)
        assert all(one.kind == "finite_scale" for one in report.inputs)
        assert 1 / 1.5 < np.nanmedian(ratios) < 1.5, (seed, report.step.displacement, report.warnings)
        assert report.warnings


@pytest.mark.parametrize("where", ["levels", "edges", "anywhere"])
@pytest.mark.parametrize("levels", [63, 15, 7])
def test_smooth_is_not_said_of_what_is_not(where: str, levels: int) -> None:
    for seed in range(2):
        report, ratios = measured(where, levels, 16, seed, {"lower": 0.0, "upper": 1.0})
        assert all(one.kind == "finite_scale" for one in report.inputs)
        if any("smooth over" in warning for warning in report.warnings):
            assert 0.5 < np.nanmedian(ratios) < 2.0, (seed, report.step.displacement, report.warnings)


def test_a_logistic_of_two_classes_falls_as_far_as_its_even_share_allows() -> None:
    z = np.linspace(0.01, 6.0, 200)
    roots = [2 * np.sqrt([1 / (1 + np.exp(-sign * z)), 1 / (1 + np.exp(sign * z))]) for sign in (1, 0, -1)]
    odd, even = (roots[0] - roots[2]) / 2, (roots[0] + roots[2]) / 2 - roots[1]
    share = (even**2).sum(axis=0) / (even**2 + odd**2).sum(axis=0)
    fallen = z**2 / 4 / (odd**2).sum(axis=0)  # each root moves by z / sqrt(8) in the first order
    np.testing.assert_allclose(most_fallen(share), fallen, rtol=1e-4)
