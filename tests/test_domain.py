"""The input domain: what is refused and in which words, what is clipped, and the scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fimaudit.domain import InputDomain, spreads_differ
from fimaudit.errors import DataError, DomainError
from fimaudit.space import EDGE

X = np.random.default_rng(0).uniform(0.2, 0.8, (6, 2, 3))
FLAT = X.reshape(6, 6)
NAMES = ("age", "weight", "height", "dose", "pulse", "score")

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "crossed bounds": ({"lower": 1, "upper": 0}, "expected lower < upper"),
    "equal bounds": ({"lower": np.r_[np.zeros(5), 1], "upper": 1}, "expected lower < upper"),
    "NaN bound": ({"lower": np.nan}, "expected lower without NaN"),
    "not a number": ({"upper": "one"}, "expected upper to be a number or an array of numbers, got 'one'"),
    "ragged": ({"upper": [[1], [2, 3]]}, "expected upper to be a number"),
    "wrong shape": ({"lower": np.zeros(4)}, r"lower has shape \(4,\); expected a number or the input's shape \(6,\)"),
    "negative quantum": ({"quantum": -1}, "expected a quantum of 0"),
    "all frozen": ({"frozen": np.ones(6, bool)}, "at least one feature that may change"),
    "mask of another shape": ({"frozen": np.ones(5, bool)}, r"frozen mask of the input's shape \(6,\), got \(5,\)"),
    "frozen beyond": ({"frozen": [6]}, "frozen feature between 0 and 5, got 6"),
    "frozen below": ({"frozen": [-1]}, "frozen feature between 0 and 5, got -1"),
    "unknown name": ({"frozen": ["wieght"], "names": NAMES}, "no feature is called 'wieght'; expected one of age, weight"),
    "name without names": ({"frozen": ["age"]}, "the data has no feature names; give positions"),
    "unknown scale": ({"scale": "log"}, "expected scale raw, std, range or an array, got 'log'"),
    "zero scale": ({"scale": np.zeros(6)}, "positive finite scale"),
    "infinite scale": ({"scale": np.inf}, "positive finite scale"),
    "scale of another shape": ({"scale": np.ones(7)}, "scale has shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_contradictions_are_refused_in_words(name: str) -> None:
    settings, words = REFUSED[name]
    with pytest.raises(DomainError, match=words):
        InputDomain(**settings).resolve(FLAT, "float64")


@pytest.mark.parametrize("scale", ["std", "range"])
def test_a_scale_from_the_data_needs_features_that_vary(scale: str) -> None:
    x = FLAT.copy()
    x[:, 2] = 0.5
    with pytest.raises(DomainError, match=f"scale {scale} needs features that vary, but 1 of 6 are constant"):
        InputDomain(scale=scale).resolve(x, "float64")
    assert InputDomain(scale=scale, frozen=[2]).resolve(x, "float64").features == 5
    assert InputDomain(scale="range", lower=0, upper=1).resolve(x, "float64").scale[2] == 1  # the bounds give the range


def test_scales() -> None:
    assert (InputDomain().resolve(X, "float64").scale == 1).all()
    std = InputDomain(scale="std").resolve(X, "float64")
    np.testing.assert_allclose(std.scale, X.std(axis=0))
    assert std.unit == "standard deviation of the feature"
    span = InputDomain(scale="range", lower=[[0] * 3, [-np.inf] * 3], upper=2).resolve(X, "float64")
    np.testing.assert_allclose(span.scale[0], 2)
    np.testing.assert_allclose(span.scale[1], np.ptp(X[:, 1], axis=0))
    given = InputDomain(scale=np.arange(1.0, 7), unit="sigma").resolve(X, "float64")  # flat, of the right size
    np.testing.assert_array_equal(given.scale, np.arange(1.0, 7).reshape(2, 3))
    assert given.unit == "sigma"
    assert InputDomain(unit="pixel").resolve(X, "float64").unit == "pixel"


def test_frozen_features_by_mask_position_and_name() -> None:
    mask = np.zeros((2, 3), bool)
    mask[0, 1] = mask[1, 2] = True
    for frozen in (mask, [1, 5], ["1", "5"], np.array([1, 5]), ["weight", "score"]):
        space = InputDomain(frozen=frozen, names=NAMES).resolve(X, "float64")
        np.testing.assert_array_equal(space.frozen, mask)
        assert space.features == 4
    for nothing in (None, [], np.zeros((2, 3), bool)):
        assert InputDomain(frozen=nothing).resolve(X, "float64").features == 6


def test_steps_and_lengths_are_in_units_of_the_scale() -> None:
    space = InputDomain(scale=np.arange(1.0, 7), frozen=[0]).resolve(FLAT, "float64")
    step = space.step(3.0)
    assert step[0] == 0
    assert np.linalg.norm(step[1:] / space.scale[1:]) == pytest.approx(3.0)
    assert space.length(step) * np.sqrt(space.features) == pytest.approx(3.0)


@pytest.mark.parametrize("domain", [InputDomain(), InputDomain(scale=np.arange(1.0, 7).reshape(2, 3), frozen=[0, 4])])
def test_a_shared_step_and_lengths_by_pieces_are_those_of_all_features(domain: InputDomain) -> None:
    space = domain.resolve(X, "float32")
    step, shared = space.step(3.0), space.shared_step(3.0)
    np.testing.assert_array_equal(np.broadcast_to(shared, step.shape), step)
    assert shared.size == (1 if domain.scale is None else 6)
    sent = np.stack([step, 2 * step]).reshape(2, -1)
    pieces = [sent[:, :1], sent[:, 1:5], sent[:, 5:]]
    np.testing.assert_allclose(space.lengths(pieces), [space.length(step), 2 * space.length(step)], rtol=1e-12)


def test_spreads_are_compared_over_all_features_however_many() -> None:
    x = np.random.default_rng(0).standard_normal((600, 300))  # several pieces
    x[:, 299] *= 1e3
    frozen = np.zeros(300, bool)
    assert spreads_differ(x, frozen) == pytest.approx(float(x.std(axis=0).max() / x.std(axis=0).min()))
    frozen[299] = True
    assert spreads_differ(x, frozen) is None


def test_float_error_at_the_edge_is_clipped() -> None:
    space = InputDomain(lower=0, upper=1).resolve(X, "float32")
    x = X.copy()
    x[0, 0, 0], x[1, 1, 2] = -0.9 * EDGE, 1 + 0.9 * EDGE
    admitted = space.admit(x)
    assert admitted.min() == 0
    assert admitted.max() == 1
    inside = (x >= 0) & (x <= 1)
    np.testing.assert_array_equal(admitted[inside], x[inside])
    assert x[0, 0, 0] < 0  # the data are left alone
    assert space.admit(X.astype(np.float32)).dtype == np.float32


def test_inputs_beyond_the_bounds_are_refused_with_place_and_value() -> None:
    x = X.copy()
    x[3, 1, 2] = 255.0
    words = r"within the bounds, got 255 at position \[3, 1, 2\] \(bounds 0 to 1; 1 values outside\); check"
    with pytest.raises(DataError, match=words):
        InputDomain(lower=0, upper=1).resolve(x, "float32").admit(x)
    with pytest.raises(DataError, match=r"got -0\.1 at .* \(bounds 0 to inf; 36 values outside\)"):
        InputDomain(lower=0).resolve(X, "float32").admit(np.full_like(X, -0.1))


@pytest.mark.parametrize("bounds", [{"lower": 0}, {"upper": 255}, {"lower": 0, "upper": 255}, {}])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_whole_numbers_pass_through_any_bounds(bounds: dict[str, float], dtype: type) -> None:
    """An open bound has no integer to stand for it."""
    x = np.array([[0, 1, 1], [1, 0, 0]]).astype(dtype)
    admitted = InputDomain(**bounds).resolve(x, "float32").admit(x)
    np.testing.assert_array_equal(admitted, x)


def test_a_space_owns_its_bounds() -> None:
    upper = np.ones(6)
    space = InputDomain(lower=0, upper=upper).resolve(FLAT, "float64")
    upper[:] = 9
    assert (space.upper == 1).all()


def test_spreads_that_differ() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3)) * [1.0, 100.0, 0.0]
    assert spreads_differ(x, np.zeros(3, bool)) == pytest.approx(100, rel=0.2)
    assert spreads_differ(x[:, :1], np.zeros(1, bool)) is None
    assert spreads_differ(x * [1, 0.05, 1], np.zeros(3, bool)) is None
    assert spreads_differ(x, np.array([False, True, False])) is None


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (1e200, {}),
        (1e-200, {}),
        (1.0, {"scale": 1e-300}),
        (1.0, {"scale": 1e300}),
        (0.1, {"quantum": 1e-320, "lower": -1.0, "upper": 1.0}),
        (1.0, {"lower": -1e308, "upper": 1e308}),
    ],
)
def test_sizes_whose_powers_are_no_numbers_are_refused(size: float, options: dict[str, float]) -> None:
    """They ended in tracebacks of eigenvalues and ladders."""
    x = size * np.random.default_rng(0).standard_normal((5, 3))
    with pytest.raises(DomainError, match="in units of the scale"):
        InputDomain(**options).resolve(x, "float64")


def test_what_is_held_may_have_any_size() -> None:
    x = np.array([[1.0, 1e200], [2.0, 1e250]])
    assert InputDomain(frozen=[1]).resolve(x, "float64").features == 1
    whole = np.array([[0, 1], [-(2**31), 2]], dtype=np.int32)
    assert InputDomain().resolve(whole, "int32").features == 2
