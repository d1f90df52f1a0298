"""Many inputs: quantiles of these inputs and of the population they are a sample of, each with an interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from fimaudit.results import Interval, Quantiles, Sensitivity, Summary
from fimaudit.spectrum import LEARNING, energy_quantile

__all__ = ["population_ranks", "summarise"]

Array = NDArray[np.float64]

QUANTITIES: dict[str, Callable[[Sensitivity], Interval]] = {
    "spectral_norm": lambda s: s.spectral_norm,
    "peak_spectral_norm": lambda s: s.peak_spectral_norm,
    "margin_radius": lambda s: s.margin_radius,
}
#: Where a value could not be measured: a norm is then too small to be seen, a radius too large.
UNKNOWN = {"spectral_norm": -np.inf, "peak_spectral_norm": -np.inf, "margin_radius": np.inf}


def summarise(inputs: Sequence[Sensitivity], confidence: float, queries: int, requests: int) -> Summary:
    """Summary of the measured inputs; failed ones are counted, not averaged.

    Args:
        inputs: the audit's inputs.
        confidence: of each interval.
        queries, requests: rows and calls of the whole run, pilot included.
    """
    measured = [s for s in inputs if s.status != "failed"]
    these = {name: _these(measured, pick, UNKNOWN[name], confidence) for name, pick in QUANTITIES.items()}
    population = {name: _population(measured, pick, UNKNOWN[name], confidence) for name, pick in QUANTITIES.items()}
    return Summary(
        **these,
        population=population,
        statuses=dict(sorted(Counter(s.status for s in inputs).items())),
        queries=queries,
        requests=requests,
    )


def _columns(inputs: Sequence[Sensitivity], pick: Callable[[Sensitivity], Interval]) -> tuple[Array, Array, Array]:
    """Values (NaN unmeasured), lower limits (0 unknown) and upper limits (inf unknown)."""
    cells = [pick(s) for s in inputs]
    value = np.array([np.nan if c.value is None else c.value for c in cells])
    lower = np.array([0.0 if c.lower is None else c.lower for c in cells])
    upper = np.array([np.inf if c.upper is None else c.upper for c in cells])
    return value, lower, upper


def _these(
    inputs: Sequence[Sensitivity], pick: Callable[[Sensitivity], Interval], unknown: float, confidence: float
) -> Quantiles:
    """[Q_p(lower_i), Q_p(upper_i)]; point values of the tails corrected for the noise that stretches them."""
    if not inputs:
        return Quantiles()
    value, lower, upper = _columns(inputs, pick)
    if not np.isfinite(value).any():
        return Quantiles(max=_cell(np.nan, 0.0, float(upper.max())))
    shrunk = _without_noise(value, lower, upper, confidence)

    def at(p: float) -> Interval:
        return _cell(_quantile(shrunk, p, unknown), _quantile(lower, p, 0.0), _quantile(upper, p, np.inf))

    cautious = _bonferroni(inputs, lower, confidence)
    return Quantiles(
        median=_cell(_quantile(value, 0.5, unknown), _quantile(lower, 0.5, 0.0), _quantile(upper, 0.5, np.inf)),
        p05=at(0.05),
        p95=at(0.95),
        min=at(0.0),
        max=_cell(_quantile(shrunk, 1.0, unknown), float(cautious.max()), float(upper.max())),
        mean=_cell(float(value.mean()), float(lower.mean()), float(upper.mean())),
    )


def _population(
    inputs: Sequence[Sensitivity], pick: Callable[[Sensitivity], Interval], unknown: float, confidence: float
) -> Quantiles:
    """Order statistics widened by each input's own limits; without a finite limit where the sample is too small."""
    if not inputs:
        return Quantiles()
    value, lower, upper = _columns(inputs, pick)
    if not np.isfinite(value).any():
        return Quantiles()
    shrunk = _without_noise(value, lower, upper, confidence)
    n = len(value)

    def at(p: float, values: Array) -> Interval:
        first, last = population_ranks(n, p, confidence)
        low = float(np.sort(lower)[first]) if first is not None else 0.0
        high = float(np.sort(upper)[last]) if last is not None else np.inf
        return _cell(_quantile(values, p, unknown), low, high)

    mean = Interval()
    if n >= 2 and np.isfinite(value).all():
        half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * value.std(ddof=1) / np.sqrt(n))
        mean = _cell(float(value.mean()), max(0.0, float(value.mean()) - half), float(value.mean()) + half)
    return Quantiles(median=at(0.5, value), p05=at(0.05, shrunk), p95=at(0.95, shrunk), mean=mean)


def population_ranks(n: int, p: float, confidence: float) -> tuple[int | None, int | None]:
    """Positions (from 0) of the order statistics between which the population quantile lies with ``confidence``.

    P(X_(r) <= q_p) = P(Binomial(n, p) >= r): each side may miss with (1 - confidence) / 2. ``None`` where n is too small:
    the upper limit of p95 at 95 % needs 72 inputs.

    >>> population_ranks(71, 0.95, 0.95)[1] is None, population_ranks(72, 0.95, 0.95)[1]
    (True, 71)
    """
    tail = (1.0 - confidence) / 2
    counts = np.arange(n + 1)
    cumulative = special.bdtr(counts, n, p)  # P(Binomial <= k)
    below = np.flatnonzero(cumulative <= tail)
    first = int(below[-1]) if below.size else None
    above = np.flatnonzero(1.0 - cumulative[:n] <= tail)
    last = int(above[0]) if above.size else None
    return first, last


def _quantile(values: Array, p: float, unknown: float) -> float:
    """Quantile with NaN counted as ``unknown`` (-inf or inf); infinite or NaN where it falls on such a value."""
    ordered = np.sort(np.where(np.isnan(values), unknown, values))
    place = p * (len(ordered) - 1)
    low, high = int(np.floor(place)), int(np.ceil(place))
    if low == high:
        return float(ordered[low])
    with np.errstate(invalid="ignore"):
        return float(ordered[low] + (ordered[high] - ordered[low]) * (place - low))


def _without_noise(value: Array, lower: Array, upper: Array, confidence: float) -> Array:
    """Values drawn towards their median in logs by the share of the variance that is measurement noise."""
    known = np.isfinite(value) & (value > 0) & (lower > 0) & np.isfinite(upper)
    if known.sum() < 3:
        return value
    logs = np.log(value[known])
    sigma = np.log(upper[known] / lower[known]) / (2 * special.ndtri((1 + confidence) / 2))
    total, noise = float(logs.var(ddof=1)), float((sigma**2).mean())
    shrink = np.sqrt(max(0.0, 1.0 - noise / total)) if total > 0 else 0.0
    centre = float(np.median(logs))
    out = value.copy()
    out[known] = np.exp(centre + (logs - centre) * shrink)
    return out


def _bonferroni(inputs: Sequence[Sensitivity], lower: Array, confidence: float) -> Array:
    """Lower limits that hold for all inputs at once, for the lower limit of their maximum."""
    tail = (1.0 - confidence) / 2
    out = lower.copy()
    for i, s in enumerate(inputs):
        terms = s.queries - 2 - LEARNING
        if s.method.startswith(("rademacher", "orthonormal")) and terms > 0:
            out[i] *= energy_quantile(1 - tail, terms, None) / energy_quantile(1 - tail / len(inputs), terms, None)
    return out


def _cell(value: float, lower: float, upper: float) -> Interval:
    kept = [float(v) if np.isfinite(v) else None for v in (value, lower, upper)]
    return Interval(value=kept[0], lower=kept[1], upper=kept[2])
