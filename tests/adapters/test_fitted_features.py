"""What an estimator was fitted on as a category is held, whatever type its column has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from fimaudit_adapters.fitted_features import categorical_features, feature_names
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import BaggingClassifier, HistGradientBoostingClassifier, StackingClassifier, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder, StandardScaler

from fimaudit import audit

RNG = np.random.default_rng(0)
X = np.column_stack([RNG.normal(size=120), RNG.integers(0, 3, 120).astype(float), RNG.normal(size=120)])
Y = (X[:, 0] + X[:, 1] > 1).astype(int)
FRAME = pd.DataFrame(X, columns=["dose", "kind", "age"])


def encoding(columns: Any, others: Any) -> Any:
    words = ColumnTransformer([("w", OneHotEncoder(), columns), ("n", StandardScaler(), others)])
    return make_pipeline(words, LogisticRegression())


MODELS: dict[str, tuple[Any, Any]] = {
    "positions": (encoding([1], [0, 2]), X),
    "mask": (encoding(np.array([False, True, False]), [0, 2]), X),
    "slice": (encoding(slice(1, 2), [0, 2]), X),
    "names": (encoding(["kind"], ["dose", "age"]), FRAME),
    "calibrated": (CalibratedClassifierCV(encoding(["kind"], ["dose", "age"])), FRAME),
    "vote": (VotingClassifier([("a", encoding(["kind"], ["dose", "age"]))], voting="soft"), FRAME),
    "stack": (StackingClassifier([("a", encoding([1], [0, 2]))], cv=2), X),
    "one against the rest": (OneVsRestClassifier(encoding(["kind"], ["dose", "age"])), FRAME),
    "a threshold": (FixedThresholdClassifier(encoding(["kind"], ["dose", "age"])), FRAME),
    "bags": (BaggingClassifier(encoding([1], [0, 2]), 2, random_state=0), X),
    "histograms": (HistGradientBoostingClassifier(max_iter=5, categorical_features=[1]), X),
    "histograms by name": (HistGradientBoostingClassifier(max_iter=5, categorical_features=["kind"]), FRAME),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_category_of_the_models_is_held(name: str) -> None:
    model, data = MODELS[name]
    model.fit(data, Y)
    assert categorical_features(model, feature_names(model)) == (1,)
    report = audit(model, data[:5], queries=16, scale="std")
    assert report.domain["frozen"] == [1]
    assert [s.probability for s in report.inputs] == pytest.approx(model.predict_proba(data[:5]).max(axis=1).tolist())
    assert {s.status for s in report.inputs} <= {"ok", "below_detection"}


def test_bins_of_a_number_are_no_categories() -> None:
    model = make_pipeline(KBinsDiscretizer(4, strategy="uniform"), LogisticRegression()).fit(X, Y)
    report = audit(model, X[:5], queries=16, scale="std")
    assert report.domain["frozen"] == []
    assert {s.kind for s in report.inputs} == {"finite_scale"}


def test_in_a_table_of_another_order_and_freed() -> None:
    model = encoding(["kind"], ["dose", "age"]).fit(FRAME, Y)
    other = FRAME[["kind", "age", "dose"]][:5]
    assert audit(model, other, queries=16, scale="std").domain["frozen"] == [0]
    plain = HistGradientBoostingClassifier(max_iter=5, categorical_features=["kind"]).fit(FRAME, Y)
    assert audit(plain, other, queries=16, scale="std", free=["kind"]).domain["frozen"] == []


@pytest.mark.parametrize("data", [X, FRAME], ids=["array", "table"])
def test_a_number_that_stood_for_a_missing_one_is_held_like_a_gap(data: Any) -> None:
    reports = []
    for mark in (np.nan, -999.0):
        table = data.copy()
        table[np.arange(len(X)) % 3 == 0] = np.column_stack([X[::3, :2], np.full(len(X[::3]), mark)])
        model = make_pipeline(SimpleImputer(missing_values=mark), StandardScaler(), LogisticRegression()).fit(table, Y)
        reports.append(audit(model, table[:9], queries=16, scale="std", frozen=[1], lower=-9, upper=9))
    assert [s.spectral_norm.value for s in reports[0].inputs] == [s.spectral_norm.value for s in reports[1].inputs]
    assert any("-999 counts as missing" in warning for warning in reports[1].warnings)
