"""From the study's cells to its figures: ours beside every baseline, across inputs and across networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from benchmarks._study_calibration import PREDICTORS, calibrate, errors_aside
from benchmarks._study_cell import METRICS, as_length
from benchmarks._study_families import family_orders, with_bound
from benchmarks._study_repeats import costs, failures, seed_stability, stability
from fimaudit.validation.correlations import RESAMPLES, spearman

__all__ = [
    "FAILED_FIT",
    "LOW",
    "TARGETS",
    "compare",
    "compare_with_clever",
    "explain",
    "fitted",
    "learned",
    "name_of",
    "network_row",
    "on_fitted",
    "summarise",
]

Cell = Mapping[str, Any]
#: CLEVER's Weibull fit failed where the score is below this share of the exact first-order radius: it would mean gradients a
#: thousand times as long as at the input. The rule knows no attack.
FAILED_FIT = 1e-3
#: A network that is unflagged and orders its inputs less well than this is named and explained.
LOW = 0.8
#: The middle half of the distances hardly differs below this factor: half an error of the radius changes the order.
NARROW = 1.25
#: What attacks leave of a network.
TARGETS = ("smallest_perturbation_median", "robust_accuracy", "autoattack_accuracy")
#: From here on a difference of two rank correlations is worth explaining by more than rounding.
SAME = 1e-9


def name_of(cell: Cell) -> str:
    """``digits VGG plain 0``."""
    return " ".join(str(cell[key]) for key in ("dataset", "model", "training", "seed"))


def summarise(cells: Sequence[Cell], rows: Sequence[Cell]) -> dict[str, Any]:
    """Everything that the page shows and the JSON holds beside the cells.

    Medians and networks are over the networks that learned, calibration over those of them that are not flagged; flagged
    and given networks are predicted with what these say.
    """
    own = [cell for cell in cells if cell["dataset"] != "given"]
    good = [cell for cell in own if learned(cell)]
    calm = [cell for cell in good if not cell["flagged"]]
    aside = [cell for cell in cells if cell["dataset"] == "given" or (cell["flagged"] and learned(cell))]
    networks = [network_row(cell) for cell in own]
    return {
        "flagged": [name_of(cell) for cell in good if cell["flagged"]],
        "not_learned": [name_of(cell) for cell in own if not learned(cell)],
        "headline": _headline(good, rows),
        "metrics": _by_metric(good, rows),
        "low": [explain(cell, row) for cell, row in _low(cells, rows)],
        "across_networks": _across_networks(good, [network_row(cell) for cell in good]),
        "networks": networks,
        "attacks": _attacks(own),
        "worse": [found for cell in good if (found := compare_with_clever(cell)) is not None],
        "calibration": {name: calibrate(calm, predictor) for name, predictor in PREDICTORS.items()},
        "calibration_networks": [name_of(cell) for cell in calm],
        "calibration_aside": {name: errors_aside(calm, aside, predictor) for name, predictor in PREDICTORS.items()},
        "calibration_aside_networks": [name_of(cell) for cell in aside],
        "calibration_label_rows": float(np.mean([cell["costs"]["label_radius"][0] for cell in own])) if own else 0.0,
        "families": family_orders(good),
        "bounds": with_bound(good),
        "stability": stability(good),
        "seeds": seed_stability(good),
        "costs": costs(own),
        "failures": failures(good),
    }


def learned(cell: Cell) -> bool:
    """Whether training ended halfway between chance and always right, classes weighed equally.

    Below, a network's numbers say little about networks that are used.
    """
    return bool(cell["balanced_accuracy"] > (1 + 1 / cell["classes"]) / 2)


def network_row(cell: Cell) -> dict[str, Any]:
    """One network: accuracies, and medians over its inputs of lambda, peak, radius and the perturbation found."""
    exact = cell["readings"]["spectral_norm_white"]
    found = [d is None or d > cell["eps"] for d in cell["attacks"]["distance"]]
    automatic = cell["autoattack"][0]["flipped"]
    return {
        **{
            key: cell[key]
            for key in (
                "dataset",
                "model",
                "training",
                "seed",
                "accuracy",
                "balanced_accuracy",
                "eps",
                "flagged",
                "lipschitz",
            )
        },
        "pgd_accuracy": _held(cell, [not flipped for flipped in cell["within_eps"]["pgd"]]),
        "autoattack_accuracy": _held(cell, [not flipped for flipped in automatic]),
        "robust_accuracy": _held(cell, found),
        "spectral_norm_mean": float(np.nanmean(_floats(exact))),
        "spectral_norm_median": _median(exact),
        "peak_spectral_norm_median": _median(cell["readings"]["peak_spectral_norm"]),
        "margin_radius_median": _median(cell["readings"]["margin_radius"]),
        "smallest_perturbation_median": _median(cell["attacks"]["distance"]),
        "censored": sum(d is None for d in cell["attacks"]["distance"]),
    }


def _held(cell: Cell, held: Sequence[bool]) -> float:
    """Share of the first inputs that are right and held."""
    pairs = zip(cell["predicted"], cell["labels"], held, strict=False)
    return float(np.mean([predicted == label and kept for predicted, label, kept in pairs]))


def _low(cells: Sequence[Cell], rows: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    """Unflagged networks in which the radius orders the inputs less well than ``LOW``."""
    table = {(name_of(r), r["metric"]): r for r in rows}
    pairs = [(cell, table[name_of(cell), "margin_radius"]) for cell in cells if not cell["flagged"]]
    return [(cell, row) for cell, row in pairs if row["spearman"] is not None and row["spearman"] < LOW]


def explain(cell: Cell, row: Cell) -> dict[str, Any]:
    """Why the radius orders a network's inputs badly: sampling, curvature, or distances that hardly differ."""
    found = _floats(cell["attacks"]["distance"])
    exact = spearman(as_length("margin_radius_white", cell["readings"]["margin_radius_white"]), found).value
    quartiles = np.nanquantile(found, [0.25, 0.75])
    narrow = float(quartiles[1] / quartiles[0])
    nearer = [ratio for ratio in cell.get("black_box_ratio", []) if ratio is not None and ratio < 1]
    if nearer:
        why = f"the known perturbations are too large: an attack from probabilities ends at {min(nearer):.2f} of one"
    elif exact is not None and exact >= LOW:
        why = "sampling: from derivatives the radius orders them well"
    elif narrow < NARROW:
        why = f"the distances hardly differ: the middle half lies within a factor of {narrow:.2f}"
    else:
        why = "curvature: the exact first-order radius orders them no better"
    return {
        "network": name_of(cell),
        "spearman": row["spearman"],
        "lower": row["lower"],
        "upper": row["upper"],
        "exact": exact,
        "narrow": narrow,
        "why": why,
    }


def compare_with_clever(cell: Cell) -> dict[str, Any] | None:
    """Where CLEVER orders a cell's inputs better than the black-box radius: by how much, and why; else ``None``.

    Over the inputs on which CLEVER's fit succeeded.
    """
    found = compare(cell, "clever", fitted(cell))
    if found is None or found["difference"][0] <= SAME:
        return None
    lower, white = found["difference"][1], found["exact_radius"]
    if lower <= 0:
        why = "not resolved: the interval of the difference holds 0"
    elif white >= found["clever"] - 0.01:
        why = "sampling: from derivatives the radius does as well as CLEVER, the rest is the noise of 200 queries"
    else:
        why = "curvature: the exact first-order radius falls behind too; CLEVER also looks at gradients away from the input"
    return {"cell": name_of(cell), **found, "why": why}


def compare(cell: Cell, metric: str, kept: np.ndarray) -> dict[str, Any] | None:
    """Rank correlations of the radius and of another metric over the same inputs, and their difference.

    Its interval is a bootstrap over inputs, both correlations on the same resample. ``None`` with fewer than four inputs.
    """
    found = _floats(cell["attacks"]["distance"])
    ours, other = (as_length(name, cell["readings"][name]) for name in ("margin_radius", metric))
    exact = as_length("margin_radius_white", cell["readings"]["margin_radius_white"])
    known = ~(np.isnan(found) | np.isnan(ours) | np.isnan(other)) & kept
    found, ours, other, exact = found[known], ours[known], other[known], exact[known]
    if len(found) < 4:
        return None
    rho = [float(stats.spearmanr(of, found).statistic) for of in (ours, other, exact)]
    rows = np.random.default_rng(0).integers(0, len(found), (RESAMPLES, len(found)))
    ranks = [stats.rankdata(of[rows], axis=1) for of in (ours, other, found)]
    drawn = _correlation(ranks[1], ranks[2]) - _correlation(ranks[0], ranks[2])
    lower, upper = (float(v) for v in np.nanquantile(drawn, [0.025, 0.975]))
    return {
        "ours": round(rho[0], 3),
        metric: round(rho[1], 3),
        "exact_radius": round(rho[2], 3),
        "difference": [round(v, 3) for v in (rho[1] - rho[0], lower, upper)],
        "inputs": len(found),
    }


def fitted(cell: Cell) -> np.ndarray:
    """Which inputs have a CLEVER score whose fit did not fail."""
    clever = _floats(cell["readings"]["clever"])
    exact = _floats(cell["readings"]["margin_radius_white"])
    return np.asarray(~np.isnan(clever) & ~(clever < FAILED_FIT * exact))


def on_fitted(cell: Cell, metric: str) -> float | None:
    """Rank correlation of a metric with the smallest perturbation over the inputs on which CLEVER's fit succeeded."""
    kept = fitted(cell)
    values, found = as_length(metric, cell["readings"][metric]), _floats(cell["attacks"]["distance"])
    return spearman(np.where(kept, values, np.nan), found).value


def _headline(cells: Sequence[Cell], rows: Sequence[Cell]) -> dict[str, Any]:
    kept = {name_of(cell) for cell in cells if not cell["flagged"]}
    out: dict[str, Any] = {"cells": len(cells), "flagged": len(cells) - len(kept)}
    for metric in ("margin_radius", "clever"):
        values = [r["spearman"] for r in rows if r["metric"] == metric and name_of(r) in kept and r["spearman"] is not None]
        costs = [r["cost"] for r in rows if r["metric"] == metric and name_of(r) in kept]
        out[metric] = {
            **_median_interval(values),
            "cells": len(values),
            "forward": float(np.mean([c["forward"] for c in costs])) if costs else None,
            "backward": float(np.mean([c["backward"] for c in costs])) if costs else None,
        }
        both = [on_fitted(cell, metric) for cell in cells if not cell["flagged"]]
        out[f"{metric}_where_clever_fits"] = {**out[metric], **_median_interval([v for v in both if v is not None])}
    scores = [v is not None for cell in cells for v in cell["readings"]["clever"]]
    out["clever_scores"] = sum(scores)
    out["clever_failed_fits"] = sum(scores) - sum(int(fitted(cell).sum()) for cell in cells)
    return out


def _by_metric(cells: Sequence[Cell], rows: Sequence[Cell]) -> list[dict[str, Any]]:
    """Each metric over the unflagged cells: median rank correlation, its range, and where it beats the radius."""
    kept = {name_of(cell) for cell in cells if not cell["flagged"]}
    table = {(name_of(r), r["metric"]): r for r in rows if name_of(r) in kept}
    by_name = {name_of(cell): cell for cell in cells}
    out = []
    for metric in METRICS:
        own = [table[cell, metric] for cell in sorted(kept) if (cell, metric) in table]
        known = [r for r in own if r["spearman"] is not None]
        if not known:
            continue
        pairs = {name: compare(by_name[name], metric, np.array(True)) for name in map(name_of, known)}
        above = {name: p for name, p in pairs.items() if p is not None and p["difference"][0] > SAME}
        values = [r["spearman"] for r in known]
        out.append(
            {
                "metric": metric,
                **_median_interval(values),
                "width": float(np.median([r["upper"] - r["lower"] for r in known])),
                "least": min(values),
                "most": max(values),
                "cells": len(values),
                "above_ours": len(above),
                "resolved_above": [
                    f"{name} ({p[metric]:.2f}, radius {p['ours']:.2f})"
                    for name, p in above.items()
                    if p["difference"][1] > 0
                ],
                "resolved_below": sum(p is not None and p["difference"][2] < 0 for p in pairs.values()),
                "forward": float(np.mean([r["cost"]["forward"] for r in known])),
                "backward": float(np.mean([r["cost"]["backward"] for r in known])),
            }
        )
    return out


def _across_networks(cells: Sequence[Cell], networks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rank correlation over the networks of one data set: a metric's median with what attacks leave of the network."""
    out = []
    for dataset in dict.fromkeys(cell["dataset"] for cell in cells):
        chosen = [i for i, cell in enumerate(cells) if cell["dataset"] == dataset]
        if len(chosen) < 4:
            continue
        for metric in METRICS:
            medians = [_median(as_length(metric, cells[i]["readings"][metric]).tolist()) for i in chosen]
            row: dict[str, Any] = {"dataset": dataset, "metric": metric, "networks": len(chosen)}
            for target in TARGETS:
                found = spearman(_floats(medians), _floats([networks[i][target] for i in chosen]))
                row[target] = [_rounded(v) for v in (found.value, found.lower, found.upper)]
            out.append(row)
    return out


def _attacks(cells: Sequence[Cell]) -> dict[str, Any]:
    """How converged the truth is: the library's attacks against DDN, which found the smallest, AutoAttack beyond it."""
    ratio, found, by = [], [], []
    nearer = both = 0
    walked = []
    for cell in cells:
        distance = cell["attacks"]["distance"]
        pairs = zip(cell["attacks"]["library"], cell["attacks"]["ddn"], strict=False)
        ratio += [ours / other for ours, other in pairs if ours is not None and other is not None]
        found += distance
        by += cell["attacks"]["by"]
        for attack in cell["autoattack"]:
            for place, flipped in enumerate(attack["flipped"]):
                beyond = distance[place] is None or distance[place] > attack["eps"] * (1 + 1e-4)
                nearer, both = nearer + (flipped and beyond), both + 1
        walked += [w / d for w, d in zip(cell["hopskipjump"], distance, strict=False) if w and d]
    return {
        "inputs": len(found),
        "censored": sum(d is None for d in found),
        "smallest_by": {name: by.count(name) for name in dict.fromkeys(by) if name},
        "library": len(ratio),
        "over_ddn": [_rounded(float(v)) for v in np.quantile(ratio, [0.05, 0.5, 0.95])] if ratio else [None] * 3,
        "autoattack": both,
        "autoattack_nearer": nearer,
        "hopskipjump": len(walked),
        "hopskipjump_over": [_rounded(float(v)) for v in np.quantile(walked, [0.1, 0.5, 0.9])] if walked else [None] * 3,
    }


def _median_interval(values: Sequence[float]) -> dict[str, float | None]:
    """The median over cells, with a bootstrap interval over cells."""
    if not values:
        return {"median": None, "lower": None, "upper": None}
    array = np.array(values)
    rows = np.random.default_rng(0).integers(0, len(array), (RESAMPLES, len(array)))
    lower, upper = (float(v) for v in np.quantile(np.median(array[rows], axis=1), [0.025, 0.975]))
    return {"median": float(np.median(array)), "lower": lower, "upper": upper}


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.asarray(np.divide((a * b).sum(axis=1), size, out=np.full(len(a), np.nan), where=size > 0))


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def _median(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None and np.isfinite(v)]
    return float(np.median(known)) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, 3)
