"""Do the families rank as the closed forms say, and does the bound tell anything beside what was measured?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["FAMILIES", "QUANTITIES", "family_orders", "partial_correlation", "with_bound"]

Cell = Mapping[str, Any]

FAMILIES = ("VGG", "ResNet", "DenseNet", "ViT")
RESAMPLES = 2000


def _median(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else float("nan")


#: Of a network: what is ranked, and whether a large value means vulnerable.
QUANTITIES: Mapping[str, tuple[Callable[[Cell], float], bool]] = {
    "bound L_z": (lambda cell: cell["lipschitz"] or float("nan"), True),
    "lambda": (lambda cell: _median(cell["readings"]["spectral_norm"]), True),
    "peak norm": (lambda cell: _median(cell["readings"]["peak_spectral_norm"]), True),
    "radius": (lambda cell: _median(cell["readings"]["margin_radius"]), False),
    "smallest perturbation": (lambda cell: _median(cell["attacks"]["distance"]), False),
}


def family_orders(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """For each data set and training in which all families are there: the families from least to most vulnerable.

    A family's number is the geometric mean over its networks (seeds). ``kendall``: of each order with that of the smallest
    perturbations.
    """
    out = []
    for dataset, training in dict.fromkeys((cell["dataset"], cell["training"]) for cell in cells):
        chosen = [cell for cell in cells if (cell["dataset"], cell["training"]) == (dataset, training)]
        if not set(FAMILIES) <= {cell["model"] for cell in chosen}:
            continue
        row: dict[str, Any] = {"dataset": dataset, "training": training, "orders": {}, "kendall": {}, "spread": {}}
        scores = {}
        for name, (value, vulnerable) in QUANTITIES.items():
            each = [[np.log(value(cell)) for cell in chosen if cell["model"] == family] for family in FAMILIES]
            score = np.array([np.mean(of) for of in each]) * (1 if vulnerable else -1)
            scores[name] = score
            row["orders"][name] = [FAMILIES[i] for i in np.argsort(score, kind="stable")]
            row["spread"][name] = float(np.exp(np.ptp(score)))
        for name, score in scores.items():
            row["kendall"][name] = float(stats.kendalltau(score, scores["smallest perturbation"]).statistic)
        out.append(row)
    return out


def with_bound(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Of each data set: rank correlation of the bound with the smallest perturbation, alone and given the radius.

    Intervals are bootstraps over networks. The order +1: a large bound goes with a small perturbation. *Within families*
    compares networks of one family only (ranks less their family's mean).
    """
    out = []
    for dataset in dict.fromkeys(cell["dataset"] for cell in cells):
        own = [cell for cell in cells if cell["dataset"] == dataset and cell["lipschitz"] and cell["model"] in FAMILIES]
        if len(own) < 6:
            continue
        bound, radius, found = (
            np.array([sign * QUANTITIES[name][0](cell) for cell in own])
            for name, sign in (("bound L_z", -1), ("radius", 1), ("smallest perturbation", 1))
        )
        families = np.array([FAMILIES.index(cell["model"]) for cell in own])
        known = np.isfinite(bound) & np.isfinite(radius) & np.isfinite(found)
        data = np.stack([stats.rankdata(v[known]) for v in (bound, radius, found)])
        families = families[known]
        out.append(
            {
                "dataset": dataset,
                "networks": int(known.sum()),
                "bound": _with_interval(lambda d, f: _pearson(d[0], d[2]), data, families),
                "bound_within_families": _with_interval(
                    lambda d, f: _pearson(_less(d[0], f), _less(d[2], f)), data, families
                ),
                "radius": _with_interval(lambda d, f: _pearson(d[1], d[2]), data, families),
                "bound_given_radius": _with_interval(lambda d, f: partial_correlation(d[0], d[2], d[1]), data, families),
            }
        )
    return out


def partial_correlation(a: np.ndarray, b: np.ndarray, given: np.ndarray) -> float:
    """Correlation of what is left of two (n,) arrays when a third one is taken out of each by a line.

    >>> x = np.array([1.0, 2.0, 3.0, 4.0])
    >>> round(partial_correlation(x + [0, 1, -1, 0], 2 * x + [0, 1, -1, 0], x), 12)
    1.0
    """
    left = []
    for values in (a, b):
        design = np.stack([np.ones(len(given)), given], axis=1)
        left.append(values - design @ np.linalg.lstsq(design, values, rcond=None)[0])
    return _pearson(*left)


def _less(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Values less the mean of their group."""
    return np.array([value - values[groups == group].mean() for value, group in zip(values, groups, strict=True)])


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / size) if size > 1e-12 else float("nan")


def _with_interval(
    statistic: Callable[[np.ndarray, np.ndarray], float], data: np.ndarray, families: np.ndarray
) -> list[float | None]:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, data.shape[1], (RESAMPLES, data.shape[1]))
    drawn = np.array([statistic(data[:, of], families[of]) for of in rows])
    drawn = drawn[np.isfinite(drawn)]
    values = [statistic(data, families), *(np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan))]
    return [round(float(v), 3) if np.isfinite(v) else None for v in values]
