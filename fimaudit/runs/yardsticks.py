"""What a report's headlines can be compared with: found in the data, or asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.audit_report import Report, Yardstick
from fimaudit.data.dataset import AuditDataset
from fimaudit.errors import UsageError
from fimaudit.estimation.linear_model import cross_fitted
from fimaudit.results import Sensitivity
from fimaudit.runs.metadata import domain_facts
from fimaudit.runs.options import AuditOptions
from fimaudit.space import Space
from fimaudit.statistics.spread import evenly_spread
from fimaudit.storage.run_folder import read_run

__all__ = ["check_yardsticks", "find_yardsticks"]

Array = NDArray[np.float64]
#: Inputs whose nearest neighbour of another class is looked for, and numbers of the inputs among which it is.
MOST_LOOKED_AT, MOST_NUMBERS = 200, 20_000_000
#: Numbers in the data and in the weights up to which a linear model is fitted.
MOST_TRAINED, MOST_WEIGHTS = 50_000_000, 2_000_000


def check_yardsticks(options: AuditOptions, dataset: AuditDataset) -> None:
    """Refuse a yardstick that cannot be laid, before the first query.

    Raises:
        UsageError: a linear model without labels or too large, noise below 0, a baseline in another unit.
    """
    if options.linear_model:
        y = dataset.reference.y
        if y is None:
            raise UsageError("--linear-model is trained on the labels, but the data has none; give an array or column 'y'")
        weights = dataset.reference.x[0].size * (int(np.max(y)) + 1)
        if weights > MOST_WEIGHTS or dataset.reference.x.size > MOST_TRAINED:
            raise UsageError(
                f"--linear-model fits at most {MOST_WEIGHTS:,} weights to {MOST_TRAINED:,} numbers, and this data takes "
                f"{weights:,} and {dataset.reference.x.size:,}; audit a smaller sample, or leave it out"
            )
    if options.noise is not None:
        _noise(options.noise, dataset.stated)
    if options.baseline is not None:
        _baseline(options.baseline, dataset.stated)


def find_yardsticks(options: AuditOptions, dataset: AuditDataset, inputs: Sequence[Sensitivity]) -> list[Yardstick]:
    """Those that were asked for, then those that the data hold.

    Args:
        options: ``baseline``, ``noise``, ``linear_model``.
        dataset: the inputs.
        inputs: their results, where they are in memory: the answers stand for classes where no labels are known.
    """
    x, y, space = dataset.reference.x, dataset.reference.y, dataset.stated
    flat = np.asarray(x).reshape(len(x), -1)
    known = np.isfinite(flat).all(axis=1) if flat.dtype.kind == "f" else np.ones(len(flat), bool)
    found: list[Yardstick | None] = []
    if options.baseline is not None:
        found.append(_baseline(options.baseline, space))
    if options.noise is not None:
        found.append(_noise(options.noise, space))
    if options.linear_model and y is not None:
        found.append(_linear_model(flat[known], np.asarray(y)[known], space, options.seed))
    by_label = y is not None
    classes = np.asarray(y) if by_label else _answers(inputs, len(flat))
    found.append(_another_class(flat, np.where(known, classes, -1), space, "class" if by_label else "answer"))
    if y is not None:
        found.append(_most_common(np.asarray(y), dataset.labels.shown))
    return [yardstick for yardstick in found if yardstick is not None]


def _baseline(folder: Any, space: Space) -> Yardstick:
    report: Report = read_run(Path(folder)).report
    own = domain_facts(space)
    for key in ("unit", "scale"):
        if report.domain.get(key) != own[key]:
            raise UsageError(
                f"expected a --baseline in the unit of this run, but the domain's {key} differs from that of {folder}; "
                "audit both with the same --unit and --scale"
            )
    return Yardstick(
        name="baseline",
        words=f"the baseline {report.model.get('name')}",
        distance=report.summary.margin_radius.median.value,
        spectral_norm=report.summary.spectral_norm.median.value,
        accuracy=None if report.accuracy is None else report.accuracy.value,
        inputs=report.data.get("measured"),
    )


def _noise(given: Any, space: Space) -> Yardstick:
    """Along any one direction, noise that is independent between features deviates by its largest deviation at most."""
    sigma = np.asarray(given, dtype=np.float64)
    if not np.isfinite(sigma).all() or (sigma < 0).any() or not (sigma > 0).any():
        raise UsageError("expected --noise as standard deviations of 0 or more, not all 0, in the data's own numbers")
    scale, free = space.scale.ravel(), ~space.frozen.ravel()
    if sigma.ndim and sigma.size != scale.size:
        raise UsageError(f"expected --noise as one number, or one for each of {scale.size} features, got {sigma.size}")
    deviation = float((np.broadcast_to(sigma.ravel() if sigma.ndim else sigma, scale.shape) / scale)[free].max())
    return Yardstick(name="noise", words="one standard deviation of the noise", distance=deviation)


def _linear_model(x: NDArray[Any], y: NDArray[np.int64], space: Space, seed: int) -> Yardstick | None:
    codes = np.unique(y, return_inverse=True)[1]
    found = cross_fitted(x.astype(np.float64), codes, space.unit_step.ravel(), seed) if len(x) >= 4 else None
    if found is None:
        return None
    distance = found[0] if np.isfinite(found[0]) else None
    words = "a linear model trained on the other half of this data"
    return Yardstick(name="linear_model", words=words, distance=distance, accuracy=found[1], inputs=len(x))


def _another_class(x: NDArray[Any], classes: NDArray[np.int64], space: Space, of: str) -> Yardstick | None:
    """Median distance of an input to the nearest one of another class, over the features that may change."""
    free, known = space.free, np.flatnonzero(classes >= 0)
    if len(np.unique(classes[known])) < 2:
        return None
    kept = known[evenly_spread(len(known), max(2, MOST_NUMBERS // max(1, space.features)))]
    scaled = x[kept][:, free.place].astype(np.float64)
    if not free.plain:
        scaled /= free.scale
    scaled -= scaled.mean(axis=0)
    size, classes = np.vecdot(scaled, scaled), classes[kept]
    looked = evenly_spread(len(kept), MOST_LOOKED_AT)
    squared = size[looked][:, None] + size[None] - 2 * (scaled[looked] @ scaled.T)
    squared[classes[looked][:, None] == classes[None]] = np.inf
    nearest = np.sqrt(np.maximum(squared.min(axis=1), 0.0))
    distance = float(np.median(nearest[np.isfinite(nearest)]))
    return Yardstick(
        name="another_class", words=f"the nearest input of another {of} in this data", distance=distance, inputs=len(looked)
    )


def _most_common(y: NDArray[np.int64], names: Sequence[str] | None) -> Yardstick:
    values, counts = np.unique(y, return_counts=True)
    most = int(values[counts.argmax()])
    name = names[most] if names is not None and 0 <= most < len(names) else f"class {most}"
    share = float(counts.max() / counts.sum())
    return Yardstick(name="most_common_class", words=f"always answering {name}", accuracy=share, inputs=len(y))


def _answers(inputs: Sequence[Sensitivity], count: int) -> NDArray[np.int64]:
    classes = np.full(count, -1, dtype=np.int64)
    for s in inputs:
        if s.predicted_class is not None and s.index < count:
            classes[s.index] = s.predicted_class
    return classes
