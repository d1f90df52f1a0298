"""One cell of the study: a trained network, its inputs, every metric over them, and the smallest perturbations found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from benchmarks._ddn import ddn
from benchmarks._study_data import Split
from fimaudit import audit, open_classifier
from fimaudit.baselines import BASELINES, Question, measure_baseline
from fimaudit.domain import InputDomain, Space
from fimaudit.models.classifier import Classifier
from fimaudit.models.counted_passes import CountedModel
from fimaudit.models.meter import Meter
from fimaudit.results import Interval, Sensitivity
from fimaudit.validation.art_estimator import quiet
from fimaudit.validation.correlations import median_ratio, spearman
from fimaudit.validation.parallel_attacks import run_together
from fimaudit.validation.smallest_perturbation import AttackResult, choose_attacks, smallest_perturbation

__all__ = [
    "FLAG",
    "FLAGGED_SHARE",
    "METRICS",
    "Sizes",
    "as_length",
    "is_flagged",
    "measure_network",
    "metrics_of",
    "shorter",
]

#: The rule by which a cell is set aside, fixed before the study was run for the first time: more than this share of its
#: inputs carry the flag of the scale profile, which the 200 queries themselves raise, without any attack.
FLAG, FLAGGED_SHARE = "local_radius_overstates", 0.25
#: Quantities of the audit: name in the report, whether a large value means a sensitive input.
OURS = {"margin_radius": False, "smallest_radius": False, "peak_spectral_norm": True, "spectral_norm": True}
EXACT = {"margin_radius": False, "peak_spectral_norm": True, "spectral_norm": True}
#: Every metric of a cell in the order of the tables.
METRICS = (*OURS, *(f"{name}_white" for name in EXACT), *BASELINES)
LARGE_MEANS_SENSITIVE = {name for name, sign in OURS.items() if sign} | {f"{n}_white" for n, sign in EXACT.items() if sign}
LARGE_MEANS_SENSITIVE |= {name for name, baseline in BASELINES.items() if baseline.sensitivity}


@dataclass(frozen=True)
class Sizes:
    """How much is measured in a cell.

    Attributes:
        inputs: test inputs.
        queries: rows an input of the black-box audit, and of each sampling baseline.
        clever: inputs of CLEVER.
        checked: inputs on which the attacks are checked against DDN.
    """

    inputs: int = 20
    queries: int = 200
    clever: int = 20
    checked: int = 5


def is_flagged(flags: Sequence[Sequence[str]]) -> bool:
    """Whether a cell is set aside: more than a quarter of its inputs carry ``local_radius_overstates``."""
    return bool(np.mean([FLAG in of for of in flags]) > FLAGGED_SHARE)


def as_length(metric: str, values: Sequence[float | None]) -> np.ndarray:
    """A metric as a number that grows with the distance to be expected: sensitivities enter by their reciprocal."""
    array = np.array([np.nan if v is None else v for v in values], dtype=float)
    if metric not in LARGE_MEANS_SENSITIVE:
        return array
    return np.divide(1.0, array, out=np.full(array.shape, np.inf), where=array > 0) + 0.0 * array


def measure_network(
    network: nn.Module, split: Split, x: np.ndarray, y: np.ndarray, sizes: Sizes, seed: int
) -> dict[str, Any]:
    """Everything about one network over (n, *shape) inputs: per input, and in all."""
    classifier = open_classifier(network, "softmax")
    domain = InputDomain(split.lower, split.upper, unit=split.unit)
    space = domain.resolve(x, classifier.info.dtype)
    report = audit(classifier, x, y=y, domain=domain, queries=sizes.queries, mode="black-box", seed=seed)
    readings, costs = _ours(classifier, x, domain, report.inputs, report.summary.queries, seed)
    for name in BASELINES:
        count = min(sizes.clever, len(x)) if name == "clever" else len(x)
        found = [_baseline(name, classifier, space, x[i], int(y[i]), report.inputs[i], sizes, seed) for i in range(count)]
        readings[name] = [one.value for one in found] + [None] * (len(x) - count)
        costs[name] = (float(np.mean([one.forward for one in found])), float(np.mean([one.backward for one in found])))
    attacked = _attack(classifier, space, x, report.inputs, seed)
    checked = ddn(network, x[: sizes.checked], split.lower, split.upper)
    return {
        "predicted": [s.predicted_class for s in report.inputs],
        "labels": y.tolist(),
        "probability": [s.probability for s in report.inputs],
        "flags": [s.flags for s in report.inputs],
        "readings": readings,
        "costs": costs,
        "attacks": attacked,
        "ddn": [float(v) if np.isfinite(v) else None for v in checked],
    }


def metrics_of(cell: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a metric: rank correlation with the smallest perturbation, its interval, the ratio, the cost an input."""
    found = np.array([np.nan if v is None else v for v in cell["attacks"]["distance"]], dtype=float)
    rows = []
    for name, values in cell["readings"].items():
        length = as_length(name, values)
        correlation = spearman(length, found)
        ratio = median_ratio(length, found) if name.startswith(("margin", "smallest", "clever", "great")) else Interval()
        forward, backward = cell["costs"][name]
        rows.append(
            {
                "dataset": cell["dataset"],
                "model": cell["model"],
                "training": cell["training"],
                "seed": cell["seed"],
                "metric": name,
                "spearman": correlation.value,
                "lower": correlation.lower,
                "upper": correlation.upper,
                "ratio": ratio.value,
                "inputs": int((~np.isnan(length) & ~np.isnan(found)).sum()),
                "cost": {"forward": round(forward, 1), "backward": round(backward, 1)},
            }
        )
    return rows


def _ours(
    classifier: Classifier, x: np.ndarray, domain: InputDomain, inputs: Sequence[Sensitivity], queries: int, seed: int
) -> tuple[dict[str, list[float | None]], dict[str, tuple[float, float]]]:
    """The audit's quantities from probabilities, and the same from derivatives."""
    readings = {name: [_value(getattr(s, name)) for s in inputs] for name in OURS}
    local = readings["margin_radius"]  # the scale profile speaks where it finds a shorter radius
    readings["smallest_radius"] = [shorter(r, s) for s, r in zip(readings["smallest_radius"], local, strict=True)]
    costs = {name: (queries / len(x), 0.0) for name in OURS}
    exact = audit(classifier, x, domain=domain, mode="white-box", seed=seed)
    forward, passes = 1.0, exact.summary.queries / len(x)
    for name in EXACT:
        readings[f"{name}_white"] = [_value(getattr(s, name)) for s in exact.inputs]
        costs[f"{name}_white"] = (forward, passes - forward)
    return readings, costs


def shorter(radius: float | None, elsewhere: float | None) -> float | None:
    """The smaller of the local radius and the shortest of the scale profile, where there is one."""
    known = [one for one in (radius, elsewhere) if one is not None]
    return min(known) if known else None


def _value(cell: Interval | float | None) -> float | None:
    return cell.value if isinstance(cell, Interval) else cell


def _baseline(
    name: str, classifier: Classifier, space: Space, x: np.ndarray, label: int, s: Sensitivity, sizes: Sizes, seed: int
) -> Any:
    passes = CountedModel(Meter(classifier))
    displacement = s.displacement or 1e-2
    return measure_baseline(name, passes, Question(x, space, displacement, sizes.queries, 1000 * seed + s.index, label))


def _attack(classifier: Classifier, space: Space, x: np.ndarray, inputs: Sequence[Sensitivity], seed: int) -> dict[str, Any]:
    """The smallest perturbation of each input, by which attack, and what each attack alone found."""
    passes = CountedModel(Meter(classifier))
    names = choose_attacks("auto", passes.differentiable, x.shape[1:])
    radii = [s.margin_radius.value for s in inputs if s.margin_radius.value]
    usual = float(np.median(radii))

    def task(s: Sensitivity) -> Callable[[CountedModel], AttackResult]:
        unit = s.margin_radius.value or usual
        return lambda own: smallest_perturbation(own, x[s.index], space, unit, names, seed=1000 * seed + s.index)

    with quiet(seed):
        found = run_together(passes, [task(s) for s in inputs])
    return {
        "names": names,
        "distance": [f.distance for f in found],
        "by": [f.attack for f in found],
        "each": {name: [f.distances[name] for f in found] for name in names},
        "rows": [float(np.mean([f.forward for f in found])), float(np.mean([f.backward for f in found]))],
    }
