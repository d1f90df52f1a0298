"""XGBoost, LightGBM and CatBoost for real: categories, gaps, boosters without a scikit-learn face."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fimaudit_adapters.options import file_fingerprint

from fimaudit import audit
from fimaudit.errors import DataError, TargetError
from fimaudit.models.opening import open_classifier

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


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_categories_of_whole_numbers_from_a_file(library: str, tmp_path: Path) -> None:
    table = TABLE[["age"]].assign(stage=pd.Categorical(np.arange(len(TABLE)) % 3 * 10))
    model = {
        "xgboost": lambda: pytest.importorskip("xgboost").XGBClassifier(n_estimators=9, enable_categorical=True, n_jobs=1),
        "lightgbm": lambda: pytest.importorskip("lightgbm").LGBMClassifier(n_estimators=9, n_jobs=1, verbose=-1),
    }[library]().fit(table, (table.stage == 10) ^ (table.age > 50))
    table[1:9].to_csv(tmp_path / "t.csv", index=False)
    report = audit(model, tmp_path / "t.csv", scale="std", queries=16, profile="off")
    assert [s.probability for s in report.inputs] == pytest.approx(model.predict_proba(table[1:9]).max(axis=1), rel=1e-5)
    assert report.domain["frozen"] == [1]


def test_a_position_that_lightgbm_was_given_as_a_category_is_held() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    x = np.column_stack([TABLE.age, TABLE.stage.cat.codes])
    model = lightgbm.LGBMClassifier(n_estimators=9, n_jobs=1, verbose=-1).fit(x, Y, categorical_feature=[1])
    assert audit(model, x[:8], scale="std", queries=16, profile="off").domain["frozen"] == [1]


def test_text_is_not_matched_with_categories_that_a_booster_does_not_name() -> None:
    xgboost = pytest.importorskip("xgboost")
    codes = np.column_stack([TABLE.age, TABLE.stage.cat.codes])
    model = xgboost.XGBClassifier(n_estimators=3, enable_categorical=True, feature_types=["q", "c"], n_jobs=1)
    with pytest.raises(DataError, match="does not hold the names of its categories"):
        audit(model.fit(codes, Y == "low"), TABLE[["age"]].assign(stage=TABLE.stage.astype(str))[:8], scale="std")


def test_a_booster_with_rounds_behind_its_best_says_so() -> None:
    xgboost = pytest.importorskip("xgboost")
    x = RNG.normal(size=(90, 3))
    y = RNG.random(90) < 0.5
    model = xgboost.XGBClassifier(n_estimators=50, early_stopping_rounds=3, n_jobs=1)
    booster = model.fit(x[:60], y[:60], eval_set=[(x[60:], y[60:])], verbose=False).get_booster()
    notes = open_classifier(booster).info.notes
    assert f"of which round {model.best_iteration} was the best" in notes[0]
    best = open_classifier(booster[: model.best_iteration + 1])
    assert best.info.notes == ()
    np.testing.assert_allclose(best.probabilities(x[:5]), model.predict_proba(x[:5]), rtol=1e-5)


def test_catboost() -> None:
    catboost = pytest.importorskip("catboost")
    table = TABLE.assign(stage=TABLE.stage.astype(str))
    options = {"iterations": 20, "verbose": 0, "thread_count": 1, "allow_writing_files": False}
    model = catboost.CatBoostClassifier(**options).fit(table, Y, cat_features=["stage"])
    check(model, model.predict_proba(table), Y)
    base = catboost.CatBoost({**options, "loss_function": "Logloss"}).fit(table, Y, cat_features=["stage"])
    check(base, base.predict(table, prediction_type="Probability"), Y)


def test_a_booster_read_from_a_file_or_of_another_objective(tmp_path: Path) -> None:
    catboost, lightgbm = pytest.importorskip("catboost"), pytest.importorskip("lightgbm")
    x = RNG.normal(size=(60, 3))
    options = {"iterations": 3, "verbose": 0, "thread_count": 1, "allow_writing_files": False}
    catboost.CatBoostClassifier(**options).fit(x, x[:, 0] > 0).save_model(tmp_path / "m.cbm")
    for kind in (catboost.CatBoostClassifier, catboost.CatBoost):  # both count its features as 0
        model = open_classifier(kind().load_model(tmp_path / "m.cbm"))
        assert model.info.input_shape == (3,)
        assert model.info.not_smooth == "tree ensemble: piecewise constant"
        assert model.probabilities(x[:2]).shape == (2, 2)
    numbers = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(x, (x[:, 0] > 0) * 1.0), 2)
    with pytest.raises(TargetError, match="objective is regression, which gives no probabilities"):
        open_classifier(numbers)  # its parameters name no objective, and its answers may lie from 0 to 1
    with pytest.raises(TargetError, match="objective is RMSE"):
        open_classifier(catboost.CatBoost(options).fit(x, x[:, 0]))
    sides = [catboost.CatBoostClassifier(**options).fit(x, x[:, k] > 0) for k in (0, 1)]
    with pytest.raises(TargetError, match="does not say what it was trained for"):
        open_classifier(catboost.sum_models(sides))
    with pytest.raises(TargetError, match="CatBoost is not fitted"):
        open_classifier(catboost.CatBoost(options))


@pytest.mark.parametrize("name", ["m.json", "m.ubj", "m.txt", "m.cbm", "c.json"])
def test_the_file_that_a_library_saves_answers_as_what_it_saved(name: str, tmp_path: Path) -> None:
    library = {"m.json": "xgboost", "m.ubj": "xgboost", "m.txt": "lightgbm"}.get(name, "catboost")
    module, path = pytest.importorskip(library), str(tmp_path / name)
    table = TABLE[["age", "weight"]]
    kind: Any = {"xgboost": "XGBClassifier", "lightgbm": "LGBMClassifier", "catboost": "CatBoostClassifier"}[library]
    options = {"verbose": 0, "allow_writing_files": False, "thread_count": 1} if library == "catboost" else {"n_jobs": 1}
    model = getattr(module, kind)(n_estimators=9, **options).fit(table, (TABLE.age > 52).astype(int))
    if library == "lightgbm":
        model.booster_.save_model(path)
    else:
        model.save_model(path, **({"format": "json"} if name == "c.json" else {}))
    opened = open_classifier(path)
    assert opened.info.name == name
    assert opened.info.details["sha256"] == file_fingerprint(path)
    np.testing.assert_allclose(opened.probabilities(table[:9].to_numpy()), model.predict_proba(table[:9]), rtol=1e-5)
    report = audit(path, table[:6], scale="std", queries=20, profile="off")
    assert [s.probability for s in report.inputs] == pytest.approx(model.predict_proba(table[:6]).max(axis=1), rel=1e-5)


@pytest.mark.parametrize("ending", ["json", "ubj", "txt", "cbm"])
@pytest.mark.parametrize(
    "content", [b"", b"{}", b"tree\n", b"CBM1", b'{"learner":{}}', b"{L\0", b'{"features_info":{}}', b"notes"]
)
def test_a_file_that_no_library_saved_is_refused(content: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.{ending}"
    path.write_bytes(content)
    with pytest.raises(TargetError, match=r"expected .*m\."):
        open_classifier(path)


@pytest.mark.parametrize("name", ["m.txt", "m.ubj"])
def test_a_file_that_was_cut_short_is_refused(name: str, tmp_path: Path) -> None:
    """In a process of its own: the libraries end the process that reads one."""
    path, kind = tmp_path / name, {"m.txt": "lightgbm.LGBMClassifier", "m.ubj": "xgboost.XGBClassifier"}[name]
    library, _, estimator = kind.partition(".")
    model = getattr(pytest.importorskip(library), estimator)(n_estimators=3, n_jobs=1)
    model.fit(TABLE[["age", "weight"]], (TABLE.age > 52).astype(int))
    (model.booster_ if library == "lightgbm" else model).save_model(str(path))
    content = path.read_bytes()
    trees = content.index(b"end of trees") if library == "lightgbm" else len(content)
    for share in (0.2, 0.5, 0.9):
        path.write_bytes(content[: int(share * trees)])
        words = [sys.executable, "-m", "fimaudit", "inspect", str(path)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert (done.returncode, "was cut short" in done.stderr) == (2, True), done
