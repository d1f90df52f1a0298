"""One-sided limits of quantiles, means and shares over many measured inputs, for decisions that may not be wrong too often.

Each input carries an interval whose ends miss independently with probability beta each (directions are drawn anew for each
input). Nothing is assumed about how the inputs' true values lie: the limits hold for every configuration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["Cells", "mean_limit", "quantile_limits", "share_limits"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cells:
    """One quantity of n inputs.

    Attributes:
        value: (n,) NaN where unmeasured.
        lower: (n,) 0 where unknown.
        upper: (n,) inf where unknown.
        miss: probability that one end of an interval is on the wrong side.
    """

    value: Array
    lower: Array
    upper: Array
    miss: float

    def __len__(self) -> int:
        return len(self.value)

    def sharpened(self, factor: float) -> Cells:
        """What ``factor`` times the queries would give: the logs of each interval's ratios shrink by its root."""
        root = 1.0 / np.sqrt(factor)
        with np.errstate(divide="ignore", invalid="ignore"):
            lower = np.where(self.value > 0, self.value * (self.lower / self.value) ** root, self.lower)
            upper = np.where(self.value > 0, self.value * (self.upper / self.value) ** root, self.upper)
        return Cells(self.value, lower, upper, self.miss)


def quantile_limits(cells: Cells, p: float, error: float, *, population: bool) -> tuple[float, float]:
    """(lower, upper), each wrong with probability ``error`` at most, for the p-quantile of these inputs or their population.

    These inputs, r the quantile's rank from below: at least n - r + 1 true values lie at or above it. Of their upper limits
    more than c lie below their value with probability ``error`` at most, c the quantile of Binomial(n - r + 1, beta), so the
    order statistic r + c of the upper limits is an upper limit. Population: half the error goes to the rank, by
    P(X_(r) < q_p) = P(Binomial(n, p) >= r), half to the measurement.
    """
    n = len(cells)
    place = p * (n - 1)
    low, high = int(np.floor(place)) + 1, int(np.ceil(place)) + 1
    level = error
    if population:
        level = error / 2
        counts = np.arange(n + 1)
        at_least = special.bdtrc(counts - 1.0, n, p)  # P(Binomial >= r)
        at_least[0] = 1.0
        above = np.flatnonzero(at_least[1:] <= level)
        below = np.flatnonzero(special.bdtr(counts[:n].astype(float), n, p) <= level)  # P(Binomial <= r - 1), r from 1
        high = int(above[0]) + 1 if above.size else n + 1
        low = int(below[-1]) + 1 if below.size else 0
    spare = _misses(n - high + 1, cells.miss, level)
    high = high + spare if spare is not None else n + 1
    spare = _misses(low, cells.miss, level)
    low = low - spare if spare is not None else 0
    return (
        float(np.sort(cells.lower)[low - 1]) if low >= 1 else 0.0,
        float(np.sort(cells.upper)[high - 1]) if high <= n else np.inf,
    )


def mean_limit(cells: Cells) -> tuple[float, float]:
    """(lower, upper) of the mean of these inputs, each wrong with probability ``cells.miss`` at most.

    Upper limits scale like a weighted sum of independent chi squared variables; its tails are heaviest when one input
    carries all the weight (Szekely & Bakirov 2003), where the limit is that input's own.
    """
    return float(cells.lower.mean()), float(cells.upper.mean())


def share_limits(below: int, undecided: int, n: int, miss: float, error: float, *, population: bool) -> tuple[float, float]:
    """(lower, upper) for a share, from how many inputs surely belong to it and how many may.

    Args:
        below: inputs whose whole interval lies in the set.
        undecided: inputs whose interval crosses its edge.
        n: all inputs.
        miss: probability that an input is wrongly sure.
        error: of each limit.
        population: of the population these inputs are a sample of (Clopper-Pearson), not of these inputs.
    """
    level = error / 2 if population else error
    high = _count_limit(below + undecided, n, miss, level)
    low = n - _count_limit(n - below, n, miss, level)
    if not population:
        return low / n, high / n
    upper = float(special.betaincinv(high + 1, n - high, 1 - level)) if high < n else 1.0
    lower = float(special.betaincinv(low, n - low + 1, level)) if low > 0 else 0.0
    return lower, upper


def _misses(trials: int, miss: float, error: float) -> int | None:
    """The smallest c with P(Binomial(trials, miss) > c) <= error; ``None`` where there are no trials."""
    if trials < 1:
        return None
    counts = np.arange(trials + 1, dtype=float)
    enough = np.flatnonzero(special.bdtrc(counts, trials, miss) <= error * (1 + 1e-9))
    return int(enough[0])


def _count_limit(seen: int, n: int, miss: float, error: float) -> int:
    """The largest true count k of which no more than ``seen`` would show with more than ``error`` probability."""
    if seen >= n or miss <= 0:
        return min(seen, n)
    counts = np.arange(seen, n + 1)
    likely = special.bdtr(float(seen), counts, 1.0 - miss) > error * (1 + 1e-9)
    return int(counts[likely][-1])
