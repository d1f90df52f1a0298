"""The trace from a basis and random directions outside it, on tails whose trace is known; no network."""

from __future__ import annotations

import numpy as np
import pytest

from fimaudit.whitebox.krylov_basis import InputBasis
from fimaudit.whitebox.random_directions import DIRECTIONS, trace_and_error

FEATURES, CLASSES = 200, 12
EMPTY = InputBasis(np.zeros((0, CLASSES)), np.zeros((0, CLASSES)))
TAILS = {
    "flat": np.ones(CLASSES),
    "slow": 1 / (1 + np.arange(CLASSES)),
    "fast": 1.5 ** -np.arange(CLASSES),
    "five equal": np.where(np.arange(CLASSES) < 5, 1.0, 0.01),
}


def tail(spectrum: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(K, d) rows with these squared singular values, spread over all features."""
    classes = np.linalg.qr(rng.standard_normal((CLASSES, CLASSES)))[0]
    features = np.linalg.qr(rng.standard_normal((FEATURES, CLASSES)))[0]
    return np.asarray(classes * np.sqrt(spectrum) @ features.T)


@pytest.mark.parametrize("spectrum", TAILS)
def test_the_trace_is_unbiased_and_its_standard_error_true(spectrum: str) -> None:
    """4.6 % of estimates miss by more than two standard errors where these are true; by the terms' own spread alone 10 %."""
    rng = np.random.default_rng(0)
    values = TAILS[spectrum]
    missed, stated, spread = [], [], []
    for _ in range(2000):
        rows = tail(values, rng)
        images = rng.choice([-1.0, 1.0], (DIRECTIONS[0], FEATURES)) @ rows.T
        trace, error = trace_and_error(EMPTY, images, np.ones(CLASSES))
        missed.append(trace - values.sum())
        stated.append(error)
        spread.append((images**2).sum(axis=1).std(ddof=1) / np.sqrt(len(images)))
    miss, error = np.array(missed), np.array(stated)
    assert abs(miss.mean()) <= 4 * miss.std() / np.sqrt(len(miss))
    assert np.mean(np.abs(miss) > 2 * error) <= 0.08 < np.mean(np.abs(miss) > 2 * np.array(spread))
    assert np.sqrt(np.mean(error**2)) <= 1.2 * miss.std()


def test_the_basis_is_taken_as_it_is_and_weighed_by_the_probabilities() -> None:
    rng = np.random.default_rng(1)
    rows = tail(TAILS["slow"], rng)
    roots = np.sqrt(rng.dirichlet(np.ones(CLASSES)))
    whole = InputBasis(np.linalg.svd(rows)[2][:CLASSES] @ rows.T, np.zeros((CLASSES, CLASSES)))
    trace, error = trace_and_error(whole, np.zeros((DIRECTIONS[0], CLASSES)), roots)
    assert trace == pytest.approx(float((roots[:, None] ** 2 * rows**2).sum()))
    assert error == 0
