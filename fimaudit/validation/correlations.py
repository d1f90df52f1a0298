"""How well one number follows another over the same inputs: rank correlations, ratio, AUC, with bootstrap intervals.

Functions of arrays. An input without a perturbation (no attack succeeded) is NaN: it is left out of correlations and
ratios and counted, and it enters an AUC as not flipped, which is what was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fimaudit.results import Interval

__all__ = ["RESAMPLES", "Bin", "auc", "calibration", "kendall", "median_ratio", "spearman"]

Array = NDArray[np.float64]

RESAMPLES = 2000
#: Fewer pairs than this say nothing about order.
LEAST = 4


@dataclass(frozen=True)
class Bin:
    """Inputs of similar predicted length: the median of both, and how many.

    Attributes:
        predicted, found: medians over the bin.
        lower, upper: quartiles of what was found.
        inputs: in the bin.
    """

    predicted: float
    found: float
    lower: float
    upper: float
    inputs: int


def spearman(predicted: ArrayLike, found: ArrayLike, *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Spearman's rank correlation of two (n,) arrays, NaN pairs left out, with a percentile bootstrap interval.

    >>> spearman([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0]).value
    0.8
    """
    x, y = _pairs(predicted, found)
    if len(x) < LEAST:
        return Interval()

    def statistic(rows: NDArray[np.intp]) -> Array:
        return _pearson(_ranks(x[rows]), _ranks(y[rows]))

    return _interval(statistic, len(x), confidence, seed, digits=12)


def kendall(predicted: ArrayLike, found: ArrayLike, *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Kendall's tau-b of two (n,) arrays, NaN pairs left out, with a percentile bootstrap interval.

    tau_b = sum_ij s_ij t_ij / sqrt(sum s_ij^2 sum t_ij^2), s and t the signs of the differences.

    >>> round(kendall([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0]).value, 4)
    0.6667
    """
    x, y = _pairs(predicted, found)
    if len(x) < LEAST:
        return Interval()
    s, t = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    products = (s * t, s**2, t**2)

    def statistic(rows: NDArray[np.intp]) -> Array:
        # A resample is a weight of each input: the sums over pairs are quadratic forms in the weights.
        flat = rows + len(x) * np.arange(len(rows))[:, None]
        weight = np.bincount(flat.ravel(), minlength=rows.size).reshape(rows.shape).astype(np.float64)
        both, of_x, of_y = (((weight @ form) * weight).sum(axis=1) for form in products)
        return _quotient(both, np.sqrt(of_x * of_y))

    return _interval(statistic, len(x), confidence, seed, digits=12)


def median_ratio(predicted: ArrayLike, found: ArrayLike, *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Median of predicted / found over pairs without NaN, with a percentile bootstrap interval."""
    x, y = _pairs(predicted, found)
    if len(x) == 0:
        return Interval()
    ratio = x / y
    return _interval(lambda rows: np.median(ratio[rows], axis=1), len(x), confidence, seed)


def auc(
    predicted: ArrayLike, found: ArrayLike, eps: float, *, confidence: float = 0.95, seed: int = 0
) -> tuple[Interval, int, int]:
    """How well a small prediction predicts "flipped within eps": the area under the ROC curve.

    The probability that an input that was flipped within eps has the smaller prediction of a random pair, ties counted
    half. An input that no attack flipped (NaN) counts as not flipped; one without a prediction is left out.

    Returns:
        the area (no value where all or none were flipped), how many were flipped, how many were not.

    >>> auc([1.0, 2.0, 3.0, 4.0], [0.5, 3.0, 0.9, float("nan")], eps=1.0)[0].value
    0.75
    """
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(found, dtype=np.float64)
    known = ~np.isnan(x)
    x, flipped = x[known], ~np.isnan(y[known]) & (np.nan_to_num(y[known], nan=np.inf) <= eps)
    near, far = int(flipped.sum()), int((~flipped).sum())
    if near == 0 or far == 0:
        return Interval(), near, far

    def statistic(rows: NDArray[np.intp]) -> Array:
        ranks, hit = _ranks(-x[rows]), flipped[rows]
        a, b = hit.sum(axis=1), (~hit).sum(axis=1)
        area = (ranks * hit).sum(axis=1) - a * (a + 1) / 2
        return _quotient(area, a * b)

    return _interval(statistic, len(x), confidence, seed), near, far


def calibration(predicted: ArrayLike, found: ArrayLike, bins: int = 5) -> list[Bin]:
    """Medians of what was found in bins of equally many inputs, ordered by what was predicted; NaN pairs left out."""
    x, y = _pairs(predicted, found)
    order = np.argsort(x, kind="stable")
    parts: Sequence[NDArray[np.intp]] = np.array_split(order, max(1, min(bins, len(x) // 2)))
    return [_bin(x[part], y[part]) for part in parts if len(part)]


def _bin(x: Array, y: Array) -> Bin:
    low, middle, high = (float(v) for v in np.quantile(y, [0.25, 0.5, 0.75]))
    return Bin(float(np.median(x)), middle, low, high, len(x))


def _pairs(predicted: ArrayLike, found: ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(found, dtype=np.float64)
    known = ~(np.isnan(x) | np.isnan(y))
    return x[known], y[known]


def _ranks(rows: Array) -> Array:
    """Of each row's numbers, the mean rank where some are equal."""
    from scipy import stats  # takes half a second, which most commands need not wait for

    return np.asarray(stats.rankdata(rows, axis=1))


def _pearson(a: Array, b: Array) -> Array:
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    return _quotient((a * b).sum(axis=1), np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1)))


def _quotient(above: Array, below: Array) -> Array:
    """above / below, NaN where a resample has no spread."""
    return np.asarray(np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0))


def _interval(
    statistic: Callable[[NDArray[np.intp]], Array], count: int, confidence: float, seed: int, digits: int | None = None
) -> Interval:
    """The statistic of all inputs, and the quantiles over resamples in which it exists."""
    value = float(statistic(np.arange(count)[None])[0])
    if not np.isfinite(value):
        return Interval()
    rows = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    drawn = statistic(rows)
    tail = (1.0 - confidence) / 2
    lower, upper = np.nanquantile(drawn, [tail, 1.0 - tail])
    places = [float(v) if digits is None else round(float(v), digits) for v in (value, lower, upper)]
    return Interval(value=places[0], lower=places[1], upper=places[2])
