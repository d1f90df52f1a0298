"""The top eigenvalue and the trace: exact algebra, bias on the theory's spectra, and what the published baseline reads."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from fimaudit.baselines import rayleigh_max
from fimaudit.estimation.predictable import DENSE_CLASSES, LEARNING, block_starts, past_directions, predicted_energy
from fimaudit.estimation.secants import contrasts
from fimaudit.estimation.spectral_norm import (
    corrected_top,
    energy_quantile,
    spectral_limits,
    top_pair,
    trace_limits,
    upper_factor,
)
from fimaudit.perturbations.random_signs import generator, packed_signs

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("terms", [1, 4, 50, 198])
@pytest.mark.parametrize("probability", [0.001, 0.025, 0.5, 0.975])
def test_energy_quantile_is_chi_squared_or_beta(terms: int, probability: float) -> None:
    assert energy_quantile(probability, terms, None) == pytest.approx(stats.chi2.ppf(probability, terms), rel=1e-9)
    expected = 300 * stats.beta.ppf(probability, terms / 2, (300 - terms) / 2)
    assert energy_quantile(probability, terms, 300) == pytest.approx(expected, rel=1e-8)
    assert energy_quantile(probability, terms, terms) == terms  # all of the space: nothing is left to chance


@pytest.mark.parametrize(("terms", "factor"), [(50, 1.545), (100, 1.35), (200, 1.23)])
def test_upper_factor_is_the_theorys(terms: int, factor: float) -> None:
    assert upper_factor(0.025, terms, None) == pytest.approx(factor, rel=5e-3)


def test_few_sign_vectors_have_no_upper_limit() -> None:
    """A gradient of one feature shows no contrast with probability 2^-terms: below the tail only from six terms on."""
    for terms in range(1, 6):
        assert upper_factor(0.025, terms, None) == np.inf
    assert upper_factor(0.025, 6, None) == pytest.approx(6 / stats.chi2.ppf(0.025 - 2.0**-6, 6))
    assert np.isfinite(upper_factor(0.25, 3, None))
    assert np.isfinite(upper_factor(0.025, 3, 20))  # orthonormal directions are no sign vectors
    limits, _ = spectral_limits(np.eye(4, 3), 0.95)
    assert limits.upper == np.inf
    assert trace_limits(np.eye(4, 3), 0.95).upper == np.inf


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (30, 30), (1, 5), (5, 1)])
def test_top_pair_is_that_of_the_dense_gram(shape: tuple[int, int]) -> None:
    y = np.random.default_rng(0).standard_normal(shape)
    values, direction = top_pair(y)
    dense = np.linalg.eigvalsh(y.T @ y / len(y))[::-1]
    np.testing.assert_allclose(values[: min(shape)], dense[: min(shape)], atol=1e-12)
    assert np.linalg.norm(direction) == pytest.approx(1)
    assert direction @ (y.T @ y / len(y)) @ direction == pytest.approx(dense[0])


def test_top_pair_finds_classes_that_share_nothing_with_the_rest() -> None:
    """The top eigenvector lies in one of two separate blocks; and where all is zero, so is the value."""
    y = np.zeros((100, 60))
    y[:50, :50] = 0.6 * np.eye(50) + 0.1
    y[50, 55] = 5.2
    values, direction = top_pair(y)
    dense, vectors = np.linalg.eigh(y.T @ y / 100)
    assert values[0] == pytest.approx(dense[-1])
    assert abs(direction @ vectors[:, -1]) == pytest.approx(1)
    assert abs(direction[55]) < 1e-6
    assert not top_pair(np.zeros((100, 60)))[0].any()


def test_correction_is_the_formula_zeros_included() -> None:
    values = np.array([5.0, 2.0, 1.0])
    terms = 6  # three more companion eigenvalues are zero
    expected = 5 / (1 / 3 + 1 / 4 + 3 / 5)
    assert corrected_top(values, terms, None) == pytest.approx(expected)
    assert corrected_top(values, terms, 12) == pytest.approx(5 - 0.5 * (5 - expected))
    assert corrected_top(np.array([5.0]), 1, None) == 5
    assert corrected_top(np.array([5.0, 5.0]), 6, None) == 5
    assert corrected_top(np.zeros(2), 6, None) == 0


@pytest.mark.parametrize("classes", [3, DENSE_CLASSES, DENSE_CLASSES + 1, 60])
def test_predicted_directions_come_from_the_past_alone(classes: int) -> None:
    rng = np.random.default_rng(classes)
    y = rng.standard_normal((40, classes)) * np.r_[4.0, np.ones(classes - 1)]
    starts = block_starts(40)
    assert starts[0] == LEARNING
    assert (np.diff(starts) > 0).all()
    before = past_directions(y, starts)
    np.testing.assert_allclose(np.linalg.norm(before, axis=1), 1)
    for i, start in enumerate(starts):
        other = y.copy()
        other[start:] = rng.standard_normal(other[start:].shape) * 9
        np.testing.assert_allclose(abs(past_directions(other, starts)[i] @ before[i]), 1)
        top = np.linalg.eigvalsh(y[:start].T @ y[:start])[-1]
        covered = ((y[:start] @ before[i]) ** 2).sum()
        assert covered <= top * (1 + 1e-12)
        assert covered >= (1 - 1e-9 if classes <= DENSE_CLASSES else 0.8) * top


@pytest.mark.parametrize("classes", [3, DENSE_CLASSES + 1])
def test_first_contrasts_that_are_zero_cost_little(classes: int) -> None:
    """Directions are predicted from the first ones; answers that were equal there must not silence the rest."""
    y = np.random.default_rng(0).standard_normal((60, classes))
    alone, _ = spectral_limits(y, 0.95)
    late, _ = spectral_limits(np.vstack([np.zeros((LEARNING, classes)), y]), 0.95)
    assert late.lower >= 0.75 * alone.lower
    nothing, _ = spectral_limits(np.zeros((4, classes)), 0.95)
    assert (nothing.value, nothing.lower, nothing.upper) == (0, 0, np.inf)  # of so few terms


@pytest.mark.parametrize("scale", [1e-70, 1e60])
def test_top_pair_has_no_scale(scale: float) -> None:
    y = np.random.default_rng(0).standard_normal((70, 40))
    one, other = top_pair(y), top_pair(scale * y)
    np.testing.assert_allclose(other[0], scale**2 * one[0], rtol=1e-9)
    assert abs(one[1] @ other[1]) == pytest.approx(1)


def test_predicted_energy_counts_its_terms() -> None:
    y = np.random.default_rng(0).standard_normal((20, 4))
    assert predicted_energy(y)[1] == 20 - LEARNING
    assert predicted_energy(y[:LEARNING]) == (0.0, 0)
    known = np.array([1.0, 0, 0, 0])
    energy, terms = predicted_energy(y, known)
    assert terms == 20
    assert energy == pytest.approx((y[:, 0] ** 2).sum())
    assert predicted_energy(np.zeros((20, 40)))[0] == 0


def test_limits_scale_with_the_square_of_the_secants() -> None:
    y = np.random.default_rng(2).standard_normal((60, 5))
    one, direction = spectral_limits(y, 0.95)
    ten, _ = spectral_limits(10 * y, 0.95)
    for a, b in zip((one.value, one.lower, one.upper), (ten.value, ten.lower, ten.upper), strict=True):
        assert b == pytest.approx(100 * a)
    assert one.lower <= one.value <= one.upper
    wide, _ = spectral_limits(y, 0.99)
    assert wide.lower < one.lower < one.upper < wide.upper
    turned = np.linalg.qr(np.random.default_rng(3).standard_normal((5, 5)))[0]
    same, moved = spectral_limits(y @ turned, 0.95)  # no class basis is special
    assert same.value == pytest.approx(one.value)
    assert same.lower == pytest.approx(one.lower)
    assert abs(moved @ (direction @ turned)) == pytest.approx(1)


#: Spectrum, directions, the bias that the theory states for m = 50, and the room for our 300 repetitions.
BIAS = {
    "rank one": (np.array([1.0]), 50, 0.0, 0.04),
    "K=10, fast": (0.3 ** np.arange(9), 50, 0.008, 0.04),
    "K=10, fast, m=20": (0.3 ** np.arange(9), 20, 0.0, 0.05),
    "K=100, 1/j": (1.0 / np.arange(1, 100), 50, -0.016, 0.04),
    "K=1000, j^-1.5": (np.arange(1.0, 1000) ** -1.5, 50, 0.03, 0.04),
    "K=10, fast, m=199": (0.3 ** np.arange(9), 199, 0.0, 0.02),
}


@pytest.mark.parametrize("name", BIAS)
def test_bias_of_the_corrected_top_value(name: str) -> None:
    spectrum, m, stated, room = BIAS[name]
    rng = np.random.default_rng(sum(name.encode()))
    values = []
    for _ in range(300):
        y = contrasts(rng.standard_normal((m + 1, len(spectrum))) * np.sqrt(spectrum))
        values.append(corrected_top(top_pair(y)[0], m, None))
    assert np.mean(values) - 1 == pytest.approx(stated, abs=room)


def test_trace_is_unbiased_with_the_variance_of_the_theory() -> None:
    """Rademacher directions and a dense gradient: relative variance 2 sum(lambda^2) / (m (sum lambda)^2)."""
    rng = np.random.default_rng(5)
    spectrum, d, m = np.array([1.0, 0.5, 0.25]), 64, 20
    A = np.sqrt(spectrum)[:, None] * np.linalg.qr(rng.standard_normal((d, 3)))[0].T
    values = []
    for i in range(800):
        V = np.unpackbits(packed_signs(generator(0, i), m + 1, d), axis=1, count=d) * 2.0 - 1
        values.append(trace_limits(contrasts(V @ A.T), 0.95).value)
    variance = 2 * (spectrum**2).sum() / m
    assert np.mean(values) == pytest.approx(spectrum.sum(), abs=4 * np.sqrt(variance / 800))
    assert np.var(values) == pytest.approx(variance, rel=4 * np.sqrt(2 / 800) + 0.05)


@pytest.mark.parametrize(("d", "reading"), [(784, 0.009), (3072, 0.0024), (150_528, 0.00005)])
def test_rayleigh_max_reads_a_hundredth_of_a_rank_one_spectral_norm(d: int, reading: float) -> None:
    """Its expectation, exactly: the largest of 100 Beta(1/2, (d - 1)/2), as DESIGN states it."""
    law = stats.beta(0.5, (d - 1) / 2)
    expected = integrate.quad(lambda t: 1 - law.cdf(t) ** 100, 0, 60 / d)[0]
    assert expected == pytest.approx(reading, rel=0.1)
    rng = np.random.default_rng(d)
    features = min(d, 784)  # by simulation where that is cheap
    if features == d:
        g = rng.standard_normal(d)
        readings = []
        for _ in range(150):
            V = rng.standard_normal((100, d))
            V /= np.linalg.norm(V, axis=1, keepdims=True)
            readings.append(rayleigh_max((V @ g)[:, None]) / (g @ g))
        error = np.std(readings) / np.sqrt(len(readings))
        assert np.mean(readings) == pytest.approx(expected, abs=4 * error)
