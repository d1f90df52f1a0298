"""In which numbers answers came."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fimaudit.number_format import output_resolution


@given(st.integers(2, 20), st.integers(1, 14), st.sampled_from([np.float32, np.float64]), st.integers(0, 2**32 - 1))
def test_rounding_is_found_at_any_number_of_decimals(classes: int, decimals: int, dtype: Any, seed: int) -> None:
    """Seen behind 12 decimals, taken for exact: small classes jump by whole quanta. float32 holds no more than 8."""
    p = np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), size=30)
    assert output_resolution(p.astype(dtype)) == 0
    if decimals <= (6 if dtype is np.float32 else 14):
        assert output_resolution(p.round(decimals).astype(dtype)) == pytest.approx(10.0**-decimals)


@pytest.mark.parametrize("steps", [127, 128, 255, 256, 1023, 1024, 4096, 65_535, 65_536])
def test_steps_of_a_quantised_model_are_found(steps: int) -> None:
    """Seen of k / 256, which have 8 decimals: answers that do not move were taken for known to the last digit."""
    for seed in range(5):
        p = np.round(np.random.default_rng(seed).dirichlet(np.full(4, 0.4), size=60) * steps) / steps
        for dtype in (np.float32, np.float64):
            assert output_resolution(p.astype(dtype)) == pytest.approx(1 / steps, rel=1e-9)


@pytest.mark.parametrize("votes", [63, 90, 130, 300, 1500, 70_000, 131_071])
def test_votes_have_no_step(votes: int) -> None:
    """Nor have numbers of fewer or more than 7 to 16 bits."""
    for seed in range(5):
        p = np.round(np.random.default_rng(seed).dirichlet(np.full(4, 0.4), size=60) * votes) / votes
        for dtype in (np.float32, np.float64):
            assert output_resolution(p.astype(dtype)) == 0


@given(st.sampled_from([np.float16, "bfloat16"]), st.integers(2, 10), st.integers(0, 2**32 - 1))
def test_numbers_of_half_precision_have_no_step(dtype: Any, classes: int, seed: int) -> None:
    p = np.random.default_rng(seed).dirichlet(np.full(classes, 0.4), size=60).astype(np.float32)
    if dtype == "bfloat16":
        half = (p.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    else:
        half = p.astype(dtype).astype(np.float32)
    assert output_resolution(half) == 0


def test_sure_answers_are_not_taken_for_rounded_ones() -> None:
    """Seen of float32 answers near 0 and 1: taken for rounded to 0.1."""
    for dtype in (np.float32, np.float64):
        assert output_resolution(np.array([[1.0, 1e-9], [1.0, 3e-9]], dtype)) == 0
        assert output_resolution(np.round(np.random.default_rng(0).random((9, 3)), 2).astype(dtype)) == 0.01
    assert output_resolution(np.array([0.5, 0.25], np.float16)) == 2.0**-10


@given(st.integers(1, 6), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=60)
def test_rounding_is_found_in_either_precision(decimals: int, seed: int, short: bool) -> None:
    p = np.random.default_rng(seed).dirichlet(np.ones(5), 40)
    rounded = np.round(p, decimals)
    kept = rounded.astype(np.float32).astype(float) if short else rounded
    found = output_resolution(kept)
    coarsest = next(t for t in range(1, 7) if np.array_equal(np.round(rounded, t), rounded))
    assert found == pytest.approx(10.0**-coarsest)


def test_answers_that_are_not_rounded_are_left_alone() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(5), 40)
    assert output_resolution(p) == 0.0
    assert output_resolution(p.astype(np.float32).astype(float)) == 0.0
    assert output_resolution(np.array([[1.0, 0.0], [1.0, 0.0]])) == 0.0
    saturated = np.array([[1 - 1e-12, 1e-12, 0.0], [1 - 3e-12, 3e-12, 0.0]])
    assert output_resolution(saturated) == 0.0
