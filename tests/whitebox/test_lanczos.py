"""Lanczos, and what its products serve, on matrices whose eigenvalues are known; no network."""

from __future__ import annotations

import numpy as np
import pytest

from fimaudit.estimation.peak_norm import peak_norm, peak_norms
from fimaudit.estimation.spectral_norm import sample_spectrum
from fimaudit.estimation.tempering import temper
from fimaudit.whitebox.krylov_basis import input_basis, margin_candidates
from fimaudit.whitebox.lanczos import lanczos_top, random_start
from fimaudit.whitebox.peak_search import norms_and_peaks

SPECTRA = {
    "rank 1": lambda k: np.where(np.arange(k) == 0, 1.0, 0.0),
    "fast decay": lambda k: 2.0 ** -np.arange(k),
    "slow decay": lambda k: 1.0 / (1 + np.arange(k)),
    "two equal": lambda k: np.where(np.arange(k) < 2, 1.0, 0.1),
    "flat": lambda k: np.ones(k),
    "zero": lambda k: np.zeros(k),
}


def gram_case(spectrum: str, inputs: int = 3, classes: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """C = J_L J_L^T with p . J_L = 0, as log-probabilities have it, and s = sqrt(p)."""
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.full(classes, 0.3), inputs) + 1e-6
    p /= p.sum(1, keepdims=True)
    q = np.linalg.qr(rng.standard_normal((inputs, classes, classes)))[0]
    rows = q * np.sqrt(SPECTRA[spectrum](classes)) @ q.mT
    rows = rows - (p[:, None] @ rows)
    return rows @ rows.mT, np.sqrt(p)


def times(gram: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image = (gram @ w[..., None])[..., 0]
    return image, (w * image).sum(-1)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_top_eigenpair(spectrum: str) -> None:
    gram, roots = gram_case(spectrum)
    fisher = roots[:, :, None] * gram * roots[:, None]
    exact = np.linalg.eigvalsh(fisher)[:, -1]
    start = random_start(roots, np.random.default_rng(0))

    def product(w: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return times(gram[active], w)

    found = lanczos_top(product, roots, start, tolerance=1e-6, most=30)
    np.testing.assert_allclose(found.value, exact, rtol=1e-9, atol=1e-12)
    assert (found.residual <= 1e-6).all()
    assert (found.value <= exact * (1 + 1e-12) + 1e-12).all()
    applied = (fisher @ found.vector[..., None])[..., 0]
    np.testing.assert_allclose(applied, found.value[:, None] * found.vector, atol=2e-6 * max(exact.max(), 1e-9))


@pytest.mark.parametrize(("classes", "ratio"), [(100, 3.0), (1000, 1.1), (1000, 1.5)])
def test_an_exchange_that_is_an_eigenvector_does_not_end_the_search(classes: int, ratio: float) -> None:
    """Its residual is small at once, and the top eigenvector has only what is random of the start."""
    rng = np.random.default_rng(0)
    p = np.exp(3.0 * rng.standard_normal(classes))
    roots = np.sqrt(p / p.sum())
    exchange = -roots * roots.max()
    exchange[roots.argmax()] += 1.0
    vectors = np.linalg.qr(np.stack([roots, exchange, *rng.standard_normal((6, classes))], axis=1))[0][:, 1:]
    values = np.array([1.0, ratio, 0.1, 0.1, 0.1, 0.1, 0.1])

    def product(w: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        across = vectors / roots[:, None]
        image = ((w @ across) * values) @ across.T
        return image, (w * image).sum(1)

    start = random_start(np.tile(roots, (100, 1)), np.random.default_rng(1))
    for tolerance in (1e-4, 1e-2):
        found = lanczos_top(product, np.tile(roots, (100, 1)), start, tolerance=tolerance, most=300)
        assert found.value.min() > ratio * (1 - 1e-2)


def test_start_is_orthogonal_to_the_roots_and_of_unit_length() -> None:
    _, roots = gram_case("flat")
    start = random_start(roots, np.random.default_rng(0))
    np.testing.assert_allclose((start * roots).sum(1), 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(start, axis=1), 1)


def test_inputs_that_are_done_cost_nothing_more() -> None:
    gram, roots = gram_case("slow decay")
    gram[1] = 0.0
    asked: list[list[int]] = []

    def product(w: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(active.tolist())
        return times(gram[active], w)

    found = lanczos_top(product, roots, random_start(roots, np.random.default_rng(0)), tolerance=1e-8, most=30)
    assert asked[0] == [0, 1, 2]
    assert all(1 not in active for active in asked[1:])
    assert found.value[1] == 0
    assert found.residual[1] == 0


def test_steps_run_out_with_an_honest_residual() -> None:
    gram, roots = gram_case("slow decay")
    found = lanczos_top(
        lambda w, active: times(gram[active], w),
        roots,
        random_start(roots, np.random.default_rng(0)),
        tolerance=1e-12,
        most=2,
    )
    assert (found.residual > 1e-6).all()


def test_peak_at_two_classes_is_a_constant_over_the_squared_radius() -> None:
    for gap, norm in ((0.01, 3.0), (4.0, 0.2), (40.0, 1.0), (600.0, 5.0)):
        log_p = -np.logaddexp(0.0, [-gap, gap])
        p = np.exp(log_p)
        rows = np.array([[p[1], -p[0]]]) * norm
        value, temperature = peak_norm(rows, log_p)
        assert value * (gap / norm) ** 2 == pytest.approx(0.439229, rel=1e-5)
        assert temperature == pytest.approx(gap / 2.39936, rel=1e-3)


def test_peak_is_the_maximum_over_a_fine_scan_and_ignores_the_scale_of_logits() -> None:
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((12, 8))
    z = rng.standard_normal(8) * 3
    log_p = z - np.log(np.exp(z).sum())
    value, temperature = peak_norm(rows, log_p)
    scan = [sample_spectrum(temper(rows, log_p, t), 1)[0] for t in np.exp(np.linspace(-6, 6, 20001))]
    assert value == pytest.approx(max(scan), rel=1e-7)
    assert value >= max(scan) * (1 - 1e-9)
    sharp = 5 * z - np.log(np.exp(5 * z).sum())
    assert peak_norm(5 * rows, sharp)[0] == pytest.approx(value, rel=1e-7)
    assert peak_norm(rows, log_p, around=temperature * 1.3)[0] == pytest.approx(value, rel=1e-7)
    hidden = np.append(log_p, -np.inf)
    assert peak_norm(np.column_stack([rows, np.ones(12)]), hidden)[0] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_peak_of_few_rows_and_many_classes_is_the_maximum_over_a_scan(scale: float) -> None:
    """Few rows go by their moments under q_T, with the mean taken off."""
    rng = np.random.default_rng(8)
    for offset in (0.0, 1e3):  # a gradient that all classes share changes nothing
        rows = rng.standard_normal((3, 300)) + offset
        z = rng.standard_normal(300) * scale
        log_p = z - z.max() - np.log(np.exp(z - z.max()).sum())
        value, temperature = peak_norm(rows, log_p)
        scan = sample_spectrum(temper(rows, log_p, temperature * np.exp(np.linspace(-6, 6, 2001))), 1)[:, 0]
        assert value == pytest.approx(scan.max(), rel=1e-4)
        assert value >= scan.max() * (1 - 1e-9)


def test_peaks_of_several_inputs_are_those_of_each() -> None:
    rng = np.random.default_rng(9)
    rows = [rng.standard_normal((count, 60)) for count in (3, 7, 1, 30, 4)]
    rows[2] = 0 * rows[2]
    z = rng.standard_normal((5, 60)) * np.array([1.0, 5.0, 1.0, 2.0, 0.1])[:, None]
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    log_p[4, 3] = -np.inf
    for some in (np.arange(5), np.array([0, 1, 4]), np.array([1])):
        values, temperatures = peak_norms([rows[one] for one in some], log_p[some])
        each = [peak_norm(rows[one], log_p[one]) for one in some]
        np.testing.assert_allclose(values, [value for value, _ in each], rtol=1e-12)
        np.testing.assert_allclose(temperatures, [temperature for _, temperature in each], rtol=1e-6)
        around = peak_norms([rows[one] for one in some], log_p[some], 1.2 * temperatures)
        np.testing.assert_allclose(around[0], values, rtol=1e-9)


def test_margin_limits_hold_and_are_exact_inside_the_basis() -> None:
    rng = np.random.default_rng(5)
    jacobian = rng.standard_normal((9, 200)) * rng.uniform(0.1, 3, (9, 1))
    log_p = np.log(rng.dirichlet(np.ones(9)))
    top = int(np.argmax(log_p))
    truth = np.linalg.norm(jacobian[top] - jacobian, axis=1)
    w = rng.standard_normal((4, 9))
    basis = input_basis(w, w @ jacobian @ jacobian.T, ((w @ jacobian) ** 2).sum(1))
    v = basis.cotangents @ jacobian
    np.testing.assert_allclose(v @ v.T, np.eye(4), atol=1e-9)
    z = rng.choice([-1.0, 1.0], (16, 200))
    outside = basis.outside(z @ jacobian.T)
    np.testing.assert_allclose(outside, (z - z @ v.T @ v) @ jacobian.T, atol=1e-9)
    guess, highest = margin_candidates(basis, outside, log_p)
    assert (highest >= truth - 1e-9).all()
    np.testing.assert_allclose(guess, truth, rtol=0.6, atol=1e-9)
    whole = input_basis(np.eye(9), jacobian @ jacobian.T, (jacobian**2).sum(1))
    np.testing.assert_allclose(margin_candidates(whole, 0 * outside, log_p)[0], truth, rtol=1e-9, atol=1e-9)


def test_basis_extends_by_the_part_outside() -> None:
    rng = np.random.default_rng(6)
    jacobian = rng.standard_normal((7, 30))
    gram = jacobian @ jacobian.T
    w = rng.standard_normal((2, 7))
    basis = input_basis(w, w @ gram, ((w @ jacobian) ** 2).sum(1))
    more = rng.standard_normal(7)
    outside, inside = basis.split(more)
    np.testing.assert_allclose(inside, (basis.cotangents @ jacobian) @ (more @ jacobian), rtol=1e-9)
    larger = basis.extended(outside, outside @ gram, outside @ gram @ outside)
    v = larger.cotangents @ jacobian
    np.testing.assert_allclose(v @ v.T, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(larger.images, v @ jacobian.T, atol=1e-9)
    assert larger.extended(np.zeros(7), np.zeros(7), 0.0) is larger
    assert larger.extended(outside, outside @ gram, 1.1 * outside @ gram @ outside) is larger, "rounding is no direction"


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_norms_and_peaks_searched_together_are_those_of_each(spectrum: str) -> None:
    gram, roots = gram_case(spectrum)
    log_p = 2 * np.log(roots)
    start = random_start(roots, np.random.default_rng(0))
    asked: list[int] = []

    def product(w: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert (np.diff(active) > 0).all()
        asked.append(len(active))
        return times(gram[active], w)

    norms = lanczos_top(product, roots, start, tolerance=1e-6, most=30, least=6)
    alone = sum(asked)
    asked.clear()
    found, peaks = norms_and_peaks(product, roots, start, log_p, tolerance=1e-6, least=6, most=30, peak_tolerance=1e-6)
    np.testing.assert_array_equal(found.value, norms.value)
    np.testing.assert_array_equal(found.residual, norms.residual)
    assert sum(asked) == alone + sum(peak.steps for peak in peaks)
    for one, c, p in zip(peaks, gram, log_p, strict=True):
        values, vectors = np.linalg.eigh(c)
        exact = peak_norm((vectors * np.sqrt(np.maximum(values, 0.0))).T, p)[0]
        assert one.value == pytest.approx(exact, rel=1e-5, abs=1e-12)
        assert one.residual <= 1e-6
        assert (one.steps > 0) == (exact > 0)


def test_an_input_goes_on_to_its_peak_while_others_are_at_their_norm() -> None:
    gram, roots = gram_case("slow decay")
    gram[1] = np.outer(gram[1][0], gram[1][0])  # rank 1: done at once
    asked: list[int] = []

    def product(w: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(len(active))
        return times(gram[active], w)

    start = random_start(roots, np.random.default_rng(0))
    found, peaks = norms_and_peaks(
        product, roots, start, 2 * np.log(roots), tolerance=1e-8, least=4, most=30, peak_tolerance=1e-8
    )
    assert len(asked) < found.steps.max() + sum(peak.steps for peak in peaks)
    assert asked[int(found.steps[1])] == 3, "the second input's peak shares the pass of the others' norms"
