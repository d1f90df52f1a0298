"""What the page lists: the most sensitive inputs, features and classes over all of them, and every input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fimaudit.audit_report import Report
from fimaudit.report import wording
from fimaudit.report.pictures import heat_uri, picture_uri
from fimaudit.report.shown import most_sensitive, read_shown
from fimaudit.results import Sensitivity, flat_row
from fimaudit.storage.run_folder import RunFolder

__all__ = ["all_inputs", "contrasts", "features_of_all", "sensitive_inputs"]

#: Rows in the page's own table; the rest is in ``inputs.parquet``.
MOST_ROWS = 10_000
#: More classes than this and only the busiest pairs are listed.
MOST_CLASSES = 20
MOST_PAIRS = 20
CARRYING = 6
MOST_FEATURES = 12
LEAST_SHARE = 0.01
#: Methods that measure every feature; others estimate their shares from random directions.
MEASURED_WHOLE = ("basis", "derivatives")
COLUMNS = (
    "index",
    "status",
    "predicted_class",
    "probability",
    "label",
    "group",
    "margin_radius",
    "margin_radius_lower",
    "margin_radius_upper",
    "spectral_norm",
    "spectral_norm_lower",
    "spectral_norm_upper",
    "peak_spectral_norm",
    "contrast_from",
    "contrast_to",
    "queries",
)
CLASS_COLUMNS = ("predicted_class", "label", "contrast_from", "contrast_to")


def sensitive_inputs(run: RunFolder, *, pictures: bool) -> list[dict[str, Any]]:
    """A card of each of the most sensitive inputs, with the input itself where the run keeps it and it may be shown."""
    kept = read_shown(run.folder) if pictures else {}
    bounds = [v if isinstance(v, int | float) else None for v in (run.report.domain[k] for k in ("lower", "upper"))]
    cards = []
    for s in most_sensitive(run.ranked):
        card: dict[str, Any] = {
            "input": s,
            "sentences": wording.decision_words(run.report, s),
            "features": _carried(run.report, None, s),  # names and shares alone: no data of a person
        }
        held = kept.get(s.index)
        if held is not None:
            direction = held.direction
            card["estimated"] = direction is None
            if direction is None and held.witness is not None:
                direction = held.witness.astype(np.float64) - held.x.astype(np.float64)
            card["picture"] = picture_uri(held.x, bounds[0], bounds[1])
            if card["picture"] is not None:
                card["heat"] = None if direction is None else heat_uri(direction)
                card["witness"] = None if held.witness is None else picture_uri(held.witness, bounds[0], bounds[1])
            elif s.carried_by:
                card["features"] = _carried(run.report, held.x, s)
            elif direction is not None:
                card["features"] = _features(run.report, held.x, direction)
        cards.append(card)
    return cards


def _features(report: Report, x: Any, direction: Any) -> list[tuple[str, float, float]]:
    """(feature, its value, its share of the squared direction), the largest shares first."""
    scale = np.broadcast_to(np.asarray(report.domain["scale"], dtype=float), (direction.size,))
    energy = (np.asarray(direction, dtype=float).ravel() / scale) ** 2
    total = float(energy.sum())
    order = np.argsort(-energy, kind="stable")[:CARRYING].tolist() if total > 0 else []
    return [(feature_name(report, i), float(np.asarray(x).ravel()[i]), float(energy[i] / total)) for i in order]


def _carried(report: Report, x: Any, s: Sensitivity) -> list[tuple[str, float | None, float]]:
    """(feature, its value, its share) of the features that the measurement itself named."""
    values = None if x is None else np.asarray(x).ravel()
    return [
        (feature_name(report, c.feature), None if values is None else float(values[c.feature]), c.share)
        for c in s.carried_by
    ]


def feature_name(report: Report, position: int) -> str:
    """The column's name where the data carry names."""
    names = report.data.get("feature_names") or []
    return str(names[position]) if 0 <= position < len(names) else f"feature {position}"


def features_of_all(report: Report, inputs: Sequence[Sensitivity]) -> list[tuple[str, int, int, float]]:
    """(feature, inputs it carries most, inputs that name it, its mean share over all of them), the largest first."""
    measured = [s for s in inputs if s.carried_by]
    if not measured:
        return []
    first = Counter(s.carried_by[0].feature for s in measured)
    named: Counter[int] = Counter()
    total: dict[int, float] = {}
    for s in measured:
        for c in s.carried_by:
            named[c.feature] += 1
            total[c.feature] = total.get(c.feature, 0.0) + c.share
    large = [j for j in total if total[j] >= LEAST_SHARE * len(measured)]
    order = sorted(large, key=lambda j: (-total[j], j))[:MOST_FEATURES]
    return [(feature_name(report, j), first[j], named[j], total[j] / len(measured)) for j in order]


def contrasts(report: Report, inputs: Sequence[Sensitivity]) -> dict[str, Any] | None:
    """How many inputs trade probability between two classes: a matrix for few classes, a list for many."""
    pairs = Counter(tuple(sorted((s.contrast.from_, s.contrast.to))) for s in inputs if s.contrast is not None)
    if not pairs:
        return None
    classes = sorted({k for pair in pairs for k in pair})
    most = max(pairs.values())
    listed = [
        (wording.class_name(report, a), wording.class_name(report, b), n) for (a, b), n in pairs.most_common(MOST_PAIRS)
    ]
    if len(classes) > MOST_CLASSES or len(classes) < 3:
        return {"matrix": None, "pairs": listed, "left_out": max(0, len(pairs) - MOST_PAIRS)}
    rows = [
        (wording.class_name(report, a), [(pairs.get((min(a, b), max(a, b)), 0) if a != b else None) for b in classes])
        for a in classes
    ]
    return {"matrix": rows, "most": most, "pairs": listed, "left_out": 0}


def all_inputs(run: RunFolder) -> dict[str, Any]:
    """The inputs as columns, the most sensitive first where there are too many for the page.

    A column is a list of its cells; where few values come again and again, it is ``values`` and ``at``, the position of
    each cell's value among them; where it counts on from a number, ``first``.
    """
    inputs: Sequence[Sensitivity] = run.ranked
    if len(inputs) > MOST_ROWS:
        inputs = most_sensitive(inputs, MOST_ROWS)
    rows = [flat_row(s) for s in inputs]
    columns = {name: [_short(row[name]) for row in rows] for name in COLUMNS}
    if wording.class_name(run.report, 0) != "class 0":  # else their numbers say the same, and sort as numbers
        for name in CLASS_COLUMNS:
            columns[name] = [None if i is None else wording.class_name(run.report, i) for i in columns[name]]
    columns["flags"] = [" ".join(s.flags) or None for s in inputs]
    kept = [name for name, values in columns.items() if name == "index" or any(v is not None for v in values)]
    return {
        "rows": len(rows),
        "of": run.report.data.get("measured", len(run.inputs)),
        "columns": {name: _packed(columns[name]) for name in kept},
        "flags": Counter(flag for s in inputs for flag in s.flags).most_common(),
    }


def _packed(cells: list[Any]) -> Any:
    if cells and all(isinstance(c, int) for c in cells) and cells == list(range(cells[0], cells[0] + len(cells))):
        return {"first": cells[0], "rows": len(cells)}
    values = list(dict.fromkeys(cells))
    if len(values) * 8 < len(cells):
        place = {value: i for i, value in enumerate(values)}
        return {"values": values, "at": [place[c] for c in cells]}
    return cells


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
