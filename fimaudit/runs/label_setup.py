"""Before a run that measures from labels alone: what it cannot take, and the labels of its own inputs, asked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import BudgetExhausted, ModelFailure, UsageError
from fimaudit.measurement.label_radius import FEWEST_LABELS, LABELS_ONLY, KnownLabels
from fimaudit.measurement.pilot import Steps
from fimaudit.models.classifier import Classifier
from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import PlainRows
from fimaudit.runs.options import AuditOptions
from fimaudit.runs.preflight import Preflight
from fimaudit.statistics.spread import evenly_spread

__all__ = [
    "LABEL_STEPS",
    "LabelPreflight",
    "kept_labels",
    "look_at_labels",
    "refuse_for_labels",
    "refuse_without_labels",
    "restored_labels",
]

#: Inputs whose labels are asked first, spread evenly where there are more.
MOST_KNOWN = 1000
#: Rows of one call then, and inputs that are asked once more.
ROWS, AGAIN = 50, 8
#: A measurement from labels has no displacement; one label of each input was asked before.
LABEL_STEPS = Steps(0.0, [], 1)


@dataclass(frozen=True)
class LabelPreflight(Preflight):
    """What the labels of some inputs show; ``repeat_difference`` is 1 where a row asked again was answered differently."""

    def warnings(self) -> list[str]:
        """Sentences for the user."""
        out = [f"{LABELS_ONLY}; the margin radius is measured along the decision boundary (docs/labels.md)"]
        if self.random:
            out.append(
                "the labels are random: the same row asked twice is answered differently; each search asks its rows five "
                "times, and more often where the vote is close"
            )
        return out


def look_at_labels(meter: Meter, x: NDArray[Any], dtype: str) -> tuple[LabelPreflight, KnownLabels, NDArray[np.int64]]:
    """Ask the labels of the inputs, and those of a few once more.

    Args:
        meter: the door to the model.
        x: (n, \\*shape) inputs.
        dtype: what the model is fed.

    Returns:
        what they show, the labels, and the places in ``x`` of the inputs that they belong to.

    Raises:
        ModelFailure, UsageError: no input was answered.
    """
    places = evenly_spread(len(x), MOST_KNOWN)
    labels = np.full(len(places), np.nan)
    failure: Exception | None = None
    for start in range(0, len(places), ROWS):
        block = slice(start, start + ROWS)
        try:
            labels[block] = meter.ask([PlainRows(x[places[block]].astype(dtype))])[0][:, 0]
        except BudgetExhausted:
            raise
        except (ModelFailure, UsageError) as exc:  # one of them may be at fault; its own measurement will say so
            failure = exc
            labels[block] = _one_by_one(meter, x[places[block]].astype(dtype))
        if np.isnan(labels).all() and start + ROWS >= len(places):
            raise failure or ModelFailure("the model answered none of the inputs")
    known = ~np.isnan(labels)
    places, labels = places[known], labels[known]
    again = meter.ask([PlainRows(x[places[:AGAIN]].astype(dtype))], occasion="repeat")[0][:, 0]
    alone = meter.ask([PlainRows(x[places[:1]].astype(dtype))], occasion="alone")[0][:, 0]
    random = bool((again != labels[:AGAIN]).any() or alone[0] != labels[0])
    rows = meter.usage.rows
    preflight = LabelPreflight(len(np.unique(labels)), float(random), 0.0, 0.0, rows)
    return preflight, KnownLabels(x[places], labels, random), places


def kept_labels(known: KnownLabels, places: NDArray[np.int64]) -> dict[str, Any]:
    """For the journal."""
    return {"places": places.tolist(), "labels": known.labels.tolist(), "random": known.random}


def restored_labels(kept: dict[str, Any], x: NDArray[Any]) -> KnownLabels:
    """From the journal."""
    places = np.array(kept["places"], dtype=np.int64)
    return KnownLabels(x[places], np.array(kept["labels"], dtype=np.float64), bool(kept["random"]))


def _one_by_one(meter: Meter, rows: NDArray[Any]) -> NDArray[np.float64]:
    labels = np.full(len(rows), np.nan)
    for i in range(len(rows)):
        try:
            labels[i] = meter.ask([PlainRows(rows[i : i + 1])])[0][0, 0]
        except BudgetExhausted:
            raise
        except (ModelFailure, UsageError):
            continue
    return labels


def refuse_without_labels(options: AuditOptions) -> None:
    """Refuse what is measured from labels.

    Raises:
        UsageError: with what to add.
    """
    if options.smooth is not None:
        raise UsageError(
            "--smooth certifies a classifier that answers with classes; add --link labels, which any model takes"
        )


def refuse_for_labels(options: AuditOptions, classifier: Classifier) -> None:
    """Refuse what needs probabilities.

    Raises:
        UsageError: with the option.
    """
    refused = {
        "--mode white-box": options.mode == "white-box",
        "--focus": options.focus is not None,
        "--threshold": options.threshold is not None,
        "--surrogate": options.surrogate is not None,
        "--worst-direction": options.worst_direction,
        "--profile full": options.profile == "full",
    }
    for name, given in refused.items():
        if given:
            raise UsageError(f"{name} needs probabilities, and {classifier.info.name} is read as labels only; leave it out")
    if options.smooth is not None:
        if options.precision is not None:
            raise UsageError("--precision belongs to intervals; a certificate stops by --smooth-radius or after --queries")
        return
    if options.queries != "auto" and options.queries < FEWEST_LABELS:
        raise UsageError(
            f"expected at least {FEWEST_LABELS} queries an input for a radius from labels, got {options.queries}; "
            "1,000 give about 8 % error (docs/labels.md)"
        )
