"""Ratios of quantiles of two models measured on the same inputs, with intervals; shares, rankings and ranks.

Logs throughout. A value is ``nan`` where it was not measured; ``low`` and ``high`` then hold what is known of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fimaudit.results import Interval
from fimaudit.statistics.columns import IntervalArray
from fimaudit.statistics.confidence import signal_share
from fimaudit.statistics.one_sided import FOR_MEDIAN, FOR_TAIL, share_limits

__all__ = ["Column", "changes", "column", "larger_share", "quantile_ratio", "rank_correlation", "rank_intervals"]

Array = NDArray[np.float64]

#: Numbers drawn in one piece, so that memory does not grow with the number of inputs, and the replicates that they allow:
#: the tails of a 95 % interval hold ten of the fewest (coverage: tests/comparison/test_comparison.py).
DRAWN, FEWEST_REPLICATES, REPLICATES = 4_000_000, 400, 2000


@dataclass(frozen=True)
class Column:
    """One quantity of one run, input by input.

    Attributes:
        low, high: (n,) logs; equal to the measured value where there is one, else the known limits (-inf, inf unknown). Of
            1 / unit^2 for a norm, unit for a radius.
        sigma: (n,) standard error of the measured log, 0 where unmeasured or exact.
        lower, upper: (n,) the inputs' own limits, not logs.
    """

    low: Array
    high: Array
    sigma: Array
    lower: Array
    upper: Array


def column(cells: Sequence[Interval], confidence: float) -> Column:
    """Intervals of one quantity as a column; a value without both limits counts as exact.

    sigma = log(upper / lower) / (2 z), z the normal quantile of (1 + confidence) / 2; values of 0 and less are unmeasured.

    Args:
        cells: one for each of n inputs.
        confidence: of the intervals, two-sided.

    >>> column([Interval(value=1.0, lower=0.5, upper=2.0), Interval(value=3.0)], 0.95).sigma.round(3).tolist()
    [0.354, 0.0]
    """
    found = IntervalArray.of(cells)
    value, lower, upper = found.value, found.lower, found.upper
    known = np.isfinite(value) & (value > 0)
    limited = known & (lower > 0) & np.isfinite(upper) & (upper > lower)
    sigma = np.zeros(len(value))
    sigma[limited] = np.log(upper[limited] / lower[limited]) / (2 * special.ndtri((1 + confidence) / 2))
    with np.errstate(divide="ignore"):
        low, high = np.log(np.where(known, value, lower)), np.log(np.where(known, value, upper))
    return Column(low, high, sigma, lower, upper)


def quantile_ratio(
    first: Column, second: Column, p: float, confidence: float, rng: np.random.Generator, *, population: bool
) -> Interval:
    """Ratio second / first of the p-quantiles.

    Parametric bootstrap: true logs are taken as the measured ones drawn towards their median by the share of the variance
    that is noise; each replicate adds the noise again (and, for the population, draws the inputs again, in pairs). The
    interval is the hull of the percentile interval and the symmetric one: percentiles alone miss 25 % on clustered tails.
    Directions of the two runs count as independent; where they are the same the interval is too wide, never too narrow.
    Noise is taken as normal in the log. How often 1 is covered:
    test_comparison.test_a_model_against_itself_covers_one, benchmarks/report.py.

    Args:
        first, second: the same inputs in the same order.
        p: 0.5 for the ratio of medians.
        confidence: two-sided.
        rng: of the replicates.
        population: of the population these inputs are a sample of, rather than of these inputs.

    Returns:
        Without a value where unmeasured inputs decide it; without limits for a population of which there are too few inputs.

    >>> once, twice = (column([Interval(value=f * v) for v in (1.0, 2.0, 4.0)], 0.95) for f in (1, 2))
    >>> str(quantile_ratio(once, twice, 0.5, 0.95, np.random.default_rng(0), population=False))
    '2 [2, 2]'
    """
    n = len(first.low)
    if n == 0:
        return Interval()
    value = _at(second.low, second.high, p) - _at(first.low, first.high, p)
    if population and n < (FOR_MEDIAN if p == 0.5 else FOR_TAIL):
        return _exponential(value, -np.inf, np.inf)
    centre = [_towards_median(c) for c in (first, second)]
    observed = [_quantiles(c.low[None], c.high[None], p) for c in centre]
    start = (observed[1][0] - observed[0][1], observed[1][1] - observed[0][0])
    replicates = int(np.clip(DRAWN // n, FEWEST_REPLICATES, REPLICATES))
    low, high = _replicate(centre, p, replicates, rng, population=population)
    with np.errstate(invalid="ignore"):
        down, up = low - start[0], high - start[1]
    if not (np.isfinite(down).all() and np.isfinite(up).all()):
        tails = (1 - confidence) / 2, (1 + confidence) / 2
        return _exponential(value, _plain(low, tails[0], -np.inf), _plain(high, tails[1], np.inf))
    below = float(np.quantile(down, (1 - confidence) / 2))
    above = float(np.quantile(up, (1 + confidence) / 2))
    either = float(np.quantile(np.maximum(np.abs(down), np.abs(up)), confidence))
    base_low = value if np.isfinite(value) else float(start[0][0])
    base_high = value if np.isfinite(value) else float(start[1][0])
    return _exponential(value, base_low + min(below, -either), base_high + max(above, either))


def larger_share(first: Column, second: Column, miss: float, confidence: float) -> tuple[Interval, int, int]:
    """Share of these inputs whose true value is larger in ``second``, and how many are surely larger and surely smaller.

    An input is sure where its two intervals do not meet: wrong with probability ``miss`` at most; the limits allow for it
    (``share_limits``). The value is the share among those measured in both.

    Args:
        first, second: the same inputs in the same order.
        miss: of a sure input.
        confidence: of the share, two-sided.

    >>> cells = [[Interval(value=v, lower=v / 1.5, upper=v * 1.5) for v in vs] for vs in ((1.0, 2.0, 4.0), (4.0, 2.0, 8.0))]
    >>> share, larger, smaller = larger_share(*(column(c, 0.95) for c in cells), 0.0, 0.95)
    >>> str(share), larger, smaller
    ('0.6667 [0.3333, 1]', 1, 0)
    """
    n = len(first.low)
    if n == 0:
        return Interval(), 0, 0
    more = int((second.lower > first.upper).sum())
    less = int((second.upper < first.lower).sum())
    lower, upper = share_limits(more, n - more - less, n, miss, (1 - confidence) / 2, population=False)
    known = np.isfinite(first.low) & np.isfinite(second.low) & (first.low == first.high) & (second.low == second.high)
    value = float((second.low > first.low)[known].mean()) if known.any() else None
    if value is not None:
        value = min(max(value, lower), upper)
    return Interval(value=value, lower=lower, upper=upper), more, less


def changes(first: Column, second: Column, confidence: float) -> tuple[Array, Array, Array]:
    """(n,) log ratio second / first of each input with its limits; nan where one is unmeasured.

    r = log second - log first, limits r -+ z sqrt(sigma_1^2 + sigma_2^2), z the normal quantile of (1 + confidence) / 2, one
    input at a time; the two runs' noise is independent.

    >>> once, twice = (column([Interval(value=v)], 0.95) for v in (1.0, 2.0))
    >>> [np.exp(log).round(3).tolist() for log in changes(once, twice, 0.95)]
    [[2.0], [2.0], [2.0]]
    """
    z = float(special.ndtri((1 + confidence) / 2))
    known = (first.low == first.high) & (second.low == second.high)
    with np.errstate(invalid="ignore"):
        ratio = np.where(known, second.low - first.low, np.nan)
    half = z * np.hypot(first.sigma, second.sigma)
    return ratio, ratio - half, ratio + half


def rank_correlation(first: Column, second: Column, confidence: float) -> Interval:
    """Spearman's correlation of the two rankings of inputs, for their population (Bonett & Wright 2000).

    tanh(artanh r -+ z sqrt((1 + r^2 / 2) / (n - 3))) over the n inputs measured in both, z the normal quantile of
    (1 + confidence) / 2. No value below 3 inputs or where one side is constant, no limits below 5. Measurement noise lowers
    it: a model against itself with 200 queries reads about 0.99, not 1.

    >>> ranks = (range(1, 11), (2, 1, 3, 4, 5, 6, 7, 8, 10, 9))
    >>> str(rank_correlation(*(column([Interval(value=v) for v in r], 0.95) for r in ranks), 0.95))
    '0.9758 [0.8618, 0.996]'
    """
    known = (first.low == first.high) & (second.low == second.high)
    n = int(known.sum())
    if n < 3 or np.ptp(first.low[known]) == 0 or np.ptp(second.low[known]) == 0:
        return Interval()
    from scipy import stats  # takes half a second, which most commands need not wait for

    r = float(stats.spearmanr(first.low[known], second.low[known]).statistic)
    if n < 5 or abs(r) >= 1:
        return Interval(value=r, lower=r if n >= 5 else None, upper=r if n >= 5 else None)
    half = float(special.ndtri((1 + confidence) / 2)) * np.sqrt((1 + r * r / 2) / (n - 3))
    return Interval(value=r, lower=float(np.tanh(np.arctanh(r) - half)), upper=float(np.tanh(np.arctanh(r) + half)))


def rank_intervals(ratios: Sequence[Sequence[Interval | None]]) -> list[tuple[int, int]]:
    """(best, worst) rank of each of M models from all pairwise ratios column / row; smaller is better.

    A model's rank is at best 1 + the number of models surely smaller and at worst M - the number surely larger
    (Mogstad, Romano, Shaikh & Wilhelm 2024); the caller's pairwise intervals hold simultaneously.

    Args:
        ratios: M rows of M; ``None`` where a pair was not compared, and then it decides nothing; the diagonal is not read.

    >>> rank_intervals([[None, Interval(lower=1.5, upper=3.0)], [Interval(lower=0.3, upper=0.7), None]])
    [(1, 1), (2, 2)]
    """
    out = []
    for i, row in enumerate(ratios):
        others = [c for j, c in enumerate(row) if j != i and c is not None]
        smaller = sum(c.upper is not None and c.upper < 1 for c in others)
        larger = sum(c.lower is not None and c.lower > 1 for c in others)
        out.append((1 + smaller, len(ratios) - larger))
    return out


def _replicate(
    centre: list[Column], p: float, replicates: int, rng: np.random.Generator, *, population: bool
) -> tuple[Array, Array]:
    """(replicates,) lower and upper version of the log ratio; they differ where unmeasured inputs decide."""
    n = len(centre[0].low)
    low, high = np.empty(replicates), np.empty(replicates)
    piece = max(1, DRAWN // (4 * n))
    for at in range(0, replicates, piece):
        rows = min(piece, replicates - at)
        chosen = rng.integers(0, n, (rows, n)) if population else np.broadcast_to(np.arange(n), (rows, n))
        ends = []
        for c in centre:
            noise = c.sigma[chosen] * rng.standard_normal((rows, n))
            ends.append(_quantiles(c.low[chosen] + noise, c.high[chosen] + noise, p))
        with np.errstate(invalid="ignore"):
            low[at : at + rows] = ends[1][0] - ends[0][1]
            high[at : at + rows] = ends[1][1] - ends[0][0]
    return np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)


def _towards_median(c: Column) -> Column:
    known = c.low == c.high
    if known.sum() < 3:
        return c
    logs = c.low[known]
    shrink, middle = np.sqrt(signal_share(logs, c.sigma[known])), float(np.median(logs))
    low, high = c.low.copy(), c.high.copy()
    low[known] = high[known] = middle + (logs - middle) * shrink
    return Column(low, high, c.sigma, c.lower, c.upper)


def _quantiles(low: Array, high: Array, p: float) -> tuple[Array, Array]:
    """Quantile along the last axis of both versions."""
    lower = _quantile(low, p)
    return (lower, lower) if low is high else (lower, _quantile(high, p))


def _quantile(values: Array, p: float) -> Array:
    place = p * (values.shape[-1] - 1)
    a, b = int(np.floor(place)), int(np.ceil(place))
    ordered = np.partition(values, sorted({a, b}), axis=-1)
    if a == b:
        return np.asarray(ordered[..., a])
    with np.errstate(invalid="ignore"):
        between = ordered[..., a] + (ordered[..., b] - ordered[..., a]) * (place - a)
    return np.where(ordered[..., a] == ordered[..., b], ordered[..., a], between)


def _at(low: Array, high: Array, p: float) -> float:
    """The quantile where unmeasured inputs do not decide it, else nan."""
    lower, upper = (float(v[0]) for v in _quantiles(low[None], high[None], p))
    return lower if lower == upper and np.isfinite(lower) else np.nan


def _plain(values: Array, p: float, unknown: float) -> float:
    """Percentile of replicates some of which are infinite."""
    ordered = np.sort(values)
    found = float(ordered[int(np.clip(round(p * (len(ordered) - 1)), 0, len(ordered) - 1))])
    return found if np.isfinite(found) else unknown


def _exponential(value: float, lower: float, upper: float) -> Interval:
    with np.errstate(over="ignore"):
        ends = [float(np.exp(v)) if np.isfinite(v) else None for v in (value, lower, upper)]
    return Interval(value=ends[0], lower=0.0 if lower == -np.inf else ends[1], upper=ends[2])
