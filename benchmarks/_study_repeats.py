"""How stable the radius is, what each metric costs, and what happens on surfaces on which it should fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from benchmarks._study_cell import FLAG
from benchmarks._study_failures import VARIANTS
from benchmarks._study_stability import QUERIES, STEPS

__all__ = ["costs", "failures", "seed_stability", "spread", "stability"]

Cell = Mapping[str, Any]


def stability(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """By queries and by step: |log(radius / exact radius)| and the rank correlation with it, over the repeated inputs."""
    out = []
    for kind, values in (("queries", QUERIES), ("steps", STEPS)):
        for value in values:
            errors, ranks, lost = [], [], []
            for cell in cells:
                again = _floats(cell["stability"][kind][str(value)])
                exact = _floats(cell["readings"]["margin_radius_white"])[: len(again)]
                known = (again > 0) & (exact > 0)
                lost.append(1.0 - known.mean())
                if known.sum() >= 4:
                    errors.append(float(np.median(np.abs(np.log(again[known] / exact[known])))))
                    ranks.append(float(stats.spearmanr(again[known], exact[known]).statistic))
            out.append(
                {
                    "kind": kind,
                    "value": value,
                    "networks": len(errors),
                    "lost": float(np.mean(lost)) if lost else None,
                    "error": spread(errors),
                    "rank": spread(ranks),
                }
            )
    return out


def seed_stability(cells: Sequence[Cell]) -> dict[str, Any]:
    """Two networks that differ by their seed alone: the ratio of their median radii and perturbations, larger to smaller.

    ``order``: rank correlation of the median radii of all networks of one seed with those of the other.
    """
    pairs: dict[tuple[str, ...], dict[int, Cell]] = {}
    for cell in cells:
        pairs.setdefault((cell["dataset"], cell["model"], cell["training"]), {})[cell["seed"]] = cell
    both = [seeds for seeds in pairs.values() if {0, 1} <= set(seeds)]
    out: dict[str, Any] = {"pairs": len(both)}
    for name, values in (("radius", "margin_radius"), ("perturbation", None), ("lambda", "spectral_norm")):
        medians = np.array([[_middle(seeds[s], values) for s in (0, 1)] for seeds in both]).reshape(-1, 2)
        out[name] = {
            "ratio": spread(np.exp(np.abs(np.log(medians[:, 0] / medians[:, 1]))).tolist()) if len(both) else None,
            "order": float(stats.spearmanr(*medians.T).statistic) if len(both) >= 4 else None,
        }
    return out


def costs(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Rows and CPU milliseconds an input of every metric and attack: medians over networks."""
    names = list(dict.fromkeys(name for cell in cells for name in cell["cpu_seconds"]))
    out = []
    for name in names:
        if name in ("stability", "failures", "bound"):
            continue
        milliseconds = [1e3 * cell["cpu_seconds"][name] for cell in cells if name in cell["cpu_seconds"]]
        rows = [cell["costs"][name] for cell in cells if name in cell["costs"]]
        if name == "attacks":
            rows = [cell["attacks"]["rows"] for cell in cells]
        forward, backward = (float(np.median([r[i] for r in rows])) if rows else None for i in (0, 1))
        out.append({"name": name, "forward": forward, "backward": backward, "milliseconds": spread(milliseconds)})
    return out


def failures(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Each variant over the networks that have it: radius against the perturbation, and what the product says."""
    out = []
    for kind in VARIANTS:
        found = [_failure(cell, kind) for cell in cells if kind in cell.get("failures", {})]
        if not found:
            continue
        row: dict[str, Any] = {"kind": kind, "networks": len(found)}
        for key in ("spearman", "ratio", "peak_spearman", "norm_spearman"):
            row[key] = spread([f[key] for f in found if f[key] is not None])
        for key in ("ok", "local", "flagged", "said"):
            row[key] = float(np.mean([f[key] for f in found]))
        row["silent"] = sum(not f["said"] and f["ratio"] is not None and not 0.75 < f["ratio"] < 4 / 3 for f in found)
        row["warnings"] = sorted({warning for f in found for warning in f["warnings"]}, key=lambda one: (len(one), one))[:1]
        out.append(row)
    return out


def _failure(cell: Cell, kind: str) -> dict[str, Any]:
    """One network's variant. ``said``: a refusal, a warning, a quarter of flags, or a quarter not ``ok`` and ``local``."""
    of = cell["failures"][kind]
    if "refused" in of:
        nothing = {"spearman": None, "ratio": None, "peak_spearman": None, "norm_spearman": None, "ok": 0.0, "local": 0.0}
        return {**nothing, "flagged": 0.0, "said": 1.0, "warnings": [of["refused"]]}
    radius = _floats(of["margin_radius"])
    found = _floats(cell["attacks"]["distance"])[: len(radius)]
    known = (radius > 0) & (found > 0)
    ok = float(np.mean([status == "ok" for status in of["status"]]))
    local = float(np.mean([s == "ok" and k == "local" for s, k in zip(of["status"], of["kind"], strict=True)]))
    flagged = float(np.mean([FLAG in flags for flags in of["flags"]]))
    said = bool(of["warnings"]) or flagged > 0.25 or local < 0.75
    return {
        "spearman": _rank(radius, found),
        "ratio": float(np.median(radius[known] / found[known])) if known.any() else None,
        "peak_spearman": _rank(_reciprocal(of["peak_spectral_norm"]), found),
        "norm_spearman": _rank(_reciprocal(of["spectral_norm"]), found),
        "ok": ok,
        "local": local,
        "flagged": flagged,
        "said": float(said),
        "warnings": of["warnings"],
    }


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median with a bootstrap interval over networks, and the 10 % and 90 % quantiles."""
    known = np.array([v for v in values if np.isfinite(v)])
    if not len(known):
        return None
    rows = np.random.default_rng(0).integers(0, len(known), (2000, len(known)))
    lower, upper = np.quantile(np.median(known[rows], axis=1), [0.025, 0.975])
    low, high = np.quantile(known, [0.1, 0.9])
    return {
        "median": float(np.median(known)),
        "lower": float(lower),
        "upper": float(upper),
        "low": float(low),
        "high": float(high),
    }


def _middle(cell: Cell, metric: str | None) -> float:
    values = cell["attacks"]["distance"] if metric is None else cell["readings"][metric]
    return float(np.nanmedian(_floats(values)))


def _rank(length: np.ndarray, found: np.ndarray) -> float | None:
    known = np.isfinite(length) & (length > 0) & np.isfinite(found)
    if known.sum() < 4:
        return None
    value = float(stats.spearmanr(length[known], found[known]).statistic)
    return value if np.isfinite(value) else None


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def _reciprocal(values: Sequence[float | None]) -> np.ndarray:
    """Of norms above 0: NaN elsewhere."""
    norms = _floats(values)
    return np.divide(1.0, norms, out=np.full(norms.shape, np.nan), where=norms > 0)
