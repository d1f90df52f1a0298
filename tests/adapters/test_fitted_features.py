"""What an estimator was fitted on as a category is held, whatever type its column has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from fimaudit_adapters.fitted_features import categorical_features, feature_names
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
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
