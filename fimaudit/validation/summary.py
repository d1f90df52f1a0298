"""From attacked inputs to what a validation says: correlations, flips, calibration, and how the attacks compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fimaudit.results import Interval
from fimaudit.validation.correlations import auc, calibration, kendall, median_ratio, spearman
from fimaudit.validation.results import AttackedInput, AttackSummary, CalibrationBin, Correlation, Flipped

__all__ = ["attack_summaries", "calibration_bins", "correlate", "flipped_within"]

#: Metrics of the audit, and whether a large value means a sensitive input.
METRICS = {"margin_radius": False, "peak_spectral_norm": True, "spectral_norm": True}


def correlate(inputs: Sequence[AttackedInput], confidence: float, seed: int) -> list[Correlation]:
    """Rank correlations of each metric with the smallest perturbation; censored inputs are left out and counted."""
    kept, found = _attacked(inputs)
    out = []
    for name, sensitive in METRICS.items():
        value = _column([getattr(s, name) for s in kept])
        length = np.divide(1.0, value, out=np.full_like(value, np.nan), where=value > 0) if sensitive else value
        ratio = Interval() if sensitive else median_ratio(length, found, confidence=confidence, seed=seed)
        out.append(
            Correlation(
                metric=name,
                spearman=spearman(length, found, confidence=confidence, seed=seed),
                kendall=kendall(length, found, confidence=confidence, seed=seed),
                ratio=ratio,
                inputs=int((~np.isnan(length) & ~np.isnan(found)).sum()),
                censored=int(np.isnan(found).sum()),
                unmeasured=int((np.isnan(length) & ~np.isnan(found)).sum()),
            )
        )
    return out


def flipped_within(inputs: Sequence[AttackedInput], eps: Sequence[float], confidence: float, seed: int) -> list[Flipped]:
    """For each eps, how well a small margin radius predicts which inputs an attack flipped within it."""
    kept, found = _attacked(inputs)
    radius = _column([s.margin_radius for s in kept])
    out = []
    for one in eps:
        area, near, far = auc(radius, found, one, confidence=confidence, seed=seed)
        out.append(Flipped(eps=one, auc=area, flipped=near, not_flipped=far))
    return out


def calibration_bins(inputs: Sequence[AttackedInput]) -> list[CalibrationBin]:
    """Medians of radius and perturbation in bins of equally many inputs, by radius."""
    kept, found = _attacked(inputs)
    bins = calibration(_column([s.margin_radius for s in kept]), found)
    return [
        CalibrationBin(
            margin_radius=b.predicted, smallest_perturbation=b.found, lower=b.lower, upper=b.upper, inputs=b.inputs
        )
        for b in bins
    ]


def attack_summaries(inputs: Sequence[AttackedInput], names: Sequence[str]) -> list[AttackSummary]:
    """How each attack did: successes, how often its perturbation was the smallest, its median excess over the smallest."""
    kept, found = _attacked(inputs)
    out = []
    for name in names:
        own = _column([s.attacks.get(name) for s in kept])
        excess = (own / found)[~np.isnan(own)] - 1.0
        out.append(
            AttackSummary(
                name=name,
                succeeded=int((~np.isnan(own)).sum()),
                smallest=sum(s.attack == name for s in kept),
                median_excess=float(np.median(excess)) if excess.size else None,
            )
        )
    return out


def _attacked(inputs: Sequence[AttackedInput]) -> tuple[list[AttackedInput], NDArray[np.float64]]:
    kept = [s for s in inputs if s.status != "failed"]
    return kept, _column([s.smallest_perturbation for s in kept])


def _column(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
