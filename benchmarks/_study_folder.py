"""Real networks as files with known smallest perturbations, measured from their probabilities alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._study_cell import LABELS, Sizes, is_flagged, shorter, witnesses_of
from benchmarks._study_stability import measure_stability
from fimaudit import audit, open_classifier
from fimaudit.baselines import BASELINES, Question, measure_baseline
from fimaudit.domain import InputDomain
from fimaudit.errors import DataError
from fimaudit.models.counted_passes import CountedModel
from fimaudit.models.meter import Meter
from fimaudit.validation.smallest_perturbation import choose_attacks, smallest_perturbation

__all__ = ["folder_models", "measure_folder_model"]

#: Inputs on which the black-box attack is set beside the known perturbation, and rows it may take for each.
ATTACKED, ATTACK_ROWS = 1, 3_000


def folder_models(folder: Path) -> dict[str, Any]:
    """The models of a folder that have known smallest perturbations: name to truth.

    The folder holds ``truth.json`` (model name to ``link`` and a list ``inputs`` of ``adversarial_l2``, ``spectral_norm``,
    ``margin_radius``), and for each model ``NAME.onnx`` and ``NAME.npz`` with ``x``, pixels in [0, 1].

    Raises:
        DataError: no ``truth.json`` there.
    """
    file = folder / "truth.json"
    if not file.exists():
        raise DataError(f"expected {file} with the models' known perturbations; leave out --models")
    truth = json.loads(file.read_text(encoding="utf-8"))
    return {name: of for name, of in truth.items() if any(i.get("adversarial_l2") for i in of["inputs"])}


def measure_folder_model(folder: Path, name: str, truth: dict[str, Any], sizes: Sizes, seed: int) -> dict[str, Any]:
    """The same fields as ``measure_network``, from the file: no derivatives, so only the metrics that need none."""
    known = truth["inputs"]
    x = np.load(folder / f"{name}.npz")["x"][: len(known)]
    classifier = open_classifier(str(folder / f"{name}.onnx"), link=truth["link"])
    domain = InputDomain(0.0, 1.0, unit="pixel in [0, 1]")
    space = domain.resolve(x, classifier.info.dtype)
    report = audit(classifier, x, domain=domain, queries=sizes.queries, mode="black-box", seed=seed)
    queries = report.summary.queries / len(x)
    readings: dict[str, list[float | None]] = {
        "margin_radius": [s.margin_radius.value for s in report.inputs],
        "smallest_radius": [shorter(s.margin_radius.value, s.smallest_radius) for s in report.inputs],
        "peak_spectral_norm": [s.peak_spectral_norm.value for s in report.inputs],
        "spectral_norm": [s.spectral_norm.value for s in report.inputs],
        "margin_radius_white": [i["margin_radius"] for i in known],
        "spectral_norm_white": [i["spectral_norm"] for i in known],
    }
    classes = report.model["classes"]
    costs = {key: (1.0, float(classes)) if key.endswith("_white") else (queries, 0.0) for key in readings}
    passes = CountedModel(Meter(classifier))
    for baseline in [key for key, of in BASELINES.items() if not of.derivatives]:
        found = [
            measure_baseline(
                baseline, passes, Question(x[s.index], space, s.displacement or 1e-2, sizes.queries, 1000 * seed + s.index)
            )
            for s in report.inputs
        ]
        readings[baseline] = [one.value for one in found]
        costs[baseline] = (float(np.mean([one.forward for one in found])), 0.0)
    few = x[: sizes.labelled]
    by_labels = open_classifier(str(folder / f"{name}.onnx"), "labels")
    seen = audit(by_labels, few, domain=domain, link="labels", queries=sizes.labels, seed=seed)
    by_labels.close()
    readings[LABELS] = [s.margin_radius.value for s in seen.inputs] + [None] * (len(x) - len(few))
    costs[LABELS] = (seen.summary.queries / len(few), 0.0)
    repeated = measure_stability(classifier, x[: sizes.repeated], domain, report.inputs, seed)
    names = choose_attacks("auto", False, x.shape[1:])
    others = (x, np.array([s.predicted_class for s in report.inputs]))
    ratios = []
    for s in report.inputs[:ATTACKED]:
        unit = s.margin_radius.value or 1.0
        arguments = {"seed": s.index, "others": others, "most": ATTACK_ROWS}
        distance = smallest_perturbation(passes, x[s.index], space, unit, names, **arguments).distance  # type: ignore[arg-type]
        ratios.append(None if distance is None else distance / known[s.index]["adversarial_l2"])
    classifier.close()
    distances = [i.get("adversarial_l2") for i in known]
    return {
        "predicted": [s.predicted_class for s in report.inputs],
        "probability": [s.probability for s in report.inputs],
        "flags": [s.flags for s in report.inputs],
        "status": [s.status for s in report.inputs],
        "limits": [(s.margin_radius.lower, s.margin_radius.upper) for s in report.inputs],
        "stability": repeated,
        "flagged": is_flagged([s.flags for s in report.inputs]),
        "features": x[0].size,
        "readings": readings,
        "witnesses": {"margin_radius": witnesses_of(report.inputs), LABELS: witnesses_of(seen.inputs)},
        "costs": costs,
        "attacks": {"names": ["given"], "distance": distances, "by": ["given"] * len(x), "each": {}, "rows": [0, 0]},
        "black_box_ratio": ratios,
    }
