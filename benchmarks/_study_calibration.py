"""How well robust accuracy at eps is predicted without an attack: a curve from some networks, tested on others.

The curve is S(q), the share of inputs whose smallest perturbation is more than q times their radius. A network's robust
accuracy at eps is then the mean over its inputs of (right) x S(eps / radius): no attack on that network is used. With S a
step at q = 1 the radius is taken at its word; that is the baseline.

What a radius cannot tell is how the surface bends beyond the input. Two things can, without an attack. The audit walks
along its estimated gradient to a counterexample: on a plane it meets the boundary at radius / cosine, so the *bend*,
(that / distance walked)^2, is about 1 on a plane, more where the boundary comes nearer, 0 where none was met. One line of
log(perturbation / radius) in the bend and in log(radius / the network's median), since far boundaries come nearer than their
radii say, is fitted to other networks. And labels of the network's first inputs: the median of log(their radius from labels
/ that length), shrunk, scales all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CHOSEN_ON",
    "FIXED",
    "HELD_OUT",
    "LABELLED",
    "PREDICTORS",
    "Fit",
    "Points",
    "Predictor",
    "calibrate",
    "calibration_curve",
    "error_on",
    "errors_aside",
    "fitted_to",
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
#: A bend counts no more than this: nearer than a quarter of the way the decision changes for other reasons.
LARGEST_BEND = 16.0
#: Inputs asked for labels, and how many it takes to move the scale half the way from that of other networks to their own.
LABELLED, HALFWAY = 16, 4
#: The networks that were looked at when the bend's power (of 1, 2, 3), the terms beside it, ``LABELLED`` (of 4, 8, 16, 32)
#: and ``HALFWAY`` (of 0, 4) were chosen: some sixty variants. The page gives the error without them.
CHOSEN_ON = (
    *(f"digits {model} 0" for model in ("VGG plain", "ResNet plain", "DenseNet plain", "VGG pgd")),
    *(f"pneumoniamnist {model} {training} 0" for model in ("VGG", "ResNet", "DenseNet") for training in ("plain", "pgd")),
)


@dataclass(frozen=True)
class Predictor:
    """What a network's lengths are taken from.

    Attributes:
        metric: of the cell.
        terms: of ``TERMS``, which enter a line that is fitted to other networks.
        labelled: inputs whose radius from labels scales all.
    """

    metric: str = "margin_radius"
    terms: tuple[str, ...] = ()
    labelled: int = 0


@dataclass(frozen=True)
class Points:
    """The inputs of one network that have a radius.

    Attributes:
        radius: (n,) from probabilities.
        found: (n,) smallest perturbation, ``inf`` where no attack changed the decision.
        right: (n,) whether the network is right.
        terms: (n, k) of the line.
        labels: (n,) radius from labels, NaN where it was not measured.
    """

    radius: Array
    found: Array
    right: NDArray[np.bool_]
    terms: Array | None = None
    labels: Array | None = None

    def taken(self, rows: Any, radius: Array | None = None) -> Points:
        """Some of the inputs, with other lengths for their radii."""
        return Points((self.radius if radius is None else radius)[rows], self.found[rows], self.right[rows])


def points_of(cell: Cell, predictor: Predictor | str = "margin_radius") -> Points:
    """A cell's inputs with a radius above 0; every decision of networks whose labels are not known counts as right."""
    predictor = Predictor(predictor) if isinstance(predictor, str) else predictor
    radius = _floats(cell["readings"][predictor.metric])
    found = np.array([np.inf if v is None else v for v in cell["attacks"]["distance"]], dtype=float)
    right = np.array(cell["predicted"]) == np.array(cell.get("labels", cell["predicted"]))
    known = radius > 0
    terms = np.stack([TERMS[name](cell, radius) for name in predictor.terms], axis=1) if predictor.terms else None
    labels = _floats(cell["readings"]["label_radius"]) if predictor.labelled else None
    if labels is not None:
        labels[predictor.labelled :] = np.nan
    parts = (None if part is None else part[known] for part in (terms, labels))
    return Points(radius[known], found[known], right[known], *parts)


def _bend(cell: Cell, radius: Array) -> Array:
    """(n,) (distance on a plane / distance of the counterexample)^2 along the estimated gradient; 0 where none was found."""
    queries = cell["settings"]["queries"]
    walked = _floats(cell["witnesses"]["margin_radius"]) * np.sqrt(queries / (queries + cell["features"]))
    return np.minimum(np.nan_to_num(radius / walked, nan=0.0) ** 2, LARGEST_BEND)


def _place(cell: Cell, radius: Array) -> Array:
    """(n,) log of the radius over the network's median."""
    known = radius > 0
    out = np.zeros(len(radius))
    out[known] = np.log(radius[known] / np.median(radius[known]))
    return out


#: What the line is fitted in: each a function of a cell and its (n,) radii.
TERMS: Mapping[str, Callable[[Cell, Array], Array]] = {"bend": _bend, "place": _place}


#: The rows of the table. The first, of the radius alone, and those of other radii have no line.
PREDICTORS = {
    "margin_radius": Predictor(),
    "radius_and_counterexample": Predictor(terms=tuple(TERMS)),
    "radius_and_labels": Predictor(terms=("place",), labelled=LABELLED),
    "radius_counterexample_and_labels": Predictor(terms=tuple(TERMS), labelled=LABELLED),
    "label_radius": Predictor("label_radius"),
    "smallest_radius": Predictor("smallest_radius"),
    "margin_radius_white": Predictor("margin_radius_white"),
}


@dataclass(frozen=True)
class Fit:
    """From some networks: a line for log(perturbation / radius), its constant first, and the curve about it."""

    line: Array
    curve: Array

    def lengths(self, points: Points) -> Array:
        """(n,) distances to be expected."""
        return _lengths(points, self.line)


def fitted_to(points: Sequence[Points]) -> Fit:
    """The line by least squares and the curve, each network weighing the same.

    >>> radius = np.array([1.0, 2.0, 3.0])
    >>> fit = fitted_to([Points(radius, 0.5 * radius, radius > 0)])
    >>> fit.lengths(Points(np.array([4.0]), np.array([9.0]), np.array([True]))).round(6).tolist()
    [2.0]
    """
    rows, values = [], []
    for one in points:
        y = np.log(one.found / one.radius)
        known = np.isfinite(y)
        weight = 1.0 / np.sqrt(max(int(known.sum()), 1))
        rows.append(weight * _design(one)[known])
        values.append(weight * y[known])
    line = np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0]
    return Fit(line, calibration_curve([one.taken(slice(None), _lengths(one, line)) for one in points]))


def _design(points: Points) -> Array:
    one = np.ones((len(points.radius), 1))
    return one if points.terms is None else np.concatenate([one, points.terms], axis=1)


def _lengths(points: Points, line: Array) -> Array:
    out: Array = points.radius * np.exp(_design(points) @ line)
    if points.labels is not None:
        ratio = np.log(points.labels / out)
        ratio = ratio[np.isfinite(ratio)]
        if len(ratio):
            out = out * np.exp(np.median(ratio) * len(ratio) / (len(ratio) + HALFWAY))
    return out


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


def calibrate(cells: Sequence[Cell], predictor: Predictor | str = "margin_radius") -> dict[str, Any]:
    """Errors in points of each network, for every way to hold networks out, and of the radius taken at its word."""
    predictor = Predictor(predictor) if isinstance(predictor, str) else predictor
    points = [points_of(cell, predictor) for cell in cells]
    kept = [i for i, one in enumerate(points) if len(one.radius) >= FEWEST]
    schemes: dict[str, Any] = {}
    if not predictor.terms:
        schemes["none: the radius at its word"] = [_errors(points[i], points[i].radius, None) for i in kept]
    for name, group_of in HELD_OUT.items():
        groups = {i: group_of(cells[i]) for i in kept}
        if len(set(groups.values())) < 2:
            continue
        fits = {group: fitted_to([points[i] for i in kept if groups[i] != group]) for group in set(groups.values())}
        schemes[name] = [error_on(points[i], fits[groups[i]]) for i in kept]
    whole = calibration_curve([points[i] for i in kept]) if kept else np.array([])
    at = {f"{q:g}": float(np.mean(whole > q)) for q in (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)} if kept else {}
    line = fitted_to([points[i] for i in kept]).line.tolist() if kept else []
    return {"networks": kept, "schemes": schemes, "curve": at, "line": line, "unmeasured": _unmeasured(cells, predictor)}


def errors_aside(cells: Sequence[Cell], others: Sequence[Cell], predictor: Predictor) -> list[dict[str, float] | None]:
    """The errors on each of some other networks by what is fitted to all cells; ``None`` for one without radii."""
    points = [one for cell in cells if len((one := points_of(cell, predictor)).radius) >= FEWEST]
    if not points:
        return [None] * len(others)
    fit = fitted_to(points)
    asked = [points_of(cell, predictor) for cell in others]
    return [error_on(one, fit) if len(one.radius) >= FEWEST else None for one in asked]


def error_on(points: Points, fit: Fit) -> dict[str, float]:
    """The errors on a network by what was fitted to others."""
    return _errors(points, fit.lengths(points), fit.curve)


def _errors(points: Points, lengths: Array, curve: Array | None) -> dict[str, float]:
    """Mean |predicted - found| over the eps of one network in points, and the signed mean with an interval over inputs.

    The eps are the deciles of the radii, whatever the lengths that the prediction is made from.
    """
    levels = np.quantile(points.radius, QUANTILES)
    of = points.taken(slice(None), lengths)
    signed = np.array([predicted_accuracy(of, e, curve) - robust_accuracy(of, e) for e in levels])
    fixed = [predicted_accuracy(of, e, curve) - robust_accuracy(of, e) for e in FIXED]
    # What each input adds to the signed mean: a resample of the inputs is a resample of these.
    each = [[predicted_accuracy(o, e, curve) - robust_accuracy(o, e) for e in levels] for o in map(of.taken, _singles(of))]
    rows = np.random.default_rng(0).integers(0, len(lengths), (RESAMPLES, len(lengths)))
    drawn = np.mean(each, axis=1)[rows].mean(axis=1)
    lower, upper = np.quantile(drawn, [0.025, 0.975])
    return {
        "points": 100 * float(np.abs(signed).mean()),
        "fixed": 100 * float(np.abs(fixed).mean()),
        "worst": 100 * float(np.abs(signed).max()),
        "signed": 100 * float(signed.mean()),
        "lower": 100 * float(lower),
        "upper": 100 * float(upper),
    }


def _singles(points: Points) -> list[slice]:
    return [slice(i, i + 1) for i in range(len(points.radius))]


def _unmeasured(cells: Sequence[Cell], predictor: Predictor) -> int:
    return sum(v is None for cell in cells for v in cell["readings"][predictor.metric])


def _floats(values: Sequence[float | None]) -> Array:
    return np.array([np.nan if v is None else v for v in values], dtype=float)
