"""Boosters of XGBoost, LightGBM and CatBoost without their scikit-learn face, and their files. None is imported before."""

from __future__ import annotations

import importlib
import os
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import TargetError

__all__ = ["BOOSTER_FILES", "BoosterEstimator", "is_booster", "read_booster", "stopped_early"]

#: Endings that ``save_model`` of the libraries gives files, which hold no code, and how these begin.
BOOSTER_FILES = {
    ".json": {"xgboost": rb'\s*\{\s*"(learner|version)"', "catboost": rb'\s*\{\s*"(ctr_data|features_info|model_info)"'},
    ".ubj": {"xgboost": rb"\{"},
    ".txt": {"lightgbm": rb"tree\r?\n"},
    ".cbm": {"catboost": rb"CBM1"},
}
#: What a whole file holds: of one that was cut short, LightGBM and XGBoost end the process.
_WHOLE = {".ubj": rb"\}\s*\Z", ".txt": rb"\n(end of trees|feature.importances)"}
_KINDS = {("xgboost.core", "Booster"), ("lightgbm.basic", "Booster"), ("catboost.core", "CatBoost")}
#: Objectives that give probabilities, by how their names begin, and among these some that do not.
_PROBABILITIES = ("binary", "multi", "Logloss", "CrossEntropy", "MultiClass")
_NO_PROBABILITIES = ("multi:softmax", "binary:hinge", "binary:logitraw")


def is_booster(target: object) -> bool:
    """Whether it is one, known by the names of its classes; CatBoost's classifiers are boosters with a face."""
    known = any((c.__module__, c.__name__) in _KINDS for c in type(target).__mro__)
    return known and not hasattr(type(target), "predict_proba")


def read_booster(path: str) -> Any:
    """The booster in a file as its library's ``save_model`` wrote it.

    Raises:
        TargetError: it is none, or the library is not installed or cannot read it.
    """
    suffix = os.path.splitext(path)[1].lower()
    libraries = BOOSTER_FILES[suffix]
    with open(path, "rb") as handle:
        head = handle.read(1000)
        whole = suffix not in _WHOLE or re.search(_WHOLE[suffix], head + handle.read())
    library = next((name for name, begins in libraries.items() if re.match(begins, head)), None)
    wanted = f"expected a model as save_model of {' or '.join(libraries)} writes it at {path!r}"
    if library is None:
        raise TargetError(f"{wanted}, but the file begins otherwise")
    if not whole:
        raise TargetError(f"{wanted}, but the file was cut short; copy it again")
    try:
        module = importlib.import_module(library)
    except ImportError as exc:
        raise TargetError(f"opening {path!r} needs {library}, which is not installed; pip install {library}") from exc
    try:
        if library == "catboost":
            json = path.lower().endswith(".json")
            booster = module.CatBoost().load_model(path, format="json" if json else "cbm")
        else:
            booster = module.Booster(model_file=path)
        _facts(booster, library)  # of CatBoost's JSON nothing else is checked
        return booster
    except Exception as exc:
        said = " ".join(str(exc).split())[:300]
        raise TargetError(f"{wanted}, got {type(exc).__name__}: {said}; it may be truncated") from exc


def stopped_early(booster: Any) -> list[str]:
    """A sentence where XGBoost's booster holds more rounds than the best: its own ``predict`` uses all of them."""
    best = booster.attr("best_iteration") if hasattr(booster, "attr") and hasattr(booster, "num_boosted_rounds") else None
    if best is None or int(best) + 1 >= booster.num_boosted_rounds():
        return []
    return [
        f"the booster holds {booster.num_boosted_rounds()} rounds, of which round {best} was the best; all are used, as "
        f"Booster.predict does: to audit what XGBClassifier answers, give that, or booster[:{int(best) + 1}]"
    ]


class BoosterEstimator:
    """A booster with ``predict_proba``: (B, K) probabilities, of two classes from one column.

    Args:
        booster: trained for classification with an objective that gives probabilities.

    Raises:
        TargetError: its objective gives labels, ranks or other numbers.
    """

    def __init__(self, booster: Any) -> None:
        self._booster, self._library = booster, type(booster).__module__.partition(".")[0]
        if self._library == "catboost" and not booster.is_fitted():
            raise TargetError("CatBoost is not fitted; call fit and save it again")
        try:
            names, objective, self.booster = _facts(booster, self._library)
        except Exception as exc:  # of catboost.sum_models
            raise TargetError(
                f"the booster does not say what it was trained for ({type(exc).__name__}: {' '.join(str(exc).split())}); "
                "expected one that does, or a function from rows to probabilities"
            ) from exc
        self.n_features_in_ = len(names)
        made_up = [[f"{start}{i}" for i in range(len(names))] for start in ("Column_", "")]
        if names and any(names) and names not in made_up:
            self.feature_names_in_ = np.array(names, dtype=object)
        if self._library == "catboost" and len(booster.classes_):
            self.classes_ = booster.classes_
        if not objective.startswith(_PROBABILITIES) or objective in _NO_PROBABILITIES:
            raise TargetError(
                f"the booster's objective is {objective}, which gives no probabilities; expected binary:logistic or "
                "multi:softprob (XGBoost), binary or multiclass (LightGBM), Logloss or MultiClass (CatBoost)"
            )

    def get_booster(self) -> Any:
        """The booster itself, as ``XGBClassifier`` has it."""
        return self._booster

    def get_cat_feature_indices(self) -> list[int]:
        """Positions of CatBoost's categories."""
        return list(self._booster.get_cat_feature_indices()) if self._library == "catboost" else []

    def predict_proba(self, rows: Any) -> NDArray[np.float64]:
        """Answer (B, d) rows or a DataFrame."""
        if self._library == "catboost":
            return np.asarray(self._booster.predict(rows, prediction_type="Probability"))
        if self._library == "xgboost":
            import xgboost

            rows = xgboost.DMatrix(rows, enable_categorical=True)
        p = np.asarray(self._booster.predict(rows))
        return p if p.ndim == 2 else np.stack([1.0 - p, p], axis=1)


def _facts(booster: Any, library: str) -> tuple[list[str], str, str]:
    """Names of the features, the objective, and what is boosted: trees or a linear function."""
    if library == "catboost":
        return list(booster.feature_names_), str(booster.get_all_params().get("loss_function")), "trees"
    if library == "lightgbm":
        objective = str(booster.dump_model(num_iteration=1).get("objective") or "custom")
        return list(booster.feature_name()), objective.partition(" ")[0], "trees"
    import json

    held = json.loads(booster.save_config())["learner"]
    names = list(booster.feature_names or [""] * int(booster.num_features()))
    return names, str(held["objective"]["name"]), str(held["gradient_booster"]["name"])
