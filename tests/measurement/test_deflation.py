"""Exact directions beside random ones: unbiased whatever they are, within the box, and the plain formulas without any."""

from __future__ import annotations

import numpy as np
import pytest

from fimaudit.domain import InputDomain
from fimaudit.estimation.peak_norm import peak_limits
from fimaudit.estimation.predictable import DENSE_CLASSES, joint_starts, least_norm, past_directions
from fimaudit.estimation.spectral_norm import (
    corrected_top,
    energy_quantile,
    joint_rows,
    joint_top,
    sample_spectrum,
    spectral_limits,
    top_pair,
    trace_limits,
)
from fimaudit.measurement.deflation import deflated_gradient, deflated_rows, lift, project
from fimaudit.measurement.surrogates import leading
from fimaudit.perturbations.random_signs import generator, packed_signs
from tests.cases import log_softmax, margin_of

pytestmark = pytest.mark.usefixtures("one_thread")


def plane_of(seed: int, q: int, d: int) -> np.ndarray:
    """Orthonormal rows; the first axis among them, where a reflection is nearest to singular."""
    rows = np.random.default_rng(seed).standard_normal((q, d))
    rows[0] = np.eye(1, d)[0]
    return leading(rows, q)


@pytest.mark.parametrize(("q", "d"), [(1, 3), (2, 7), (3, 10), (8, 10)])
def test_lifted_coordinates_keep_lengths_and_leave_the_plane(q: int, d: int) -> None:
    subspace = plane_of(q, q, d)
    np.testing.assert_allclose(subspace @ subspace.T, np.eye(q), atol=1e-12)
    axes = lift(np.eye(d - q), subspace)
    np.testing.assert_allclose(axes @ axes.T, np.eye(d - q), atol=1e-12)
    np.testing.assert_allclose(axes @ subspace.T, 0, atol=1e-12)


@pytest.mark.parametrize(("q", "d"), [(1, 4), (2, 7), (5, 10), (9, 10)])
def test_gram_and_trace_over_all_sign_vectors_are_the_truth_whatever_the_plane(q: int, d: int) -> None:
    """The rows as they are sent, with a scale, a feature that is held and inputs at the edge: exact on average."""
    rng = np.random.default_rng(d)
    jacobian, subspace = rng.standard_normal((4, d)), plane_of(d, q, d)
    scale, frozen = rng.uniform(0.5, 3, d + 1), np.arange(d + 1) == 2
    x = np.where(np.arange(d + 1) % 2, 0.0, 1.0)
    space = InputDomain(lower=0.0, upper=1.0, scale=scale, frozen=frozen).resolve(x[None], "float64")
    rows = deflated_rows(x, 0, space, 1e-3, 2, 0, subspace)
    assert rows is not None
    every = np.packbits(np.arange(2**d)[:, None] >> np.arange(d) & 1, axis=1).astype(np.uint8)
    rows = type(rows)(x, subspace, every, None, 1e-3 / np.sqrt(d), space)
    built = rows.build(0, 2**d)
    assert built.min() >= 0
    assert built.max() <= 1
    assert (built[:, 2] == x[2]).all()
    middle = built.mean(axis=0)  # symmetric signs: the base that was moved inward
    sent = ((built - middle) / scale)[:, ~frozen] / rows.size
    placed, step = rows.exact
    along = ((placed[:q] - placed[q:]) / scale)[:, ~frozen] / (2 * step)
    np.testing.assert_allclose(along, subspace, atol=1e-9)
    np.testing.assert_allclose((placed[:q] + placed[q:]) / 2, np.tile(middle, (q, 1)), atol=1e-12)
    exact_part, y = along @ jacobian.T, sent @ jacobian.T
    truth = jacobian @ jacobian.T
    np.testing.assert_allclose(exact_part.T @ exact_part + y.T @ y / 2**d, truth, rtol=1e-6, atol=1e-8)
    assert trace_limits(y, 0.95, None, exact_part).value == pytest.approx(np.trace(truth), rel=1e-6)
    logs = np.log([0.4, 0.3, 0.2, 0.1])
    found = margin_of(y, logs, 0, 0.95, exact_part=exact_part)
    assert found is not None
    expected = min((logs[0] - logs[k]) / np.linalg.norm(jacobian[0] - jacobian[k]) for k in (1, 2, 3))
    assert found.radius.value == pytest.approx(expected, rel=1e-6)


def test_all_orthonormal_directions_of_the_complement_leave_nothing_to_chance() -> None:
    jacobian, subspace = np.random.default_rng(0).standard_normal((5, 40)), plane_of(1, 4, 40)
    axes = lift(np.sqrt(36) * np.eye(36), subspace)
    exact_part, y = subspace @ jacobian.T, axes @ jacobian.T
    truth = float(np.linalg.eigvalsh(jacobian @ jacobian.T)[-1])
    limits, direction = spectral_limits(y, 0.95, 36, None, exact_part)
    assert limits.value == pytest.approx(truth)
    assert limits.upper == pytest.approx(truth)
    assert 0.5 * truth < limits.lower <= truth * (1 + 1e-9)  # predicted directions are not the top one
    assert np.linalg.norm(jacobian.T @ direction) ** 2 == pytest.approx(truth)


@pytest.mark.parametrize("classes", [3, DENSE_CLASSES + 6])
def test_without_exact_rows_the_formulas_are_the_plain_ones(classes: int) -> None:
    y = np.random.default_rng(0).standard_normal((40, classes)) * np.r_[3.0, np.ones(classes - 1)]
    nothing = np.zeros((0, classes))
    log_p = log_softmax(np.arange(classes) / 3.0)
    assert spectral_limits(y, 0.95, exact_part=nothing)[0] == spectral_limits(y, 0.95)[0]
    assert trace_limits(y, 0.95, exact_part=nothing) == trace_limits(y, 0.95)
    assert peak_limits(y, log_p, 0.95, exact_part=nothing) == peak_limits(y, log_p, 0.95)
    assert margin_of(y, log_p, 0, 0.95, exact_part=nothing) == margin_of(y, log_p, 0, 0.95)


@pytest.mark.parametrize("classes", [3, 10, 60])
@pytest.mark.parametrize("features", [None, 60])
def test_directions_that_catch_nothing_change_nothing(classes: int, features: int | None) -> None:
    """Exact rows of nearly zero: the value by the same correction to first order; the limits nearly."""
    y = np.random.default_rng(1).standard_normal((40, classes)) * np.r_[4.0, np.ones(classes - 1)]
    tiny = 1e-9 * np.random.default_rng(2).standard_normal((2, classes))
    plain, with_tiny = spectral_limits(y, 0.95, features)[0], spectral_limits(y, 0.95, features, None, tiny)[0]
    # plain limits lie about the corrected value where the largest eigenvalue stands apart
    assert plain.upper * (1 - 1e-9) <= with_tiny.upper <= 1.03 * plain.upper
    assert with_tiny.value == pytest.approx(corrected_top(top_pair(y)[0], 40, features), rel=0.03)
    assert with_tiny.lower == pytest.approx(plain.lower, rel=0.25)


def test_two_classes_are_their_closed_form() -> None:
    """One class direction: lambda = c^2 + sigma^2, so each limit is c^2 plus the plain limit of the rest."""
    rng = np.random.default_rng(3)
    u = np.array([0.6, -0.8])
    y, exact_part = rng.standard_normal((30, 1)) * u, 2.0 * u[None]
    plain, _ = spectral_limits(y, 0.95, None, u)
    found, _ = spectral_limits(y, 0.95, None, u, exact_part)
    assert found.upper == pytest.approx(4 + plain.upper)
    assert found.lower == pytest.approx(4 + plain.lower)
    assert found.value == pytest.approx(4 + float((y**2).sum()) / 30)


def test_least_norm_solves_its_equation_and_is_the_plain_ratio_without_offsets() -> None:
    assert least_norm([3.0, 5.0], [0.0, 0.0], 4.0, 0.0) == pytest.approx(2.0)
    found = least_norm([3.0, 5.0], [1.0, 0.5], 4.0, 1.0)
    assert 3 / (found - 1) + 5 / (found - 0.5) == pytest.approx(4.0)
    assert least_norm([3.0], [1.0], 4.0, 10.0) == 10.0  # certain already
    assert least_norm([0.0, 2.0], [7.0, 1.0], 1.0, 7.0) == 7.0


def test_predicted_directions_use_the_exact_rows_and_the_past_alone() -> None:
    for classes in (5, DENSE_CLASSES + 6):
        rng = np.random.default_rng(classes)
        y, exact_part = rng.standard_normal((30, classes)), 5 * rng.standard_normal((2, classes))
        starts = joint_starts(30)
        assert starts[0] == 0
        before = past_directions(y, starts, exact_part)
        for i, start in enumerate(starts):
            other = y.copy()
            other[start:] = rng.standard_normal(other[start:].shape) * 9
            np.testing.assert_allclose(abs(past_directions(other, starts, exact_part)[i] @ before[i]), 1)
        first = exact_part.T @ exact_part
        assert before[0] @ first @ before[0] == pytest.approx(np.linalg.eigvalsh(first)[-1], rel=0.05)


def test_value_is_nearly_unbiased_where_the_plain_one_of_the_same_rows_is() -> None:
    """Half of a fast spectrum measured exactly: bias of the corrected top value below 2 %, uncorrected above it."""
    rng = np.random.default_rng(4)
    spectrum = np.sqrt([1.0, 0.8, 0.6, 0.4, 0.2])
    whole = np.diag(spectrum)
    exact_part = np.sqrt(0.5) * whole
    corrected, raw = [], []
    for _ in range(600):
        y = rng.standard_normal((20, 5)) @ whole * np.sqrt(0.5)
        corrected.append(joint_top(y, exact_part, None)[0])
        raw.append(float(sample_spectrum(joint_rows(y, exact_part), 20)[0]))
    assert np.mean(corrected) == pytest.approx(1.0, abs=0.02)
    assert np.mean(raw) > 1.03


def test_gradient_from_exact_and_random_directions_and_its_expected_distance() -> None:
    rng = np.random.default_rng(5)
    d, m = 200, 60
    gradient = rng.standard_normal(d)
    subspace = leading(np.stack([gradient + rng.standard_normal(d), rng.standard_normal(d)]), 2)
    space = InputDomain().resolve(np.zeros((1, d)), "float64")
    rows = deflated_rows(np.zeros(d), 0, space, 0.1, m, 0, subspace)
    assert rows is not None
    placed, step = rows.exact
    odds, ends = rows.build(0, m) @ gradient, placed @ gradient
    found = deflated_gradient(rows, step, odds, ends[:2] - ends[2:])
    share = float(((subspace @ gradient) ** 2).sum() / (gradient**2).sum())
    np.testing.assert_allclose(found.known, subspace.T @ subspace @ gradient, atol=1e-9)
    assert found.like == pytest.approx(m / (1 - share), rel=0.3)
    slope = found.slope(1.0)
    cosine = slope.gradient @ gradient / np.linalg.norm(slope.gradient) / np.linalg.norm(gradient)
    assert cosine > np.sqrt(share)  # better than either part alone
    assert cosine > found.sampled @ gradient / np.linalg.norm(found.sampled) / np.linalg.norm(gradient)
    assert slope.expected == pytest.approx(1 / cosine, rel=0.1)


def test_a_box_without_room_and_numbers_too_coarse_go_without() -> None:
    x, subspace = np.full(30, 0.5), plane_of(2, 3, 30)
    narrow = InputDomain(lower=0.4999, upper=0.5001).resolve(x[None], "float64")
    assert deflated_rows(x, 0, narrow, 0.1, 20, 0, subspace) is None
    assert deflated_rows(x, 0, narrow, 1e-4, 20, 0, subspace) is not None
    coarse = InputDomain().resolve(x[None], "float16")
    assert deflated_rows(x, 0, coarse, 1e-3, 20, 0, subspace) is None


@pytest.mark.parametrize("count", [8, 20])
def test_rows_are_the_same_in_pieces_and_depend_on_seed_and_index_alone(count: int) -> None:
    """Eight of 40 are independent signs, twenty orthonormal."""
    x, subspace = np.linspace(0, 1, 40), plane_of(3, 3, 40)
    space = InputDomain(lower=0, upper=1).resolve(x[None], "float32")
    rows, same, other = (deflated_rows(x, i, space, 0.01, count, s, subspace) for i, s in ((4, 7), (4, 7), (5, 7)))
    assert rows is not None
    assert same is not None
    assert other is not None
    assert (rows.features is None) == (count == 8)
    whole = rows.build(0, count)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(np.concatenate([same.build(0, 3), same.build(3, count)]), whole)
    assert (other.build(0, count) != whole).any()
    np.testing.assert_allclose(rows.directions(0, count) @ subspace.T, 0, atol=1e-5)


def test_signs_are_those_of_the_seed_projected() -> None:
    x, subspace = np.zeros(300), plane_of(4, 2, 300)
    space = InputDomain().resolve(x[None], "float64")
    rows = deflated_rows(x, 9, space, 0.1, 12, 3, subspace)
    assert rows is not None
    signs = np.unpackbits(packed_signs(generator(3, 9), 12, 300), axis=1, count=300) * 2.0 - 1
    np.testing.assert_allclose(rows.directions(0, 12), project(signs, subspace), atol=1e-12)
    assert energy_quantile(0.5, 12, rows.features) == energy_quantile(0.5, 12, None)
