"""Answers that are another's now and then: no wrong number goes out, and others pay a second look at most; about 20 s."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from fimaudit import audit
from fimaudit.errors import ModelFailure
from fimaudit.results import Report
from fimaudit.second_look import LOOKS, spread

X, Y = load_digits(return_X_y=True)
DIGITS = LogisticRegression(C=0.005, max_iter=500).fit(X, Y)
RNG = np.random.default_rng(3)
#: 300 features, so that directions are random ones.
WIDE = RNG.standard_normal((300, 10)) / 10
FAR_INPUTS = RNG.standard_normal((6, 300))


def digits(rows: np.ndarray) -> np.ndarray:
    return np.asarray(DIGITS.predict_proba(rows))


def wide(rows: np.ndarray) -> np.ndarray:
    z = rows @ WIDE
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def two_versions(model: Any, share: float, by: float, seed: int) -> Any:
    """A model, part of whose answers come from another version: log p differs by ``by``."""
    rng, shift = np.random.default_rng(seed), by * np.random.default_rng(1).standard_normal(10)

    def answer(rows: np.ndarray) -> np.ndarray:
        p = model(rows) * np.exp(np.where(rng.random((len(rows), 1)) < share, shift, 0.0))
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    return answer


def audited(model: Any, x: np.ndarray, seed: int) -> Report | None:
    """``None`` where the audit says that no input could be measured, and why."""
    try:
        return audit(model, x, queries=200, seed=seed)
    except ModelFailure as refused:
        if "two versions of the model" not in str(refused):
            raise
        return None


@pytest.mark.parametrize(("model", "x"), [(digits, X[:6]), (wide, FAR_INPUTS)])
@pytest.mark.parametrize(("share", "by"), [(0.1, 0.01), (0.05, 0.3), (0.02, 0.01), (0.002, 0.01)])
def test_a_second_version_that_answers_now_and_then_gives_no_wrong_number(
    model: Any, x: np.ndarray, share: float, by: float
) -> None:
    """Without the second look a fifth of these values would be wrong by a factor of 3 to 10^6."""
    exact = [one.spectral_norm.value for one in audit(model, x, queries=2000).inputs]
    caught = 0
    for seed in range(4):
        report = audited(two_versions(model, share, by, seed), x, seed)
        if report is None:
            caught += 6
            continue
        for one, truth in zip(report.inputs, exact, strict=True):
            if one.status == "failed":
                caught += 1
                assert one.spectral_norm.value is None
                assert "two versions of the model" in one.reason
            elif one.status == "ok":
                assert one.spectral_norm.lower / 3 <= truth <= 3 * one.spectral_norm.upper
                assert one.spectral_norm.value <= 4 * truth
    if share > 0.01:
        assert caught


@pytest.mark.parametrize("random", [False, True])
def test_noise_and_single_features_that_matter_alone_are_no_second_version(random: bool) -> None:
    """One feature of 30 carries all: it stands out, and is answered the same again. Noise that stays never jumps."""
    rng = np.random.default_rng(0)

    def one_feature(rows: np.ndarray) -> np.ndarray:
        z = rows[:, 4] + (0.01 * rng.standard_normal(len(rows)) if random else 0.0)
        return np.stack([1 / (1 + np.exp(z)), 1 / (1 + np.exp(-z))], axis=1)

    report = audit(one_feature, rng.standard_normal((10, 30)), queries=200)
    assert {one.status for one in report.inputs} <= {"ok", "below_detection"}


def test_a_forest_is_no_second_version() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    x = x / x.std(axis=0)
    forest = RandomForestClassifier(20, random_state=0).fit(x, y)
    report = audit(forest, x[:10], queries=100)
    assert "failed" not in {one.status for one in report.inputs}


def test_what_a_second_look_takes() -> None:
    """Along single features one look an input; random directions of a smooth model need none."""
    rows: list[int] = []

    def counted(batch: np.ndarray) -> np.ndarray:
        rows.append(len(batch))
        return np.asarray(digits(batch))

    audit(counted, X[:1], queries=200)
    assert rows.count(LOOKS) == 1
    rows.clear()

    def smooth(batch: np.ndarray) -> np.ndarray:
        rows.append(len(batch))
        return wide(batch)

    audit(smooth, FAR_INPUTS[:1], queries=200)
    assert LOOKS not in rows


def test_spread_is_told_from_the_mean_of_all() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(10), 20)
    roots = np.sqrt(p) - np.sqrt(p).mean(axis=0)
    np.testing.assert_allclose(spread(p), (roots**2).sum(axis=1))
    assert (spread(np.full((9, 3), 1 / 3)) == 0).all()
