"""A certificate for the smoothed classifier: what most Gaussian displacements of an input are answered, and how far.

The smoothed classifier answers x with the class that the model gives x + sigma z most often, z standard normal. If that
class has a probability of at least p > 1/2, it is the smoothed classifier's answer wherever an input lies within
sigma Phi^-1(p) of x (Cohen, Rosenfeld and Kolter 2019, arXiv 1902.02918). Bounds and levels are applied to the displaced
row, as a part of the model that is smoothed; held features are neither displaced nor covered. Nothing is said of the model
itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from fimaudit.measurement.protocol import Flow, MeasurementFlow
from fimaudit.measurement.settings import Settings
from fimaudit.perturbations.random_signs import generator
from fimaudit.perturbations.ray_points import RayPoints
from fimaudit.perturbations.rows import PlainRows
from fimaudit.results import Certificate, Sensitivity
from fimaudit.space import Space
from fimaudit.statistics.confidence_sequence import LimitsAtLooks

__all__ = ["SMOOTHED_ONLY", "measure_smoothed"]

SMOOTHED_ONLY = "labels only: a certificate of the smoothed classifier, not of the model itself"
#: Labels that choose the class, as a share of all within these limits; those after are independent of the choice.
CHOOSING_SHARE, LEAST_CHOOSING, MOST_CHOOSING = 0.1, 20, 100
BLOCK_NUMBERS = 4 * 2**20
SMOOTH_STREAM = 8


def measure_smoothed(x: NDArray[Any], index: int, space: Space, settings: Settings) -> MeasurementFlow:
    """Certify the smoothed classifier at one input.

    Args:
        x: the input, within the domain.
        index: its position: random numbers depend on it and the seed alone.
        space: the domain; sigma is in units of its scale.
        settings: ``smooth`` is sigma; ``queries`` labels at most; stops when ``smooth_radius`` is reached or out of reach.
    """
    assert settings.smooth is not None
    points, rng = RayPoints(x, space), generator(settings.seed, index, SMOOTH_STREAM)
    base = yield PlainRows(x.astype(space.dtype)[None])
    sigma, wanted, error = settings.smooth, settings.smooth_radius, 1.0 - settings.confidence
    most = settings.queries - 2  # the base row, and the one that was asked before all inputs
    first = yield from _displaced(
        points, rng, sigma, min(most // 2, int(np.clip(CHOOSING_SHARE * most, LEAST_CHOOSING, MOST_CHOOSING)))
    )
    values, counts = np.unique(first, return_counts=True)
    chosen = values[np.argmax(counts)]
    sequence, hits, trials = LimitsAtLooks(most - len(first), error), 0, 0
    for look in sequence.looks:
        labels = yield from _displaced(points, rng, sigma, look - trials)
        trials = look
        hits += int((labels == chosen).sum())
        lower, upper = sequence.update(hits, trials)
        if upper <= 0.5 or (wanted is not None and not _radius(sigma, lower) < wanted <= _radius(sigma, upper)):
            break
    lower, upper = sequence.lower, sequence.upper
    certified = lower > 0.5
    certificate = Certificate(
        sigma=sigma,
        predicted_class=int(chosen) if certified else None,
        radius=_radius(sigma, lower) if certified else None,
        probability_lower=lower,
        probability_upper=upper,
        reaches=None if wanted is None else _reaches(sigma, lower, upper, wanted),
    )
    why = "" if certified else "; the smoothed classifier abstains: no class is shown to have more than half"
    return Sensitivity(
        index=index,
        status="ok" if certified else "abstained",
        method="smoothed",
        predicted_class=int(base[0, 0]),
        queries=len(first) + trials + 2,
        smoothed=certificate,
        reason=SMOOTHED_ONLY + why,
    )


def _radius(sigma: float, probability: float) -> float:
    """sigma Phi^-1(p), 0 up to p = 1/2 and largest where p is 1 as far as a float tells."""
    return max(0.0, sigma * float(ndtri(min(probability, 1.0 - 1e-16))))


def _reaches(sigma: float, lower: float, upper: float, wanted: float) -> bool | None:
    """Whether the radius that was asked for is certified, ``None`` where the labels did not decide it."""
    if lower > 0.5 and _radius(sigma, lower) >= wanted:
        return True
    return False if _radius(sigma, upper) < wanted else None


def _displaced(points: RayPoints, rng: np.random.Generator, sigma: float, count: int) -> Flow[NDArray[np.float64]]:
    """Labels of so many rows x + sigma z, in blocks of bounded size."""
    found = []
    d = len(points.origin)
    block = max(8, BLOCK_NUMBERS // d)
    while count > 0:
        noise = rng.standard_normal((min(block, count), d)) * sigma
        rows, _ = points.rows(noise, np.full(d, 0.5, dtype=np.float32))
        found.append((yield PlainRows(rows))[:, 0])
        count -= len(rows)
    return np.concatenate(found) if found else np.empty(0)
