"""Outputs to probabilities: shapes, dtypes and ranges by hypothesis, refusals by their sentence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fimaudit.errors import LinkError, OutputError
from fimaudit.models.links import as_rows, chosen_step, to_probabilities
from fimaudit.number_format import output_resolution

FLOATS = st.sampled_from([np.float16, np.float32, np.float64])
SEVERAL = st.integers(2, 7)


@st.composite
def logits(draw: st.DrawFn, columns: st.SearchStrategy[int] = SEVERAL) -> np.ndarray:
    dtype = draw(FLOATS)
    shape = (draw(st.integers(1, 5)), draw(columns))
    tail = draw(st.sampled_from([(), (1,), (1, 1)]))
    values = draw(hnp.arrays(np.float64, shape, elements=st.floats(-500, 500)))
    return values.astype(dtype).reshape(shape + tail)


@given(logits())
def test_softmax_gives_distributions_that_ignore_a_shift(z: np.ndarray) -> None:
    p = to_probabilities(z, "softmax", rows=len(z))
    assert p.dtype == np.float64
    assert p.shape == z.shape[:2]
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-12)
    shifted = to_probabilities(z.astype(np.float64) + 3.0, "softmax", rows=len(z))
    np.testing.assert_allclose(p, shifted, rtol=1e-9, atol=1e-300)


@given(logits(st.just(1)))
def test_sigmoid_is_softmax_over_zero_and_the_logit(z: np.ndarray) -> None:
    p = to_probabilities(z, "sigmoid", rows=len(z))
    column = z.reshape(len(z), 1).astype(np.float64)
    expected = to_probabilities(np.hstack([np.zeros_like(column), column]), "softmax", rows=len(z))
    np.testing.assert_allclose(p, expected, rtol=1e-12, atol=0)


@given(logits(), st.sampled_from(["auto", "identity"]))
@settings(max_examples=60)
def test_distributions_pass_in_any_precision(z: np.ndarray, link: str) -> None:
    p = to_probabilities(z, "softmax", rows=len(z))
    for dtype in (np.float16, np.float32, np.float64):
        np.testing.assert_allclose(to_probabilities(p.astype(dtype), link, rows=len(z)), p, atol=2.0**-10)  # type: ignore[arg-type]


@given(hnp.arrays(np.float64, st.integers(1, 9), elements=st.floats(0, 1)))
def test_identity_reads_one_column_as_the_second_class(column: np.ndarray) -> None:
    for shape in ((len(column),), (len(column), 1), (len(column), 1, 1)):
        p = to_probabilities(column.reshape(shape), "identity", rows=len(column))
        np.testing.assert_array_equal(p, np.stack([1 - column, column], axis=1))


@given(st.integers(2, 40), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_rounded_rows_pass_and_keep_their_quantum(classes: int, decimals: int, seed: int) -> None:
    p = np.round(np.random.default_rng(seed).dirichlet(np.ones(classes), size=4), decimals)
    if np.abs(p.sum(1) - 1).max() <= max(1e-5, min(0.5, classes * 10.0**-decimals / 2)):
        np.testing.assert_array_equal(to_probabilities(p, "auto", rows=4), p)
    assert output_resolution(p) in (0.0, *(10.0**-t for t in range(1, decimals + 1)))


def test_saturated_answers_keep_their_small_probabilities() -> None:
    p = to_probabilities(np.array([[0.0, 700.0]]), "softmax", rows=1)
    assert p[0, 0] == pytest.approx(np.exp(-700.0), rel=1e-12)
    p = to_probabilities(np.array([[-600.0]]), "sigmoid", rows=1)
    assert p[0, 1] == pytest.approx(np.exp(-600.0), rel=1e-12)


@pytest.mark.parametrize(
    ("output", "link", "error", "sentence"),
    [
        ([[2.0, -1.0]], "auto", LinkError, "look like logits; use link='softmax'"),
        ([[0.2, 0.3]], "auto", LinkError, r"row that sums to 0\.5: findings that do not exclude"),
        ([[0.0, 0.0]], "auto", LinkError, "a row of zeros only: the model names no class there"),
        ([[0.51, 0.48]], "auto", LinkError, r"sums to 0\.99: if answers are cut off .* divide each row by its sum"),
        ([[31.0]], "identity", LinkError, "or divide by 100 if these are percentages"),
        ([[0.3]], "auto", LinkError, "link='identity' or link='sigmoid'"),
        ([0.3], "auto", LinkError, "single column"),
        ([[1.3]], "identity", LinkError, "use link='sigmoid' for a logit"),
        ([[0.3]], "softmax", LinkError, "use link='sigmoid' for a single logit"),
        (
            [[0.3, 0.7]],
            "sigmoid",
            LinkError,
            "where they are logits of classes that do, use link='softmax'",
        ),
        ([[0.3, 0.7]], "logit", LinkError, "expected a link among"),
        ([[np.nan, 1.0]], "identity", OutputError, "1 NaN and 0 infinite among 2"),
        ([[np.inf, 1.0]], "softmax", OutputError, "0 NaN and 1 infinite"),
        ([[1, 0]], "identity", OutputError, "look like class labels"),
        ([["cat"]], "identity", OutputError, "expected numbers"),
        ([[0.5, 0.5], [0.5, 0.5]], "auto", OutputError, "expected 1 rows of output for 1 inputs"),
        (0.5, "auto", OutputError, "expected 1 rows"),
        ([[[0.5, 0.5], [0.1, 0.9]]], "auto", OutputError, "choose one of several steps with output_step="),
        (np.zeros((1, 0)), "auto", OutputError, "expected output of shape"),
    ],
)
def test_refusals_say_what_to_do(output: object, link: str, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        to_probabilities(np.asarray(output), link, rows=1)  # type: ignore[arg-type]


def test_as_rows_drops_only_empty_axes() -> None:
    assert as_rows(np.zeros((3, 4, 1, 1)), 3).shape == (3, 4)
    assert as_rows(np.zeros(3), 3).shape == (3, 1)


def test_one_step_of_several_is_read() -> None:
    output = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(chosen_step(output, 1), output[:, 1])
    np.testing.assert_array_equal(chosen_step(output, -1), output[:, 2])
    assert chosen_step(output, None) is output
    with pytest.raises(OutputError, match="expected output_step= from -3 to 2"):
        chosen_step(output, 3)
    with pytest.raises(OutputError, match="to take step 0 of, got"):
        chosen_step(output[0], 0)


def test_zeros_beside_rows_that_hold_several_findings_are_findings() -> None:
    with pytest.raises(LinkError, match="a row of zeros only"):
        to_probabilities(np.array([[0.0, 0.0, 0.0], [0.2, 0.3, 0.5]]), "auto", rows=2)
    with pytest.raises(LinkError, match="findings that do not exclude"):
        to_probabilities(np.array([[0.0, 0.0, 0.0], [0.9, 0.8, 0.1]]), "auto", rows=2)
