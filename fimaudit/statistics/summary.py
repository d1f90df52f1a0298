"""Many inputs: quantiles of these inputs and of the population they are a sample of, each with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fimaudit.results import Interval, Quantiles, Sensitivity, Summary
from fimaudit.statistics.columns import Columns, IntervalArray
from fimaudit.statistics.confidence import rescaled_limits, signal_share, spread_of_logs
from fimaudit.statistics.one_sided import order_ranks

__all__ = ["population_ranks", "sorted_quantile", "summarise"]

Array = NDArray[np.float64]
Ranks = tuple[int | None, int | None]

#: Where a value could not be measured: a norm is then too small to be seen, a radius too large. Checked by
#: test_summary.test_what_was_not_measured_counts_as_too_small_or_too_far_and_limits_stay.
UNKNOWN = {"spectral_norm": -np.inf, "peak_spectral_norm": -np.inf, "margin_radius": np.inf}
#: The quantiles of these inputs, and those of the population.
THESE, POPULATION = (0.0, 0.05, 0.5, 0.95, 1.0), (0.05, 0.5, 0.95)


def summarise(inputs: Sequence[Sensitivity] | Columns, confidence: float, queries: int, requests: int) -> Summary:
    """Summary of the measured inputs; failed ones are counted, not averaged.

    These inputs: the p-quantiles of the lower and of the upper limits, in the tails of limits so strict that those of equal
    values miss with (1 - confidence) / 2 at most. Population: order statistics of the limits (``population_ranks``). Point
    values in the tails are corrected for measurement noise. The inputs' intervals miss independently; for the population,
    the inputs are an independent sample. How often each is wrong: tests/statistics/test_summary.py.

    Args:
        inputs: the audit's inputs, as results or, where there are many, as columns.
        confidence: of each interval, two-sided, and of the inputs' own.
        queries, requests: rows and calls of the whole run, pilot included.

    Returns:
        Norms in 1 / unit^2, radii in unit, that of the input domain; what has no finite value or limit is ``None``.

    >>> cells = [Interval(value=v, lower=v / 2, upper=v * 2) for v in (1.0, 2.0, 4.0)]
    >>> inputs = [Sensitivity(index=i, status="ok", method="basis-central", spectral_norm=c) for i, c in enumerate(cells)]
    >>> str(summarise(inputs, 0.95, 600, 3).spectral_norm.median)
    '2 [1, 4]'
    """
    table = inputs if isinstance(inputs, Columns) else Columns.of(inputs)
    failed = table.status == "failed"
    measured = table.where(~failed) if failed.any() else table
    these, population = dict.fromkeys(UNKNOWN, Quantiles()), dict.fromkeys(UNKNOWN, Quantiles())
    if len(measured):
        points = {name: _points(measured, name, confidence) for name in UNKNOWN}
        factors = {norm: _stricter(measured.contrasts, confidence, norm) for norm in (True, False)}
        these = {name: _these(measured.limits[name], points[name], factors[bad < 0]) for name, bad in UNKNOWN.items()}
        ranks = {p: population_ranks(len(measured), p, confidence) for p in POPULATION}
        population = {name: _population(measured, name, points[name], ranks) for name in UNKNOWN}
    statuses, counts = np.unique(table.status, return_counts=True)
    return Summary(
        **these,
        population=population,
        statuses=dict(zip(statuses.tolist(), counts.tolist(), strict=True)),
        queries=queries,
        requests=requests,
    )


def _points(inputs: Columns, name: str, confidence: float) -> dict[float, float]:
    """Each quantile's value: the median as it is, the tails corrected for noise, on their own side of the median."""
    quantity, unknown = inputs.limits[name], UNKNOWN[name]
    middle = sorted_quantile(_ordered(quantity.value, unknown), 0.5)
    shrunk = _ordered(_without_noise(quantity, inputs.contrasts, confidence, unknown < 0), unknown)
    return {p: middle if p == 0.5 else (min if p < 0.5 else max)(sorted_quantile(shrunk, p), middle) for p in THESE}


def _stricter(counts: NDArray[np.int64], confidence: float, norm: bool) -> dict[float, tuple[Array, Array]]:
    """By quantile, the factors that make each input's limits, below and above, as strict as the quantile needs."""
    n, tail = len(counts), (1.0 - confidence) / 2
    return {
        p: (
            rescaled_limits(counts, tail, _level(n, p, tail), norm=norm, above=False),
            rescaled_limits(counts, tail, _level(n, 1.0 - p, tail), norm=norm, above=True),
        )
        for p in THESE
    }


def _these(
    quantity: IntervalArray, points: Mapping[float, float], factors: Mapping[float, tuple[Array, Array]]
) -> Quantiles:
    """[Q_p(lower_i), Q_p(upper_i)], in the tails from stricter limits; point values there corrected for noise."""
    value, lower, upper = quantity.value, quantity.lower, quantity.upper

    def at(p: float) -> Interval:
        below, above = factors[p]
        with np.errstate(invalid="ignore"):  # no limit times no factor says nothing
            low, high = _ordered(lower * below, 0.0), _ordered(upper * above, np.inf)
        return _cell(points[p], sorted_quantile(low, p), sorted_quantile(high, p))

    mean = _cell(float(value.mean()), float(lower.mean()), float(upper.mean()))
    return Quantiles(median=at(0.5), p05=at(0.05), p95=at(0.95), min=at(0.0), max=at(1.0), mean=mean)


def _population(inputs: Columns, name: str, points: Mapping[float, float], ranks: Mapping[float, Ranks]) -> Quantiles:
    """Order statistics widened by each input's own limits; without a finite limit where the sample is too small.

    There is no mean: norms are skewed, so that a few large ones that the sample missed decide it, and no interval from the
    sample alone allows for them.
    """
    lower, upper = np.sort(inputs.limits[name].lower), np.sort(inputs.limits[name].upper)

    def at(p: float) -> Interval:
        first, last = ranks[p]
        return _cell(
            points[p], 0.0 if first is None else float(lower[first]), np.inf if last is None else float(upper[last])
        )

    return Quantiles(median=at(0.5), p05=at(0.05), p95=at(0.95))


def population_ranks(n: int, p: float, confidence: float) -> Ranks:
    """Positions (from 0) of the order statistics between which the population quantile lies with ``confidence``.

    Each side may miss with (1 - confidence) / 2 (``one_sided.order_ranks``). ``None`` where n is too small: the upper limit
    of p95 at 95 % needs 72 inputs.

    Args:
        n: inputs.
        p: between 0 and 1.
        confidence: two-sided.

    >>> population_ranks(71, 0.95, 0.95)[1] is None, population_ranks(72, 0.95, 0.95)[1]
    (True, 71)
    >>> population_ranks(5, 0.5, 0.95), population_ranks(6, 0.5, 0.95)
    ((None, None), (0, 5))
    """
    return order_ranks(n, p, (1.0 - confidence) / 2)


def _ordered(values: Array, unknown: float) -> Array:
    """Sorted, with NaN counted as ``unknown`` (-inf or inf)."""
    return np.sort(np.where(np.isnan(values), unknown, values))


def sorted_quantile(ordered: Array, p: float) -> float:
    """Quantile of sorted values; infinite or NaN where it falls on such a value."""
    place = p * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    below, above = float(ordered[low]), float(ordered[high])
    return below if low == high else below + (above - below) * (place - low)


def _without_noise(quantity: IntervalArray, contrasts: NDArray[np.int64], confidence: float, norm: bool) -> Array:
    """Values drawn towards their median in logs by the share of their variance that is measurement noise.

    The noise of a norm from m random directions is that of log(chi2_m / m): variance psi'(m / 2), or that of its interval
    where it is narrower (orthonormal directions, whole Jacobians), because intervals of flat spectra are wider than their
    noise. Its median lies a third of that variance below 0. A radius goes with the root of 1 / norm.

    benchmarks/report.py, 14 directions, log-normal norms: the p95 of rank-one and falling spectra errs by 4 % or less
    (plain values 7 to 29 % high, interval-based noise 6 to 40 % low); two equal eigenvalues read 7 to 19 % high, values in
    two clusters 11 to 29 % high.
    """
    value, lower, upper = quantity.value, quantity.lower, quantity.upper
    known = np.isfinite(value) & (value > 0) & (lower > 0) & np.isfinite(upper)
    if known.sum() < 3:
        return value
    logs = np.log(value[known])
    spread = spread_of_logs(lower[known], upper[known], contrasts[known], (1.0 - confidence) / 2, norm=norm)
    shrink, noise = np.sqrt(signal_share(logs, spread)), float((spread**2).mean())
    centre = float(np.median(logs))
    out = value.copy()
    out[known] = np.exp(centre + (noise / 3 if norm else -2 * noise / 3) + (logs - centre) * shrink)
    return out


def _level(n: int, p: float, tail: float) -> float:
    """How often each of n lower limits may miss, so that the quantile p of equal values is missed with ``tail`` at most.

    It takes as many misses as there are inputs from the quantile up: one for the maximum, which gives Bonferroni's level.
    """
    misses = n - int(np.ceil(p * (n - 1)))
    return min(tail, float(special.betaincinv(misses, n - misses + 1, tail)))


def _cell(value: float, lower: float, upper: float) -> Interval:
    inside = min(max(value, lower), upper) if math.isfinite(value) else value
    kept = [v if math.isfinite(v) else None for v in (inside, lower, upper)]
    return Interval(value=kept[0], lower=kept[1], upper=kept[2])
