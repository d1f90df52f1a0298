"""One cell of the study: a trained network, its inputs, every metric over them, and the smallest perturbations found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from benchmarks._ddn import ddn
from benchmarks._study_attacks import autoattack, hop_skip_jump, within_eps
from benchmarks._study_data import Split
from benchmarks._study_failures import measure_failures
from benchmarks._study_stability import measure_stability
from benchmarks._study_together import run_together
from fimaudit import audit, open_classifier
from fimaudit.baselines import BASELINES, Question, measure_baseline
from fimaudit.bounds import lipschitz_bound
from fimaudit.domain import InputDomain
from fimaudit.errors import FimauditError
from fimaudit.models.classifier import Classifier
from fimaudit.models.counted_passes import CountedModel
from fimaudit.models.meter import Meter
from fimaudit.results import Interval, Sensitivity
from fimaudit.space import Space
from fimaudit.validation.art_estimator import quiet
from fimaudit.validation.correlations import median_ratio, spearman
from fimaudit.validation.smallest_perturbation import AttackResult, choose_attacks, smallest_perturbation

__all__ = [
    "FLAG",
    "FLAGGED_SHARE",
    "LABELS",
    "METRICS",
    "Clock",
    "Sizes",
    "as_length",
    "is_flagged",
    "measure_network",
    "metrics_of",
    "shorter",
    "witnesses_of",
]

#: The rule by which a cell is set aside, fixed before the study was run for the first time: more than this share of its
#: inputs carry the flag of the scale profile, which the 200 queries themselves raise, without any attack.
FLAG, FLAGGED_SHARE = "local_radius_overstates", 0.25
#: Quantities of the audit: name in the report, whether a large value means a sensitive input.
OURS = {"margin_radius": False, "smallest_radius": False, "peak_spectral_norm": True, "spectral_norm": True}
EXACT = {"margin_radius": False, "peak_spectral_norm": True, "spectral_norm": True}
#: Steps and starts of DDN at every input.
DDN_STEPS, DDN_STARTS = 150, 2
#: The distance from labels alone, where a cell holds it.
LABELS = "label_radius"
#: Every metric of a cell in the order of the tables.
METRICS = (*OURS, *(f"{name}_white" for name in EXACT), LABELS, *BASELINES)
LARGE_MEANS_SENSITIVE = {name for name, sign in OURS.items() if sign} | {f"{n}_white" for n, sign in EXACT.items() if sign}
LARGE_MEANS_SENSITIVE |= {name for name, baseline in BASELINES.items() if baseline.sensitivity}


@dataclass(frozen=True)
class Sizes:
    """How much is measured in a cell.

    Attributes:
        inputs: test inputs: of the audit, the baselines, and DDN from several starts.
        queries: rows an input of the black-box audit, and of each sampling baseline.
        clever: inputs of CLEVER.
        attacked: inputs that PGD, Carlini-Wagner and DeepFool of the library attack besides.
        automatic: inputs that AutoAttack attacks, at two eps.
        labelled: inputs whose distance is measured from labels too.
        labels: of each of these.
        repeated: inputs that are measured again with other queries, seeds and steps, and as failing variants.
        walked: inputs that HopSkipJump attacks.
        steps: rows that it may take for each.
    """

    inputs: int = 100
    queries: int = 200
    clever: int = 12
    attacked: int = 2
    automatic: int = 16
    labelled: int = 50
    labels: int = 1000
    repeated: int = 12
    walked: int = 1
    steps: int = 2000


@dataclass
class Clock:
    """CPU seconds of this process for each part of a cell: other work on the machine does not count."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.process_time)

    def lap(self, name: str, parts: int = 1) -> None:
        """Give what passed since the last lap to ``name``, for each of so many inputs."""
        now = time.process_time()
        self.seconds[name] = self.seconds.get(name, 0.0) + (now - self._last) / max(parts, 1)
        self._last = now


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
    network: nn.Module, split: Split, x: np.ndarray, y: np.ndarray, sizes: Sizes, seed: int, eps: float, extras: bool = True
) -> dict[str, Any]:
    """Everything about one network over (n, *shape) inputs: per input, and in all.

    Args:
        eps: at which AutoAttack is run, beside the network's own median smallest perturbation.
        extras: also variants of the network that the measurement should fail on.
    """
    classifier = open_classifier(network, "softmax")
    domain = InputDomain(split.lower, split.upper, unit=split.unit)
    space = domain.resolve(x, classifier.info.dtype)
    clock = Clock()
    report = audit(classifier, x, y=y, domain=domain, queries=sizes.queries, mode="black-box", seed=seed)
    clock.lap("margin_radius", len(x))
    readings, costs = _ours(classifier, x, domain, report.inputs, report.summary.queries, seed)
    clock.lap("margin_radius_white", len(x))
    readings[LABELS], costs[LABELS], walked_to = _from_labels(network, x, domain, sizes, seed)
    clock.lap(LABELS, min(sizes.labelled, len(x)))
    for name in BASELINES:
        count = min(sizes.clever, len(x)) if name == "clever" else len(x)
        found = [_baseline(name, classifier, space, x[i], int(y[i]), report.inputs[i], sizes, seed) for i in range(count)]
        readings[name] = [one.value for one in found] + [None] * (len(x) - count)
        costs[name] = (float(np.mean([one.forward for one in found])), float(np.mean([one.backward for one in found])))
        clock.lap(name, count)
    truth = _attack(classifier, space, x[: sizes.attacked], report.inputs[: sizes.attacked], seed)
    clock.lap("attacks", min(sizes.attacked, len(x)))
    searched = ddn(network, x, split.lower, split.upper, steps=DDN_STEPS, starts=DDN_STARTS, seed=seed)
    clock.lap("ddn", len(x))
    truth = _with_ddn(truth, searched)
    known = [d for d in truth["distance"] if d is not None]
    middle = float(np.median(known)) if known else eps
    automatic = [autoattack(network, split, x[: sizes.automatic], one, seed) for one in (eps, middle)]
    clock.lap("autoattack", 2 * min(sizes.automatic, len(x)))
    within = within_eps(network, split, x, eps)
    walked = hop_skip_jump(classifier, space, x, report.inputs, sizes.walked, sizes.steps, seed)
    clock.lap("hopskipjump", sizes.walked)
    repeated = measure_stability(classifier, x[: sizes.repeated], domain, report.inputs, seed)
    clock.lap("stability", min(sizes.repeated, len(x)))
    failures = measure_failures(network, x[: sizes.repeated], domain, sizes.queries, seed) if extras else {}
    clock.lap("failures", min(sizes.repeated, len(x)))
    bound = _bound(network, x.shape[1:])
    clock.lap("bound")
    return {
        "predicted": [s.predicted_class for s in report.inputs],
        "labels": y.tolist(),
        "probability": [s.probability for s in report.inputs],
        "flags": [s.flags for s in report.inputs],
        "status": [s.status for s in report.inputs],
        "limits": [(s.margin_radius.lower, s.margin_radius.upper) for s in report.inputs],
        "readings": readings,
        "witnesses": {"margin_radius": witnesses_of(report.inputs), LABELS: walked_to},
        "costs": costs,
        "attacks": truth,
        "within_eps": within,
        "autoattack": automatic,
        "hopskipjump": walked,
        "stability": repeated,
        "failures": failures,
        "lipschitz": bound,
        "cpu_seconds": {name: round(value, 4) for name, value in clock.seconds.items()},
    }


def metrics_of(cell: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a metric: rank correlation with the smallest perturbation, its interval, the ratio, the cost an input."""
    found = np.array([np.nan if v is None else v for v in cell["attacks"]["distance"]], dtype=float)
    rows = []
    for name, values in cell["readings"].items():
        length = as_length(name, values)
        correlation = spearman(length, found)
        ratio = (
            median_ratio(length, found)
            if name.startswith(("margin", "smallest", "label", "clever", "great"))
            else Interval()
        )
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


def _from_labels(
    network: nn.Module, x: np.ndarray, domain: InputDomain, sizes: Sizes, seed: int
) -> tuple[list[float | None], tuple[float, float], list[float | None]]:
    """The distance from labels alone at the first inputs, rows an input, and how far the counterexamples lie."""
    few = x[: sizes.labelled]
    report = audit(open_classifier(network, "labels"), few, domain=domain, link="labels", queries=sizes.labels, seed=seed)
    found = [_value(s.margin_radius) for s in report.inputs]
    return found + [None] * (len(x) - len(few)), (report.summary.queries / len(few), 0.0), witnesses_of(report.inputs)


def witnesses_of(inputs: Sequence[Sensitivity]) -> list[float | None]:
    """How far each input's counterexample lies, ``None`` where there is none."""
    return [s.witness.distance if s.witness else None for s in inputs]


def _bound(network: nn.Module, shape: tuple[int, ...]) -> float | None:
    """L_z from the weights, ``None`` for a network that is not known layer by layer."""
    try:
        found = lipschitz_bound(network, input_shape=shape).lipschitz
    except FimauditError:
        return None
    return found if np.isfinite(found) else None


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


def _with_ddn(found: dict[str, Any], searched: np.ndarray) -> dict[str, Any]:
    """The smallest perturbation of every input: of DDN, and of the library's attacks where they ran."""
    own = [float(v) if np.isfinite(v) else None for v in searched]
    library = found["distance"] + [None] * (len(own) - len(found["distance"]))
    distance, by = [], []
    for place, (one, other) in enumerate(zip(own, library, strict=True)):
        nearer = other is not None and (one is None or other < one)
        distance.append(other if nearer else one)
        by.append(found["by"][place] if nearer else None if one is None else "ddn")
    return {**found, "library": found["distance"], "ddn": own, "distance": distance, "by": by}
