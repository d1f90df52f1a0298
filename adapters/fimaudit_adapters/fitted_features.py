"""What a fitted estimator says of its features: their names, and which of them it was fitted on as categories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fimaudit.errors import DataError
from fimaudit.models.columns import TableColumn

__all__ = ["as_fitted", "categorical_features", "feature_names", "missing_marks", "table_categories"]

#: Steps that take each value as a category of its own, by the names of their classes.
_ENCODERS = ("OneHotEncoder", "OrdinalEncoder", "TargetEncoder")
#: Attributes that hold what an ensemble or a search fitted, one or many, each with a name or without.
_INNER = ("best_estimator_", "estimator_", "estimators_", "calibrated_classifiers_", "transformer_list")


def feature_names(estimator: Any) -> tuple[str, ...] | None:
    """Names of the columns that the estimator was fitted on, in its order; ``None`` where it was fitted without.

    scikit-learn's and XGBoost's ``feature_names_in_``, LightGBM's and CatBoost's ``feature_name_``/``feature_names_``; names
    that a library makes up (``Column_0``, ``0``) are none.
    """
    for attribute in ("feature_names_in_", "feature_name_", "feature_names_"):
        try:
            names = getattr(estimator, attribute, None)
        except Exception:  # a property of a library that has no names raises what it likes
            continue
        if names is None or len(names) == 0:
            continue
        found = tuple(str(name) for name in names)
        made_up = [tuple(f"{start}{i}" for i in range(len(found))) for start in ("Column_", "", "f", "feature_")]
        return None if attribute != "feature_names_in_" and found in made_up else found
    return None


def categorical_features(estimator: Any, names: Sequence[str] | None) -> tuple[int, ...]:
    """Positions of the features that the estimator was fitted on as categories, where it says so."""
    found: set[int] = set()
    for part, columns in _parts(estimator, None):
        held = [_position(c, names) for c in columns] if columns is not None else None
        kind = type(part).__name__
        if kind in _ENCODERS:
            inside = range(int(getattr(part, "n_features_in_", 0))) if held is None else held
            found.update(place for place in inside if place is not None)
            continue
        for place in _own_categories(part, kind):
            outer = place if held is None else held[place] if place < len(held) else None
            if outer is not None:
                found.add(outer)
    return tuple(sorted(found))


def missing_marks(estimator: Any, names: Sequence[str] | None) -> tuple[tuple[int, float], ...]:
    """By position: the number that stood for a missing one where the estimator was fitted (``missing_values=-999``)."""
    found: dict[int, float] = {}
    for part, columns in _parts(estimator, None):
        mark = (
            getattr(part, "missing", None)
            if type(part).__name__.startswith("XGB")
            else getattr(part, "missing_values", None)
        )
        if isinstance(mark, bool) or not isinstance(mark, int | float | np.number) or not np.isfinite(mark):
            continue
        held = range(int(getattr(part, "n_features_in_", 0))) if columns is None else [_position(c, names) for c in columns]
        found |= {place: float(mark) for place in held if place is not None}
    return tuple(sorted(found.items()))


def table_categories(estimator: Any, categorical: Sequence[int]) -> tuple[int, ...] | None:
    """Positions of the columns that a booster takes as pandas' categories and knows by their values.

    ``None`` where it takes categories by their place in a list that it does not hold: of XGBoost before 3.1.
    """
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    booster = _booster(last)
    if hasattr(booster, "pandas_categorical"):
        return tuple(categorical) if len(booster.pandas_categorical or ()) == len(categorical) else ()
    if not hasattr(booster, "feature_types"):
        return ()
    known = booster.get_categories() if hasattr(booster, "get_categories") else None
    return None if known is None or known.empty() else tuple(categorical)


def as_fitted(columns: Sequence[TableColumn], estimator: Any, names: Sequence[str] | None) -> tuple[TableColumn, ...]:
    """A table's columns, in the estimator's order, with missing cells as it was fitted with them: NaN, ``None`` or ``NA``.

    Raises:
        DataError: a column of text that was fitted as numbers or truth values, or the other way round.
    """
    out = list(columns)
    for place, (known, missing) in _fitted_cells(estimator, names).items():
        if place >= len(out):
            continue
        column = out[place]
        if column.held_as == "null":  # nothing that could be another kind
            out[place] = replace(
                column, kind="text" if known and isinstance(known[0], str) else column.kind, missing=missing
            )
            continue
        held = column.kind == "text" or (column.kind == "category" and isinstance(next(iter(column.values), None), str))
        if known and column.kind not in ("date",) and all(isinstance(v, str) for v in known) != held:
            fitted, came = ("text", "numbers or truth values") if not held else ("numbers or truth values", "text")
            raise DataError(
                f"{type(estimator).__name__} was fitted on {fitted} in column {column.name!r} "
                f"({', '.join(map(repr, known[:4]))}), but the data has {came}; give the column as it was fitted; of a CSV "
                f"file, --categorical {column.name} reads what was written as text"
            )
        out[place] = replace(column, missing=missing)
    return tuple(out)


def _fitted_cells(estimator: Any, names: Sequence[str] | None) -> dict[int, tuple[list[Any], Any]]:
    """By position: values that encoders know, and what stands for a missing one."""
    found: dict[int, tuple[list[Any], Any]] = {}
    for part, columns in _parts(estimator, None, through=("SimpleImputer",)):
        held = [_position(c, names) for c in columns] if columns is not None else None
        known = getattr(part, "categories_", None)
        if not isinstance(known, list):
            known = None
        imputed = getattr(part, "missing_values", np.nan)
        for inside in range(len(known) if known is not None else int(getattr(part, "n_features_in_", 0))):
            place = inside if held is None else held[inside] if inside < len(held) else None
            if place is None:
                continue
            values = [v.item() if isinstance(v, np.generic) else v for v in known[inside]] if known is not None else []
            marks = [v for v in (*values, imputed) if _is_missing(v)]
            cells = [v for v in values if not _is_missing(v)]
            before = found.get(place, ([], np.nan))
            found[place] = (before[0] or cells, next((m for m in marks if not isinstance(m, float)), before[1]))
    return found


def _booster(part: Any) -> Any:
    """What XGBoost's and LightGBM's estimators trained; ``None`` of others."""
    return part.get_booster() if hasattr(part, "get_booster") else getattr(part, "booster_", None)


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)


def _own_categories(part: Any, kind: str) -> list[int]:
    mask = getattr(part, "is_categorical_", None)
    if mask is not None:
        return [int(i) for i in np.flatnonzero(mask)]
    try:
        if kind.startswith("CatBoost"):
            return [int(i) for i in part.get_cat_feature_indices()]
        booster = _booster(part)
        if hasattr(booster, "feature_types"):
            return [i for i, t in enumerate(booster.feature_types or ()) if t == "c"]
        if hasattr(booster, "dump_model"):  # LightGBM lists the values of its categories
            facts = booster.dump_model(num_iteration=1)["feature_infos"]
            return [i for i, name in enumerate(booster.feature_name()) if facts.get(name, {}).get("values")]
    except Exception:  # not fitted, or a version without it
        return []
    return []


def _parts(
    estimator: Any, columns: Sequence[Any] | None, through: Sequence[str] = ("SimpleImputer", "FunctionTransformer")
) -> Iterator[tuple[Any, Sequence[Any] | None]]:
    """The estimator's steps that see the columns as they came, each with the columns it is given (all when ``None``).

    Behind a first step ``through`` the next one sees them too.
    """
    if hasattr(estimator, "steps"):
        steps = [step for _, step in estimator.steps if step is not None and not isinstance(step, str)]
        for step in steps[:1] if steps else []:
            yield from _parts(step, columns, through)
        if len(steps) > 1 and type(steps[0]).__name__ in through:
            yield from _parts(steps[1], columns, through)
        return
    transformers = getattr(estimator, "transformers_", None)
    if transformers is not None:
        for _, step, given in transformers:
            if not isinstance(step, str):
                yield from _parts(step, _listed(given, estimator), through)
        return
    subsets = getattr(estimator, "estimators_features_", None)
    if subsets is not None:  # bags of features
        for inner, places in zip(estimator.estimators_, subsets, strict=True):
            given = [int(i) if columns is None else columns[int(i)] for i in places]
            yield from _parts(inner, given, through)
        return
    for inner in _inner(estimator):
        yield from _parts(inner, columns, through)
    yield estimator, columns


def _inner(estimator: Any) -> list[Any]:
    """What an estimator fitted on the columns that it was given itself."""
    found = [getattr(estimator, name, None) for name in _INNER]
    if type(estimator).__name__ in ("_CalibratedClassifier", "FrozenEstimator"):
        found.append(getattr(estimator, "estimator", None))
    each = [one for held in found for one in (held if isinstance(held, list) else [held])]
    each = [one[1] if isinstance(one, tuple) and len(one) == 2 else one for one in each]
    return [one for one in each if hasattr(type(one), "get_params") or type(one).__name__ == "_CalibratedClassifier"]


def _listed(given: Any, transformer: Any) -> list[Any]:
    count = int(getattr(transformer, "n_features_in_", 0))
    if isinstance(given, slice):
        return list(range(count))[given]
    array = np.atleast_1d(np.asarray(given, dtype=object if isinstance(given, list) else None))
    if array.dtype == bool or (array.size and all(isinstance(v, bool | np.bool_) for v in array)):
        return np.flatnonzero(array.astype(bool)).tolist()
    return list(array.tolist())


def _position(column: Any, names: Sequence[str] | None) -> int | None:
    if isinstance(column, int | np.integer):
        return int(column)
    return list(names).index(str(column)) if names is not None and str(column) in names else None
