"""XGBoost, LightGBM and CatBoost for real: categories, gaps, boosters without a scikit-learn face."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fimaudit import audit

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "age": RNG.normal(50, 10, 300),
        "stage": pd.Categorical(RNG.choice(["I", "II", "III"], 300)),
        "weight": RNG.normal(75, 12, 300),
    }
)
TABLE.loc[::5, "weight"] = np.nan
Y = np.array(["low", "high"])[((TABLE.age > 52) | (TABLE.stage == "III")).astype(int)]


def check(model: Any, truth: Any, y: Any) -> None:
    report = audit(model, TABLE[:8], y=y[:8], scale="std", queries=40, profile="off")
    assert [s.probability for s in report.inputs] == pytest.approx(np.asarray(truth)[:8].max(axis=1).tolist(), rel=1e-5)
    assert [report.data["feature_names"][k] for k in report.domain["frozen"]] == ["stage"]
    assert {s.status for s in report.inputs} <= {"ok", "below_detection"}


def test_xgboost() -> None:
    xgboost = pytest.importorskip("xgboost")
    codes = (Y == "low").astype(int)
    model = xgboost.XGBClassifier(n_estimators=20, enable_categorical=True, n_jobs=1).fit(TABLE, codes)
    check(model, model.predict_proba(TABLE), codes)
    column = model.get_booster().predict(xgboost.DMatrix(TABLE, enable_categorical=True))
    check(model.get_booster(), np.stack([1 - column, column], axis=1), codes)


def test_lightgbm() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    model = lightgbm.LGBMClassifier(n_estimators=20, n_jobs=1, verbose=-1).fit(TABLE, Y)
    check(model, model.predict_proba(TABLE), Y)
    column = model.booster_.predict(TABLE)
    check(model.booster_, np.stack([1 - column, column], axis=1), (model.classes_[1] == Y).astype(int))


def test_catboost() -> None:
    catboost = pytest.importorskip("catboost")
    table = TABLE.assign(stage=TABLE.stage.astype(str))
    options = {"iterations": 20, "verbose": 0, "thread_count": 1, "allow_writing_files": False}
    model = catboost.CatBoostClassifier(**options).fit(table, Y, cat_features=["stage"])
    check(model, model.predict_proba(table), Y)
