"""From answers to secants: completion, logarithms, and Helmert contrasts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fimaudit.estimation.secants import complete, contrasts, log_probabilities, resolution, visible_classes
from fimaudit.number_format import FLOAT64_SPACING, number_spacing


@given(hnp.arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(1, 4)), elements=st.floats(-5, 5)))
@settings(max_examples=80)
def test_contrasts_are_an_orthonormal_transform_of_the_centred_secants(y: np.ndarray) -> None:
    c = contrasts(y)
    centred = y - y.mean(axis=0)
    np.testing.assert_allclose(c.T @ c, centred.T @ centred, atol=1e-9)
    np.testing.assert_allclose(contrasts(y + 7.0), c, atol=1e-9)  # the base point drops out
    for t in range(1, len(y)):  # predictable: contrast t uses the first t + 1 secants only
        np.testing.assert_allclose(contrasts(y[: t + 1]), c[:t], atol=1e-12)


def test_helmert_rows_are_orthonormal_and_sum_to_nothing() -> None:
    H = contrasts(np.eye(7))
    np.testing.assert_allclose(H @ H.T, np.eye(6), atol=1e-12)
    np.testing.assert_allclose(H.sum(axis=1), 0, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_saturated_answers_keep_what_the_other_classes_say(classes: int) -> None:
    """float32 reads 1 - 1e-9 as 1; the sum of the others says what was lost."""
    rest = np.full(classes - 1, 1e-9 / (classes - 1))
    row = np.append(rest, 1.0)[None].astype(np.float32).astype(np.float64)
    done = complete(row, classes - 1)
    assert 1 - done[0, -1] == pytest.approx(1e-9, rel=1e-6)
    logs = log_probabilities(done, classes - 1)
    assert logs[0, -1] == pytest.approx(-1e-9, rel=1e-6)
    np.testing.assert_allclose(logs[0, :-1], np.log(row[0, :-1]))


def test_completion_leaves_the_smaller_part_and_its_argument_alone() -> None:
    p = np.array([[0.3, 0.3, 0.4], [0.1, 0.1, 0.7999]])
    before = p.copy()
    done = complete(p, 2)
    np.testing.assert_array_equal(p, before)
    np.testing.assert_array_equal(done[0], p[0])  # the others hold more than half
    assert done[1, 2] == pytest.approx(0.8)


def test_log_probability_of_a_sure_class_is_not_zero() -> None:
    p = complete(np.array([[1e-20, 1.0]]), 1)
    assert log_probabilities(p, 1)[0, 1] == pytest.approx(-1e-20, rel=1e-12, abs=0)


def test_a_class_that_is_not_in_the_row_is_not_taken_for_rounding() -> None:
    row = np.array([[1 - 1e-7 - 5e-9, 1e-7]])  # of a list that leaves out 5e-9
    assert log_probabilities(row, 0)[0, 0] == pytest.approx(-1.05e-7, rel=1e-6)


def test_classes_that_vanish_somewhere_are_not_visible() -> None:
    p = np.array([[0.5, 0.5, 1e-40], [0.4, 0.6, 1e-3]])
    np.testing.assert_array_equal(visible_classes(p), [True, True, True])  # float64 answers reach far down
    narrow = np.array([[0.5, 0.5, 1e-40], [0.25, 0.75, 1e-3]]).astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(visible_classes(narrow), [True, True, False])
    np.testing.assert_array_equal(visible_classes(np.array([[0.0, 1.0]])), [False, True])


def test_resolution_of_one_float32_column() -> None:
    column = np.float32([0.999999]).astype(np.float64)
    assert resolution(np.stack([1 - column, column], axis=1), FLOAT64_SPACING) == pytest.approx(2.0**-24)
    small = np.float32([1e-6]).astype(np.float64)
    assert resolution(np.stack([1 - small, small], axis=1), FLOAT64_SPACING) <= 2.0**-24 * 2e-6 * 1.01
    assert resolution(np.array([[0.1, 0.9]]), FLOAT64_SPACING) == 0  # a float64 answer
    assert resolution(np.array([[0.25, 0.25, 0.5]]), FLOAT64_SPACING) == 0


@given(st.integers(6, 15), st.floats(1.0, 12.0), st.integers(0, 2**32 - 1))
def test_one_column_says_no_more_of_the_other_class_than_its_digits(digits: int, sure: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    column = np.array([float(f"{v:.{digits - 1}e}") for v in 1 - 10 ** -rng.uniform(0, 14, 40)])
    spacing = number_spacing(column)
    assert spacing == pytest.approx(10.0**-digits, rel=1e-9, abs=0.0)
    p = float(f"{1 - 10**-sure:.{digits - 1}e}")
    found = resolution(np.array([[1.0 - p, p]]), spacing)
    assert p == 1 or found >= abs((1 - p) - 10**-sure) or (found == 0 and abs((1 - p) - 10**-sure) <= 2.0**-24 * (1 - p))
