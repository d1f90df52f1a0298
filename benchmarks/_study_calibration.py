"""How well robust accuracy at eps is predicted from the radius alone: a curve from some networks, tested on others.

The curve is S(q), the share of inputs whose smallest perturbation is more than q times their radius. A network's robust
accuracy at eps is then the mean over its inputs of (right) x S(eps / radius): no attack on that network is used. With S a
step at q = 1 the radius is taken at its word; that is the baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FIXED",
    "HELD_OUT",
    "Points",
    "calibrate",
    "calibration_curve",
    "points_of",
    "predicted_accuracy",
    "robust_accuracy",
]

Cell = Mapping[str, Any]
Array = NDArray[np.float64]

#: What is held out at once: the networks that the curve is fitted on share none of it with those that it is tested on.
HELD_OUT: Mapping[str, Callable[[Cell], Any]] = {
    "one network": lambda cell: (cell["dataset"], cell["model"], cell["training"], cell["seed"]),
    "a family": lambda cell: cell["model"],
    "a training": lambda cell: cell["training"],
    "a data set": lambda cell: cell["dataset"],
}
#: eps at which a network is asked: these quantiles of its own radii, which are known without an attack and never trivial.
QUANTILES = np.linspace(0.1, 0.9, 9)
#: And at these, in input units, the same for every network: what a requirement would name.
FIXED = (0.1, 0.25, 0.5, 1.0, 2.0)
RESAMPLES = 500
#: Networks with fewer radii say nothing about a share.
FEWEST = 4


@dataclass(frozen=True)
class Points:
    """The inputs of one network that have a radius.

    Attributes:
        radius: (n,) from probabilities.
        found: (n,) smallest perturbation, ``inf`` where no attack changed the decision.
        right: (n,) whether the network is right.
    """

    radius: Array
    found: Array
    right: NDArray[np.bool_]


def points_of(cell: Cell, metric: str = "margin_radius") -> Points:
    """A cell's inputs with a radius above 0."""
    radius = np.array([np.nan if v is None else v for v in cell["readings"][metric]], dtype=float)
    found = np.array([np.inf if v is None else v for v in cell["attacks"]["distance"]], dtype=float)
    right = np.array(cell["predicted"]) == np.array(cell["labels"])
    known = radius > 0
    return Points(radius[known], found[known], right[known])


def calibration_curve(points: Sequence[Points]) -> Array:
    """The sorted ratios of smallest perturbation to radius; each network weighs the same by its quantiles."""
    grid = (np.arange(200) + 0.5) / 200
    each = [np.quantile(one.found / one.radius, grid, method="inverted_cdf") for one in points]
    return np.sort(np.concatenate(each))


def predicted_accuracy(points: Points, eps: float, curve: Array | None) -> float:
    """Robust accuracy at eps from the radii, by a curve; with ``None`` a radius above eps counts as robust."""
    if curve is None:
        return float(np.mean(points.right & (points.radius > eps)))
    above = 1.0 - np.searchsorted(curve, eps / points.radius, side="right") / len(curve)
    return float(np.mean(points.right * above))


def robust_accuracy(points: Points, eps: float) -> float:
    """Share of inputs that are right and that no attack changed within eps."""
    return float(np.mean(points.right & (points.found > eps)))


def calibrate(cells: Sequence[Cell], metric: str = "margin_radius") -> dict[str, Any]:
    """Errors in points of each network, for every way to hold networks out, and of the radius taken at its word."""
    points = [points_of(cell, metric) for cell in cells]
    kept = [i for i, one in enumerate(points) if len(one.radius) >= FEWEST]
    schemes: dict[str, Any] = {"none: the radius at its word": [_errors(points[i], None) for i in kept]}
    for name, group_of in HELD_OUT.items():
        groups = {i: group_of(cells[i]) for i in kept}
        if len(set(groups.values())) < 2:
            continue
        curves = {
            group: calibration_curve([points[i] for i in kept if groups[i] != group]) for group in set(groups.values())
        }
        schemes[name] = [_errors(points[i], curves[groups[i]]) for i in kept]
    whole = calibration_curve([points[i] for i in kept]) if kept else np.array([])
    at = {f"{q:g}": float(np.mean(whole > q)) for q in (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)} if kept else {}
    return {"networks": kept, "schemes": schemes, "curve": at, "unmeasured": _unmeasured(cells, metric)}


def _errors(points: Points, curve: Array | None) -> dict[str, float]:
    """Mean |predicted - found| over the eps of one network in points, and the signed mean with an interval over inputs."""
    levels = np.quantile(points.radius, QUANTILES)
    signed = np.array([predicted_accuracy(points, e, curve) - robust_accuracy(points, e) for e in levels])
    fixed = [predicted_accuracy(points, e, curve) - robust_accuracy(points, e) for e in FIXED]
    rng = np.random.default_rng(0)
    drawn = []
    for rows in rng.integers(0, len(points.radius), (RESAMPLES, len(points.radius))):
        again = Points(points.radius[rows], points.found[rows], points.right[rows])
        drawn.append(np.mean([predicted_accuracy(again, e, curve) - robust_accuracy(again, e) for e in levels]))
    lower, upper = np.quantile(drawn, [0.025, 0.975])
    return {
        "points": 100 * float(np.abs(signed).mean()),
        "fixed": 100 * float(np.abs(fixed).mean()),
        "worst": 100 * float(np.abs(signed).max()),
        "signed": 100 * float(signed.mean()),
        "lower": 100 * float(lower),
        "upper": 100 * float(upper),
    }


def _unmeasured(cells: Sequence[Cell], metric: str) -> int:
    return sum(v is None for cell in cells for v in cell["readings"][metric])
