"""What a fitted estimator says of its features: their names, and which of them it was fitted on as categories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fimaudit.errors import DataError
from fimaudit.models.columns import TableColumn

__all__ = ["as_fitted", "categorical_features", "feature_names"]

#: Steps that take each value as a category of its own, by the names of their classes.
_ENCODERS = ("OneHotEncoder", "OrdinalEncoder", "TargetEncoder")


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
    for part, columns in _parts(estimator, None):
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


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)


def _own_categories(part: Any, kind: str) -> list[int]:
    mask = getattr(part, "is_categorical_", None)
    if mask is not None:
        return [int(i) for i in np.flatnonzero(mask)]
    try:
        if kind.startswith("CatBoost"):
            return [int(i) for i in part.get_cat_feature_indices()]
        if hasattr(part, "get_booster") and hasattr(part.get_booster(), "feature_types"):
            return [i for i, t in enumerate(part.get_booster().feature_types or ()) if t == "c"]
    except Exception:  # not fitted, or a version without it
        return []
    return []


def _parts(estimator: Any, columns: Sequence[Any] | None) -> Iterator[tuple[Any, Sequence[Any] | None]]:
    """The estimator's steps that see the columns as they came, each with the columns it is given (all when ``None``)."""
    if hasattr(estimator, "steps"):
        steps = [step for _, step in estimator.steps if step is not None and not isinstance(step, str)]
        for step in steps[:1] if steps else []:
            yield from _parts(step, columns)
        if len(steps) > 1 and type(steps[0]).__name__ in ("SimpleImputer", "FunctionTransformer"):
            yield from _parts(steps[1], columns)
        return
    transformers = getattr(estimator, "transformers_", None)
    if transformers is not None:
        for _, step, given in transformers:
            if not isinstance(step, str):
                yield from _parts(step, _listed(given, estimator))
        return
    inner = getattr(estimator, "calibrated_classifiers_", None) or [getattr(estimator, "best_estimator_", None)]
    inner = getattr(inner[0], "estimator", inner[0])
    if inner is not None and inner is not estimator:
        yield from _parts(inner, columns)
    yield estimator, columns


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
