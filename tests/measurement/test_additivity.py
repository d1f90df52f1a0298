"""Whether single features add up to what they do together: kinks and jumps beside a whole Jacobian."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest

from fimaudit import audit

Array = np.ndarray
EQUAL, APART = np.zeros((4, 16)), np.tile([0.0, 0.3, 0.6, 0.9], (4, 4))


def answers(margin: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Two classes whose log-odds are a function of the row."""

    def model(rows: Array) -> Array:
        p = 1 / (1 + np.exp(-margin(np.asarray(rows, dtype=np.float64))))
        return np.stack([p, 1 - p], axis=1)

    return model


def pooled(rows: Array) -> Array:
    """A linear part, and the largest of each four features."""
    slopes = np.random.default_rng(0).normal(size=16)
    return np.asarray(0.5 + rows @ slopes + 0.4 * rows.reshape(-1, 4, 4).max(axis=2) @ np.array([1.0, 0.7, -0.8, 0.5]))


@pytest.mark.parametrize("queries", [100, 200])
def test_equal_values_that_are_pooled_are_a_kink_and_the_interval_says_so(queries: int) -> None:
    """Features at the edge of the domain move one way only, so that no even part shows the kink."""
    equal, apart = (
        audit(answers(pooled), x, queries=queries, mode="black-box", lower=0.0, upper=1.0).inputs for x in (EQUAL, APART)
    )
    assert sum("kinked" in s.flags or s.status != "ok" for s in equal) >= 2
    assert all(s.status != "ok" or s.spectral_norm.upper > 1.05 * s.spectral_norm.lower for s in equal)
    assert not any("kinked" in s.flags for s in apart)
    assert all(s.spectral_norm.upper < 1.02 * s.spectral_norm.lower for s in apart)


@pytest.mark.parametrize(("features", "once_in", "seed"), [(12, 60, 3), (20, 100, 2)])
def test_a_single_feature_whose_row_is_answered_by_another_version_gives_no_value(
    features: int, once_in: int, seed: int
) -> None:
    """Few rows go to another model: with these seeds one of them is that of a single feature."""
    slopes = [np.random.default_rng(k).normal(size=features) / 3 for k in (1, 2)]

    def margin(rows: Array) -> Array:
        found = [hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest()[:2] for row in rows]
        other = np.array([int.from_bytes(two, "big") < 65536 / once_in for two in found])
        return np.where(other, rows @ slopes[1], rows @ slopes[0])

    x = np.random.default_rng(0).normal(size=(12, features))
    report = audit(answers(margin), x, queries=60 if features == 12 else 100, mode="black-box", seed=seed)
    for s in report.inputs:
        p = s.probability or 0.0
        if s.status == "ok" and s.kind == "local":
            assert s.spectral_norm.value == pytest.approx(p * (1 - p) * float(slopes[0] @ slopes[0]), rel=0.5)
