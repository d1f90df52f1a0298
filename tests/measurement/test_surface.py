"""Smooth, kinked, rough or piecewise constant: what the ladder of displacements says of kinds of models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from fimaudit import Report, audit
from fimaudit.measurement.energy import even_share
from fimaudit.measurement.surface import slope_of
from tests.batch_sensitive import shifts

Model = Callable[[np.ndarray], np.ndarray]


@cache
def table(name: str) -> tuple[np.ndarray, np.ndarray]:
    load = {"wine": load_wine, "cancer": load_breast_cancer}[name]
    x, y = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return StandardScaler().fit_transform(x)[order], y[order]


FITTED: dict[str, Model] = {}


def fitted(estimator: Any, name: str) -> tuple[Model, np.ndarray]:
    """Behind a function, so that nothing but the answers says what it is."""
    x, y = table(name)
    key = f"{estimator!r} of {name}"
    if key not in FITTED:
        FITTED[key] = answers(estimator.fit(x[:120], y[:120]))
    return FITTED[key], x[120:136]


def answers(model: Any) -> Model:
    """Its probabilities to the last bit; a forest's without what scikit-learn spends on each tree, ten times the answer."""
    if not isinstance(model, RandomForestClassifier | ExtraTreesClassifier):
        return lambda rows: np.asarray(model.predict_proba(rows))
    trees = [tree.tree_ for tree in model.estimators_]

    def mean_share(rows: np.ndarray) -> np.ndarray:
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        shares = np.zeros((len(rows), model.n_classes_))
        for tree in trees:
            shares += tree.predict(rows)
        return np.asarray(shares / len(trees))

    return mean_share


@pytest.mark.parametrize("kind", [RandomForestClassifier, ExtraTreesClassifier])
def test_trees_asked_directly_answer_as_the_forest(kind: Any) -> None:
    x, y = table("wine")
    forest = kind(30, random_state=0).fit(x[:120], y[:120])
    np.testing.assert_array_equal(answers(forest)(x), forest.predict_proba(x))


def tanh(name: str = "wine") -> tuple[Model, np.ndarray]:
    return fitted(MLPClassifier((16,), activation="tanh", solver="lbfgs", alpha=0.01, random_state=0, max_iter=3000), name)


SMOOTH = {
    "tanh network": tanh,
    "two hidden layers": lambda: fitted(
        MLPClassifier((16, 16), activation="tanh", solver="lbfgs", alpha=0.01, random_state=0, max_iter=3000), "cancer"
    ),
    "relu network": lambda: fitted(MLPClassifier((32,), solver="lbfgs", alpha=0.01, random_state=0, max_iter=3000), "wine"),
    "logistic regression": lambda: fitted(LogisticRegression(), "cancer"),
    "naive Bayes": lambda: fitted(GaussianNB(), "wine"),
    "Gaussian process": lambda: fitted(GaussianProcessClassifier(), "wine"),
}
STEPPED = {
    "tree": lambda: fitted(DecisionTreeClassifier(max_depth=4, random_state=0), "cancer"),
    "forest of 37": lambda: fitted(RandomForestClassifier(37, random_state=0), "wine"),
    "extra trees": lambda: fitted(ExtraTreesClassifier(53, random_state=0), "cancer"),
    "boosting": lambda: fitted(GradientBoostingClassifier(n_estimators=40, random_state=0), "wine"),
    "histogram boosting": lambda: fitted(HistGradientBoostingClassifier(max_iter=40, random_state=0), "cancer"),
    "adaptive boosting": lambda: fitted(AdaBoostClassifier(n_estimators=30, random_state=0), "wine"),
    "seven neighbours": lambda: fitted(KNeighborsClassifier(7), "wine"),
    "forest of 100": lambda: fitted(RandomForestClassifier(100, random_state=0), "wine"),
    "forest of 128": lambda: fitted(RandomForestClassifier(128, random_state=0), "wine"),
    "extra trees of 256": lambda: fitted(ExtraTreesClassifier(256, random_state=0), "wine"),
    "extra trees of 300 of cancer": lambda: fitted(ExtraTreesClassifier(300, random_state=0), "cancer"),
    "five neighbours": lambda: fitted(KNeighborsClassifier(5), "cancer"),
    "three neighbours": lambda: fitted(KNeighborsClassifier(3), "wine"),
    "ten neighbours": lambda: fitted(KNeighborsClassifier(10), "wine"),
    "forest of 500": lambda: fitted(RandomForestClassifier(500, random_state=0), "cancer"),
}


def jittered(size: float) -> tuple[Model, np.ndarray]:
    """log p carries noise that is a function of the row."""
    model, x = tanh()

    def answer(rows: np.ndarray) -> np.ndarray:
        p = model(rows)
        seeds = [int.from_bytes(hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest()[:8], "big") for row in rows]
        noise = np.array([np.random.default_rng(seed).standard_normal(p.shape[1]) for seed in seeds])
        q = p * np.exp(size * noise)
        return np.asarray(q / q.sum(axis=1, keepdims=True))

    return answer, x


def binned(width: float) -> tuple[Model, np.ndarray]:
    """The input is rounded inside."""
    model, x = tanh()
    return lambda rows: model(np.round(rows / width) * width), x


def celled(width: float) -> tuple[Model, np.ndarray]:
    """Half of the cells of a grid are answered by another version; some features lie where two cells meet."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 17, (12, 64)) / 16
    inner, outer = rng.standard_normal((2, 64, 16)) / 6, rng.standard_normal((16, 4))

    def answer(rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        cells = np.round(rows / width).astype(np.int32)
        other = np.array([hashlib.sha256(cell.tobytes()).digest()[0] < 128 for cell in cells])
        z = np.tanh(np.where(other[:, None], rows @ inner[0], rows @ inner[1])) @ outer
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    return answer, x


ROUGH = {
    "another version by cells": lambda: celled(0.1),
    "hash noise of 0.01": lambda: jittered(0.01),
    "hash noise of 0.1": lambda: jittered(0.1),
    "hash noise of 1": lambda: jittered(1.0),
    "inputs rounded to halves": lambda: binned(0.5),
    "inputs rounded to tenths": lambda: binned(0.1),
}


def local(report: Report) -> list[int]:
    return [s.index for s in report.inputs if s.status == "ok" and s.kind == "local"]


@pytest.mark.parametrize("queries", [50, 200])
@pytest.mark.parametrize("name", SMOOTH)
def test_a_smooth_model_has_local_values(name: str, queries: int) -> None:
    model, x = SMOOTH[name]()
    report = audit(model, x, queries=queries, seed=3)
    assert len(local(report)) >= len(x) - 1
    # Slopes at the inputs of networks this sharp do not reach their decisions, which is said; nothing else is.
    assert not [warning for warning in report.warnings if not warning.startswith("integrity contradicted")]


@pytest.mark.parametrize("queries", [25, 50, 200])
@pytest.mark.parametrize("name", [*STEPPED, *ROUGH])
def test_a_model_that_jumps_has_none(name: str, queries: int) -> None:
    model, x = {**STEPPED, **ROUGH}[name]()
    for seed in range(2):
        report = audit(model, x, queries=queries, seed=seed)
        assert local(report) == []
        # Nothing is known of shorter displacements than those that were asked.
        assert all(s.margin_radius.value is None or s.margin_radius.value >= s.displacement for s in report.inputs)


def thresholds_at(x: np.ndarray, slope: float) -> Model:
    """A sum of steps, each at a value of the data as XGBoost cuts them; a linear function beside it."""
    rng = np.random.default_rng(5)
    cuts = [(int(j), x[i, j]) for i in range(0, len(x), 2) for j in rng.permutation(x.shape[1])[:3]]
    weights, linear = rng.standard_normal((len(cuts), 3)) / 4, slope * rng.standard_normal((x.shape[1], 3))

    def answer(rows: np.ndarray) -> np.ndarray:
        z = np.stack([rows[:, j] >= cut for j, cut in cuts], axis=1) @ weights + rows @ linear
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    return answer


@pytest.mark.parametrize("slope", [0.0, 0.01])
def test_inputs_on_a_threshold_are_measured_at_a_displacement_of_their_own_size(slope: float) -> None:
    """Seen: the pilot's few inputs on thresholds, and norms of 1e8 at a displacement of 2e-6, by the seed."""
    x = np.random.default_rng(4).standard_normal((12, 5))
    for seed in range(3):
        report = audit(thresholds_at(x, slope), x, queries=60, seed=seed)
        assert local(report) == []
        assert all(0.05 <= s.displacement <= 5 for s in report.inputs)
        assert slope or all("piecewise constant" in str(s.reason) for s in report.inputs if s.status == "ok")


@pytest.mark.parametrize(("dtype", "sure"), [(np.float64, 100.0), (np.float64, 200.0), (np.float32, 50.0)])
def test_a_sure_and_smooth_model_is_local(dtype: type[np.floating], sure: float) -> None:
    """Probabilities too small to be seen beside 1 move by their logarithm, over the shortest displacements too."""
    weights = np.random.default_rng(0).standard_normal((20, 5)).astype(dtype) * dtype(sure / np.sqrt(20))
    x = np.random.default_rng(3).standard_normal((4, 20)).astype(dtype)

    def answer(rows: np.ndarray) -> np.ndarray:
        z = rows @ weights
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    for seed in range(2):
        report = audit(answer, x, queries=60, seed=seed)
        assert local(report) == [s.index for s in report.inputs], [s.reason for s in report.inputs]


def test_rounding_is_distinguished_from_votes_where_the_ladder_shows_it() -> None:
    """Steps of a thousandth: a regression over pixels keeps its local numbers, forests of a thousand trees have none."""
    x, y = load_digits(return_X_y=True)
    x = x / 16
    regression = LogisticRegression(C=0.05, max_iter=500).fit(x[:500], y[:500])
    models = [
        lambda rows: regression.predict_proba(rows).round(3),
        answers(RandomForestClassifier(1000, random_state=0).fit(x[:200], y[:200])),
        answers(ExtraTreesClassifier(1000, random_state=0).fit(x[:200], y[:200])),
    ]
    found = [sum(len(local(audit(m, x[1000:1008], queries=50, seed=s))) for s in range(3)) for m in models]
    assert found[0] >= 10  # of 24, as many as if no votes were thought of
    assert found[1:] == [0, 0]


@pytest.mark.parametrize("name", STEPPED)
def test_where_answers_are_piecewise_constant_the_radius_is_open_and_real_changes_limit_it(name: str) -> None:
    model, x = STEPPED[name]()
    report = audit(model, x, queries=200, seed=1)
    classes = model(x).argmax(axis=1)
    for s in report.inputs:
        assert s.margin_radius.value is None
        assert s.margin_radius.lower is None
        assert s.kind == "finite_scale"
        assert all(rung.flips_upper > 0 for rung in s.profile)
        if s.witness is not None:
            assert s.margin_radius.upper <= s.witness.distance
    found = sum(s.witness is not None for s in report.inputs)
    assert found >= len(x) / 2
    assert len(set(classes.tolist())) > 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", STEPPED)
def test_where_only_last_digits_moved_there_is_no_value(name: str, seed: int) -> None:
    """Seen: noise that was taken off left a norm of 0 [0, 0], and a warning from the summary."""
    model, x = STEPPED[name]()
    classes = model(x[:1]).shape[1]
    report = audit(lambda rows: model(rows) * (1 + 2e-16 * shifts(len(rows), classes)), x, queries=25, seed=seed)
    assert all(s.spectral_norm.value is None or s.spectral_norm.upper != 0 for s in report.inputs)


def test_noise_in_the_last_digits_is_not_roughness() -> None:
    """Float32 arithmetic inside: jumps of 1e-7 of log p."""
    model, x = tanh()
    report = audit(lambda rows: model(rows.astype(np.float32)).astype(np.float32), x, queries=200)
    assert len(local(report)) == len(x)


def test_behind_small_jumps_the_smooth_model_is_measured_at_the_displacement_where_it_shows() -> None:
    """Half precision and rounding inside: finite-scale values within 15 % in the median, and intervals that hold."""
    model, x = tanh()
    exact = [s.spectral_norm.value for s in audit(model, x, queries=400).inputs]
    report = audit(jittered(1e-3)[0], x, queries=200)
    assert {s.kind for s in report.inputs} == {"finite_scale"}
    assert any("smooth over displacements" in warning for warning in report.warnings)
    ratios = np.array([s.spectral_norm.value / truth for s, truth in zip(report.inputs, exact, strict=True)])
    assert abs(np.log(np.median(ratios))) < np.log(1.15)
    held = [s.spectral_norm.lower <= t <= s.spectral_norm.upper for s, t in zip(report.inputs, exact, strict=True)]
    assert np.mean(held) >= 0.9


def test_a_rare_second_version_chosen_by_the_row_is_seen() -> None:
    """One row in 30 goes to another model: the pilot meets it at some rung of some input, and inputs in their own rows."""
    x = np.random.default_rng(0).standard_normal((16, 60))
    weights = [np.random.default_rng(seed).standard_normal((60, 3)) / 8 for seed in (1, 2)]

    def answer(rows: np.ndarray) -> np.ndarray:
        other = [hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest()[0] < 256 / 30 for row in rows]
        z = np.where(np.array(other)[:, None], rows @ weights[1], rows @ weights[0])
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    for queries in (50, 100):
        reports = [audit(answer, x, queries=queries, seed=seed) for seed in range(3)]
        assert sum(len(local(report)) for report in reports) <= 6  # of 48
        assert all(s.margin_radius.value is None for report in reports for s in report.inputs if s.kind != "local")
    assert any("as if something else had given them" in str(s.reason) for s in reports[0].inputs)


def test_a_kink_at_the_inputs_is_flagged() -> None:
    """|x| of features that are 0: slopes differ to either side, although the energy is flat in the displacement."""
    rng = np.random.default_rng(0)
    weights, x = rng.standard_normal((40, 3)) / 6, rng.standard_normal((6, 40))
    x[:, :30] = 0.0

    def answer(rows: np.ndarray) -> np.ndarray:
        z = np.abs(rows) @ weights + 0.1 * rows @ weights
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    report = audit(answer, x, queries=120)
    assert local(report) == []
    assert all("kinked" in s.flags for s in report.inputs)


def test_even_shares_and_slopes() -> None:
    share = even_share(np.array([1.0, 3.0, 0.0]), np.array([1.0, 1.0, 0.0]), np.array([True, True, True]))
    np.testing.assert_allclose(share, [0.5, 0.75, np.nan])
    assert slope_of(np.zeros(3), np.ones(3)) == 0.0
