"""Boosters of XGBoost and LightGBM without their scikit-learn face, given one. Importing this imports neither library."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import TargetError

__all__ = ["BoosterEstimator", "is_booster"]

_KINDS = {("xgboost.core", "Booster"), ("lightgbm.basic", "Booster")}


def is_booster(target: object) -> bool:
    """Whether it is one, known by the names of its classes."""
    return any((c.__module__, c.__name__) in _KINDS for c in type(target).__mro__)


class BoosterEstimator:
    """A booster with ``predict_proba``: (B, K) probabilities, of two classes from one column.

    Args:
        booster: trained for classification with an objective that gives probabilities.

    Raises:
        TargetError: its objective gives labels, ranks or other numbers.
    """

    def __init__(self, booster: Any) -> None:
        self._booster, self._xgboost = booster, type(booster).__module__.startswith("xgboost")
        names = booster.feature_names if self._xgboost else booster.feature_name()
        self.n_features_in_ = int(booster.num_features() if self._xgboost else booster.num_feature())
        made_up = [f"Column_{i}" for i in range(self.n_features_in_)]
        if names and list(names) != made_up:
            self.feature_names_in_ = np.array(names, dtype=object)
        objective = _objective(booster, xgboost=self._xgboost)
        if not objective.startswith(("binary", "multi")) or objective in (
            "multi:softmax",
            "binary:hinge",
            "binary:logitraw",
        ):
            raise TargetError(
                f"the booster's objective is {objective}, which gives no probabilities; expected binary:logistic or "
                "multi:softprob (XGBoost), binary or multiclass (LightGBM)"
            )

    def get_booster(self) -> Any:
        """The booster itself, as ``XGBClassifier`` has it."""
        return self._booster

    def predict_proba(self, rows: Any) -> NDArray[np.float64]:
        """Answer (B, d) rows or a DataFrame."""
        if self._xgboost:
            import xgboost

            rows = xgboost.DMatrix(rows, enable_categorical=True)
        p = np.asarray(self._booster.predict(rows))
        return p if p.ndim == 2 else np.stack([1.0 - p, p], axis=1)


def _objective(booster: Any, *, xgboost: bool) -> str:
    if not xgboost:
        return str(booster.params.get("objective") or "binary")
    import json

    held = json.loads(booster.save_config())["learner"]
    return str(held["objective"]["name"])
