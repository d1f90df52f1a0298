"""The adapter for scikit-learn estimators and pipelines. Importing it imports no scikit-learn."""

from __future__ import annotations

import importlib.util
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import DataError, MissingExtraError, TargetError, UntrustedPickleError
from fimaudit.foreign_errors import one_line
from fimaudit.models.classes import finding_names, finding_position
from fimaudit.models.classifier import Classifier, ModelInfo, Options
from fimaudit.models.columns import TableColumn, arranged, as_frame, coded
from fimaudit.models.labels import LabelledAs
from fimaudit.models.links import chosen_finding, to_probabilities
from fimaudit_adapters.boosters import BOOSTER_FILES, BoosterEstimator, is_booster, read_booster, stopped_early
from fimaudit_adapters.fitted_features import (
    as_fitted,
    categorical_features,
    feature_names,
    missing_marks,
    table_categories,
)
from fimaudit_adapters.options import file_fingerprint, refuse_unused, require_file

__all__ = ["ADAPTER", "EstimatorClassifier", "ScikitLearnAdapter"]

#: Endings of files that are opened by unpickling, and of the formats of skops and of libraries of trees, which are not.
PICKLES = (".joblib", ".pkl", ".pickle")
SUFFIXES = (*PICKLES, ".skops", *BOOSTER_FILES)
#: Names of classes whose answers, or whose output, jump.
_JUMPS = (
    (
        re.compile(r"Tree|Forest|GradientBoosting|^XGB(?!.*Linear)|^LGBM|^CatBoost|^BoosterEstimator$"),
        "tree ensemble: piecewise constant",
    ),
    (re.compile(r"Neighbors"), "nearest neighbours: the answer jumps where the neighbours change"),
    (re.compile(r"^(Binarizer|KBinsDiscretizer)$"), "binned features: piecewise constant"),
)


class ScikitLearnAdapter:
    """Opens estimators with ``predict_proba`` and boosters: objects, ``.skops``, boosters' own files, or trusted pickles."""

    option_names = ("name",)

    def accepts(self, target: object) -> bool:
        """An estimator, known by the names of its classes or by its ``predict_proba``, or a path with a known ending."""
        if isinstance(target, str):
            return os.path.splitext(target)[1].lower() in SUFFIXES
        if isinstance(target, type):
            return False
        names = {(c.__module__, c.__name__) for c in type(target).__mro__}
        if is_booster(target):
            return True
        return ("sklearn.base", "BaseEstimator") in names or hasattr(type(target), "predict_proba")

    def open(self, target: Any, options: Options) -> Classifier:
        """Open a fitted classifier.

        Raises:
            MissingExtraError: scikit-learn or skops is not installed.
            TargetError: no such file, not an estimator, not fitted, no ``predict_proba``, or several outputs.
            UntrustedPickleError: it would unpickle and ``trust_pickle`` is not set.
        """
        refuse_unused(options, "scikit_learn", used=("finding",), extra=self.option_names)
        try:
            import sklearn
        except ImportError as exc:
            raise MissingExtraError("opening an estimator", "scikit-learn", "sklearn") from exc
        details: dict[str, Any] = {"scikit-learn": sklearn.__version__}
        notes: list[str] = []
        name = None
        if isinstance(target, str):
            require_file(target, "an estimator")
            name, details["sha256"] = os.path.basename(target), file_fingerprint(target)
            with warnings.catch_warnings(record=True) as raised:
                warnings.simplefilter("always")
                target = _read(target, options.trust_pickle)
            notes = [one_line(w.message, 1000) for w in raised if "version" in type(w.message).__name__.lower()]
        if is_booster(target):
            notes += stopped_early(target)
            name, target = name or type(target).__name__, BoosterEstimator(target)
        else:
            _require_classifier(target, several=options.finding is not None, labels=options.link == "labels")
        return EstimatorClassifier(target, options, name=name, details=details, notes=notes)


class EstimatorClassifier:
    """A fitted estimator as a ``Classifier``: float64 rows in, ``predict_proba`` out."""

    def __init__(
        self, estimator: Any, options: Options, *, name: str | None, details: dict[str, Any], notes: list[str]
    ) -> None:
        names = feature_names(estimator)
        # CatBoost counts the features of a model that was read from a file as 0.
        features = getattr(estimator, "n_features_in_", None) or len(getattr(estimator, "feature_names_", ())) or None
        classes = getattr(estimator, "classes_", None)
        self._estimator = estimator
        self._link = options.link
        self._labels = LabelledAs(classes) if options.link == "labels" else None
        self._columns = options.table
        if names is not None:
            details["feature_names"] = list(names)
            if importlib.util.find_spec("pandas") is None:
                notes.append("the estimator was fitted with column names, which need pandas; rows are passed without them")
                names = None
        self._names = names
        categorical = categorical_features(estimator, names)
        # An estimator that was fitted with column names wants them back, and warns without; pandas carries them.
        self._order = arranged(options.table, names, type(estimator).__name__) if options.table and names else None
        if self._columns and (names is not None or len(self._columns) == features):
            order = self._order or range(len(self._columns))
            fitted = dict(zip(order, as_fitted([self._columns[k] for k in order], estimator, names), strict=True))
            if _library(estimator) in ("xgboost", "lightgbm"):
                fitted = _as_categories(fitted, order, estimator, categorical)
            self._columns = tuple(fitted.get(k, column) for k, column in enumerate(self._columns))
        # Several outputs have classes each, and the finding is one of the outputs.
        outputs = classes if isinstance(classes, list) and classes and np.ndim(classes[0]) > 0 else None
        several = outputs is not None
        self._finding = finding_position(options.finding, None if classes is None or several else _plain(classes))
        if outputs is not None and self._finding is not None:
            if self._finding >= len(outputs):
                raise TargetError(
                    f"expected --class with the position of one of {len(outputs)} outputs, got {self._finding}"
                )
            classes = outputs[self._finding]
        values = None if classes is None or isinstance(classes, list) else _plain(classes)
        called = None if several else finding_names(self._finding, values)
        if values is not None:
            details["class_labels"] = list(values)
        self._info = ModelInfo(
            finding=self._finding,
            name=str(options.extra.get("name") or name or type(estimator).__name__),
            adapter="scikit_learn",
            input_shape=None if features is None else (int(features),),
            dtype="float64",
            classes=2 if called else None if values is None else len(values),
            details={"class": type(estimator).__name__, **details},
            notes=tuple(notes),
            not_smooth=not_smooth(estimator),
            labels_only=self._labels is not None,
            class_values=None if called else values,
            class_names=called,
            exact=_own_values(estimator),
            feature_names=names,
            takes_columns=bool(options.table),
            categorical=categorical,
            missing_marks=missing_marks(estimator, names),
        )

    @property
    def info(self) -> ModelInfo:
        """What is known about the estimator without asking it."""
        return self._info

    def probabilities(self, batch: NDArray[Any]) -> NDArray[np.float64]:
        """Answer (B, d) rows with (B, K) probabilities in the order of ``classes_``."""
        rows: Any = np.array(batch, dtype=np.float64, order="C")
        if rows.ndim != 2 or (self._info.input_shape is not None and rows.shape[1:] != self._info.input_shape):
            wanted = "any" if self._info.input_shape is None else self._info.input_shape[0]
            raise DataError(f"expected rows of {wanted} features, got a batch of shape {rows.shape}")
        if len(rows) == 0:
            raise DataError("expected at least one input, got an empty batch")
        count = len(rows)
        if self._columns and (self._names is not None or coded(self._columns)):
            rows = as_frame(self._columns, rows, self._order)
            rows = rows.set_axis(list(self._names), axis=1) if self._names is not None else rows.to_numpy(dtype=object)
        elif self._names is not None:
            import pandas as pd

            rows = pd.DataFrame(rows, columns=list(self._names))
        if self._labels is not None:
            return self._labels(self._estimator.predict(rows), count)
        answers = self._estimator.predict_proba(rows)
        if isinstance(answers, list) and self._finding is not None:  # one array of two columns for each output
            return to_probabilities(np.asarray(answers[self._finding]), self._link, rows=count)
        link = "identity" if self._finding is not None and self._link == "auto" else self._link
        return to_probabilities(chosen_finding(np.asarray(answers), self._finding), link, rows=count)

    def close(self) -> None:
        """Nothing to give back."""


def _as_categories(
    columns: Mapping[int, TableColumn], order: Sequence[int], estimator: Any, categorical: Sequence[int]
) -> dict[int, TableColumn]:
    """Text, and whole numbers that were fitted as categories, as libraries of trees take them: as pandas' categories.

    Raises:
        DataError: text whose places in the list of categories are not known.
    """
    fitted = table_categories(estimator, categorical)
    out = dict(columns)
    for place, k in enumerate(order):
        column = out[k]
        if column.kind == "text":
            if fitted is None and column.values:
                raise DataError(
                    f"{type(estimator).__name__} does not hold the names of its categories (XGBoost does from 3.1 on), so "
                    f"the text in column {column.name!r} cannot be matched with them; give a DataFrame or Parquet with the "
                    "categories (pandas.Categorical) that it was trained with"
                )
            out[k] = replace(column, kind="category")
        elif column.kind == "whole" and place in (fitted or ()):
            out[k] = replace(column, held_as="category")
    return out


def _plain(classes: Any) -> tuple[Any, ...]:
    """Classes as Python values."""
    return tuple(c.item() if isinstance(c, np.generic) else c if isinstance(c, int | float) else str(c) for c in classes)


def not_smooth(estimator: Any) -> str | None:
    """A short reason why an estimator's answers jump, from its class and those of the estimators in it, or ``None``."""
    found: set[str] = set()
    waiting, seen = [estimator], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        names = {c.__name__ for c in type(one).__mro__}
        reasons = {reason for pattern, reason in _JUMPS if any(pattern.search(name) for name in names)}
        if getattr(one, "booster", None) == "gblinear":
            continue
        found |= reasons
        if not reasons:  # an ensemble says it all
            waiting += [part for held in getattr(one, "__dict__", {}).values() for part in _parts(held)]
    return "; ".join(sorted(found)) or None


def _parts(held: Any) -> list[Any]:
    """Estimators in an attribute: itself, or within lists, tuples and dictionaries."""
    if isinstance(held, dict):
        held = list(held.values())
    if isinstance(held, list | tuple):
        return [part for one in held for part in _parts(one)]
    is_one = hasattr(type(held), "get_params") and (hasattr(type(held), "predict") or hasattr(type(held), "transform"))
    return [held] if is_one else []


def _own_values(estimator: Any) -> bool:
    """Whether a library's own estimator gives the answers, which rounds none: shares of votes look as if it did."""
    return _library(estimator) in ("sklearn", "xgboost", "lightgbm", "catboost")


def _library(estimator: Any) -> str:
    steps = getattr(estimator, "steps", None)
    last = steps[-1][1] if steps else estimator
    last = last.get_booster() if isinstance(last, BoosterEstimator) else last
    return type(last).__module__.partition(".")[0]


def _read(path: str, trust_pickle: bool) -> Any:
    if path.lower().endswith(tuple(BOOSTER_FILES)):
        return read_booster(path)
    if path.lower().endswith(PICKLES):
        if not trust_pickle:
            raise UntrustedPickleError(
                f"{path!r} is a pickle, and opening a pickle can run any code; if you trust where it comes from, "
                "pass --trust-pickle, else save the estimator with skops.io.dump"
            )
        import joblib

        try:
            return joblib.load(path)
        except Exception as exc:
            raise TargetError(f"unpickling {path!r} failed with {type(exc).__name__}: {exc}; it may be truncated") from exc
    try:
        import skops.io
    except ImportError as exc:
        raise MissingExtraError("opening a .skops file", "skops", "sklearn") from exc
    try:
        unknown = skops.io.get_untrusted_types(file=path)
    except Exception as exc:
        raise TargetError(
            f"expected an estimator saved by skops.io.dump at {path!r}, got {type(exc).__name__}: {exc}"
        ) from exc
    if unknown and not trust_pickle:
        raise UntrustedPickleError(
            f"{path!r} holds types that skops does not know to be safe ({', '.join(unknown)}); "
            "if you trust them, pass --trust-pickle"
        )
    try:
        return skops.io.load(path, trusted=unknown)
    except Exception as exc:
        raise TargetError(
            f"reading {path!r} failed with {type(exc).__name__}: {exc}; save it again with this skops"
        ) from exc


def _require_classifier(estimator: Any, *, several: bool = False, labels: bool = False) -> None:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    name = type(estimator).__name__
    wanted = "predict" if labels else "predict_proba"
    if not hasattr(type(estimator), "fit") and not hasattr(estimator, wanted):
        raise TargetError(f"expected a scikit-learn estimator, got {name}")
    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as exc:
        if isinstance(exc, NotFittedError):
            raise TargetError(f"{name} is not fitted; call fit and save it again") from exc
    if labels and getattr(estimator, "classes_", None) is None:
        raise TargetError(f"{name} has no classes_, so what it predicts are no labels; expected a classifier")
    if not hasattr(estimator, wanted) and getattr(estimator, "classes_", None) is None:
        raise TargetError(
            f"{name} is no classifier: it has no predict_proba and no classes; give the classifier, or a function from "
            "inputs to probabilities"
        )
    if not hasattr(estimator, wanted):
        raise TargetError(
            f"{name} has no predict_proba, so it gives labels or scores and no probabilities; wrap it in "
            "sklearn.calibration.CalibratedClassifierCV, fit it with probabilities on, or audit its labels alone "
            "with --link labels"
        )
    classes = getattr(estimator, "classes_", None)
    if isinstance(classes, list) and classes and np.ndim(classes[0]) > 0 and not several:
        raise TargetError(f"{name} predicts {len(classes)} outputs at once; choose one with --class POSITION")
    if getattr(estimator, "multilabel_", False) and not several:
        raise TargetError(f"{name} is multi-label, so its rows are no distributions; choose one label with --class NAME")
    if classes is not None and len(classes) < 2:
        raise TargetError(f"{name} was fitted on a single class, so there is nothing to confuse; expected at least two")


ADAPTER = ScikitLearnAdapter()
