"""Estimators, pipelines and their files: what is read, recorded and refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC

from fimaudit.errors import DataError, TargetError, UntrustedPickleError
from fimaudit.models.opening import open_classifier

X, Y = load_iris(return_X_y=True)
X -= X.mean(0)
NAMES = np.array(["setosa", "versicolor", "virginica"])


def double(batch: np.ndarray) -> np.ndarray:
    return 2.0 * batch


def test_pipeline_answers_and_is_described() -> None:
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, NAMES[Y])
    model = open_classifier(pipeline)
    np.testing.assert_array_equal(model.probabilities(X[:9]), pipeline.predict_proba(X[:9]))
    info = model.info
    assert (info.adapter, info.input_shape, info.dtype, info.classes) == ("scikit_learn", (4,), "float64", 3)
    assert info.details["class_labels"] == ["setosa", "versicolor", "virginica"]
    assert info.details["class"] == "Pipeline"


def test_column_names_are_given_back_without_a_warning() -> None:
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    forest = RandomForestClassifier(5, random_state=0).fit(frame, Y)
    model = open_classifier(forest)
    np.testing.assert_array_equal(model.probabilities(X[:5]), forest.predict_proba(frame[:5]))
    assert model.info.details["feature_names"] == ["a", "b", "c", "d"]


def test_skops_file(tmp_path: Path) -> None:
    path = tmp_path / "m.skops"
    skops.io.dump(LogisticRegression().fit(X, Y), path)
    model = open_classifier(path)
    assert model.info.name == "m.skops"
    assert len(model.info.details["sha256"]) == 64
    assert model.probabilities(X[:2]).shape == (2, 3)


def test_skops_with_unknown_types(tmp_path: Path) -> None:
    path = tmp_path / "m.skops"
    skops.io.dump(make_pipeline(FunctionTransformer(double), LogisticRegression()).fit(X, Y), path)
    with pytest.raises(UntrustedPickleError, match=r"double.*trust_pickle=True"):
        open_classifier(path)
    assert open_classifier(path, trust_pickle=True).probabilities(X[:2]).shape == (2, 3)


@pytest.mark.parametrize("ending", [".joblib", ".pkl", ".pickle"])
def test_pickles_need_trust(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"m{ending}"
    estimator = LogisticRegression().fit(X, Y)
    if ending == ".joblib":
        joblib.dump(estimator, path)
    else:
        path.write_bytes(pickle.dumps(estimator))
    with pytest.raises(UntrustedPickleError, match=r"can run any code.*trust_pickle=True.*skops\.io\.dump"):
        open_classifier(path)
    assert open_classifier(path, trust_pickle=True).probabilities(X[:2]).shape == (2, 3)


def test_another_version_becomes_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.joblib"
    with monkeypatch.context() as patch:
        patch.setattr("sklearn.base.__version__", "0.99")
        joblib.dump(LogisticRegression().fit(X, Y), path)
    notes = open_classifier(path, trust_pickle=True).info.notes
    assert len(notes) == 1
    assert "from version 0.99" in notes[0]


@pytest.mark.parametrize(
    ("estimator", "sentence"),
    [
        (LinearSVC().fit(X, Y), "LinearSVC has no predict_proba.*CalibratedClassifierCV"),
        (SVC().fit(X, Y), "SVC has no predict_proba"),
        (LinearRegression().fit(X, Y), "LinearRegression is no classifier"),
        (make_pipeline(StandardScaler(), LinearSVC()).fit(X, Y), "Pipeline has no predict_proba"),
        (LogisticRegression(), "LogisticRegression is not fitted; call fit"),
        (make_pipeline(StandardScaler(), LogisticRegression()), "Pipeline is not fitted"),
        (MultiOutputClassifier(LogisticRegression()).fit(X, np.stack([Y, Y], 1)), "predicts 2 outputs at once"),
        (RandomForestClassifier(3).fit(X, np.stack([Y, Y], 1)), "predicts 2 outputs at once"),
        (RandomForestClassifier(3).fit(X, np.zeros(len(X))), "fitted on a single class"),
    ],
)
def test_refusals(estimator: object, sentence: str) -> None:
    with pytest.raises(TargetError, match=sentence):
        open_classifier(estimator)


def test_a_pickle_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps({"weights": [1, 2]}))
    with pytest.raises(TargetError, match="expected a scikit-learn estimator, got dict"):
        open_classifier(path, trust_pickle=True)


@pytest.mark.parametrize("shape", [(2, 5), (4,), (2, 2, 2)])
def test_rows_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    model = open_classifier(LogisticRegression().fit(X, Y))
    with pytest.raises(DataError, match="expected rows of 4 features"):
        model.probabilities(np.zeros(shape))
