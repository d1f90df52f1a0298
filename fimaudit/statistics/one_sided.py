"""One-sided limits of quantiles, means and shares over many measured inputs, for decisions that may not be wrong too often.

Each input carries an interval whose ends miss independently with probability beta each (directions are drawn anew for each
input). Nothing is assumed about how the inputs' true values lie: the limits hold for every configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fimaudit.statistics.confidence import rescaled_limits, signal_share, spread_of_logs

__all__ = ["FOR_MEDIAN", "FOR_TAIL", "Cells", "mean_limit", "order_ranks", "quantile_limits", "share_limits"]

Array = NDArray[np.float64]

#: Below this many inputs a population p95 (or p05) has no finite limit at 95 % (``summary.population_ranks``):
#: test_summary.test_a_population_p95_needs_72_inputs_for_an_upper_limit.
FOR_TAIL = 72
#: And a population median has none below this many (the example of ``summary.population_ranks``).
FOR_MEDIAN = 6
#: Shares of the inputs beyond a quantile that may miss. That they decide more than one level for all:
#: test_policy.test_many_loose_limits_decide_what_few_strict_ones_leave_open; how often they are wrong: benchmarks/report.py
#: (``gate``).
SPARES = (0.0, 0.05, 0.2, 0.4)


@dataclass(frozen=True)
class Cells:
    """One quantity of n inputs, in its own unit: 1 / unit^2 for a norm, unit for a radius, that of the input domain.

    Attributes:
        value: (n,) NaN where unmeasured.
        lower: (n,) 0 where unknown.
        upper: (n,) inf where unknown.
        miss: probability that one end of an interval is on the wrong side.
        counts: (n,) contrasts of random directions behind each interval (``confidence.contrast_counts``), which allow to
            state it at other levels; ``None`` where no interval is of random directions.
        norm: the quantity is a norm, else a radius.

    >>> cells = Cells(np.ones(2), np.full(2, 0.8), np.full(2, 1.25), 0.025, np.array([198, 198]))
    >>> cells.rescalable, cells.side(0.005, above=True).round(3).tolist()
    (True, [1.337, 1.337])
    """

    value: Array
    lower: Array
    upper: Array
    miss: float
    counts: NDArray[np.int64] | None = None
    norm: bool = True

    def __len__(self) -> int:
        return len(self.value)

    def measured_again(self, factor: float, rng: np.random.Generator) -> Cells:
        """What another run with ``factor`` times the queries might find.

        True logs are drawn around the measured ones, which are first drawn towards their median by the share of their
        variance that is noise; new noise and the intervals' logs shrink by the root of ``factor``. Unmeasured inputs stay.
        The logs and their noise are taken as normal. How often the queries that follow from it decide:
        test_policy.test_the_queries_that_are_proposed_decide_in_most_reruns.

        Args:
            factor: above 0.
            rng: of the draws.
        """
        known = (self.value > 0) & (self.lower > 0) & np.isfinite(self.upper)
        if not known.any():
            return self
        root = 1.0 / np.sqrt(factor)
        counts = np.zeros(len(self), dtype=np.int64) if self.counts is None else self.counts
        logs, low, high = (np.log(a[known]) for a in (self.value, self.lower, self.upper))
        noise = spread_of_logs(self.lower[known], self.upper[known], counts[known], self.miss, norm=self.norm)
        kept = signal_share(logs, noise) if len(logs) > 2 else 1.0
        middle = float(np.median(logs))
        true = middle + (logs - middle) * kept + noise * np.sqrt(kept) * rng.standard_normal(len(logs))
        again = true + noise * root * rng.standard_normal(len(logs))
        value, lower, upper = self.value.copy(), self.lower.copy(), self.upper.copy()
        value[known] = np.exp(again)
        lower[known], upper[known] = np.exp(again + (low - logs) * root), np.exp(again + (high - logs) * root)
        return replace(self, value=value, lower=lower, upper=upper, counts=np.rint(counts * factor).astype(np.int64))

    @property
    def rescalable(self) -> bool:
        """Whether every known limit is of random directions."""
        known = np.isfinite(self.upper) | (self.lower > 0)
        return self.counts is not None and bool((self.counts[known] != 0).all())

    def side(self, level: float, *, above: bool) -> Array:
        """(n,) upper (or lower) limits as they are when each misses with probability ``level``; see ``rescaled_limits``."""
        counts = np.zeros(len(self), dtype=np.int64) if self.counts is None else self.counts
        limits = self.upper if above else self.lower
        return np.asarray(limits * rescaled_limits(counts, self.miss, level, norm=self.norm, above=above))


def quantile_limits(cells: Cells, p: float, error: float, *, population: bool) -> tuple[float, float]:
    """(lower, upper), each wrong with probability ``error`` at most, for the p-quantile of these inputs or their population.

    These inputs, r the quantile's rank from below: at least k = n - r + 1 true values lie at or above it. Of their upper
    limits, each of which misses with probability beta, more than c lie below their value with probability ``error`` at most,
    c the quantile of Binomial(k, beta); then the order statistic r + c of the upper limits is an upper limit. Few misses of
    strict limits serve inputs that differ much, many misses of loose limits inputs that are alike: the limit is the best of
    those for c = 0, k / 20, k / 5 and 2 k / 5, each with its share of the error. Population: half the error goes to the
    rank, by P(X_(r) < q_p) = P(Binomial(n, p) >= r), half to the measurement.

    A bootstrap from the values, corrected for their noise, is narrower and does not hold: docs/evidence.md says how often it
    passes wrongly.

    Args:
        cells: the inputs, whose ends miss independently; limits that cannot be rescaled are taken as they are, with the c
            that their own level needs.
        p: from 0 to 1.
        error: of each limit.
        population: of the population these inputs are an independent sample of, rather than of these inputs.

    Returns:
        In the unit of ``cells``; 0 and infinite where nothing better is known.

    >>> cells = Cells(np.array([1.0, 2.0, 4.0]), np.array([0.8, 1.6, 3.2]), np.array([1.25, 2.5, 5.0]), 0.025)
    >>> quantile_limits(cells, 0.5, 0.05, population=False), quantile_limits(cells, 0.5, 0.05, population=True)
    ((1.6, 2.5), (0.0, inf))
    """
    n = len(cells)
    place = p * (n - 1)
    low, high = int(np.floor(place)) + 1, int(np.ceil(place)) + 1
    level = error
    if population:
        level = error / 2
        first, last = order_ranks(n, p, level)
        low, high = 0 if first is None else first + 1, n + 1 if last is None else last + 1
    return _order_limit(cells, low, level, above=False), _order_limit(cells, high, level, above=True)


def order_ranks(n: int, p: float, error: float) -> tuple[int | None, int | None]:
    """Positions (from 0) of the order statistics below and above the population's p-quantile, each wrong with ``error``.

    P(X_(r) <= q_p) = P(Binomial(n, p) >= r); ``None`` where n is too small. For an independent sample of any continuous law.

    >>> order_ranks(71, 0.95, 0.025)[1] is None, order_ranks(72, 0.95, 0.025)[1]
    (True, 71)
    """
    counts = np.arange(float(n))
    below = np.flatnonzero(special.bdtr(counts, n, p) <= error)  # P(Binomial <= k)
    above = np.flatnonzero(special.bdtrc(counts, n, p) <= error)  # P(Binomial > k)
    return int(below[-1]) if below.size else None, int(above[0]) if above.size else None


def _order_limit(cells: Cells, rank: int, error: float, *, above: bool) -> float:
    """Limit of the value of this rank (from 1 below); without one, 0 or infinite."""
    n, unknown = len(cells), np.inf if above else 0.0
    beyond = n - rank + 1 if above else rank
    if beyond < 1:
        return unknown
    if not cells.rescalable:
        spare = _misses(beyond, cells.miss, error)
        choices = [] if spare is None else [(spare, cells.miss)]
    else:
        spares = sorted({min(beyond - 1, int(np.ceil(share * beyond))) for share in SPARES})
        choices = [(c, float(special.betaincinv(c + 1, beyond - c, error / len(spares)))) for c in spares]
    found = [unknown]
    for spare, level in choices:
        place = rank + spare if above else rank - spare
        if 1 <= place <= n:
            found.append(float(np.sort(cells.side(level, above=above))[place - 1]))
    return min(found) if above else max(found)


def mean_limit(cells: Cells) -> tuple[float, float]:
    """(lower, upper) of the mean of these inputs, each wrong with probability ``cells.miss`` at most.

    The means of the lower and of the upper limits. Upper limits scale like a weighted sum of independent chi squared
    variables; its tails are heaviest when one input carries all the weight (Szekely & Bakirov 2003), where the limit is
    that input's own. NaN without inputs.

    >>> mean_limit(Cells(np.array([1.0, 2.0]), np.array([0.5, 1.5]), np.array([2.0, 3.0]), 0.025))
    (1.0, 2.5)
    """
    return float(cells.lower.mean()), float(cells.upper.mean())


def share_limits(below: int, undecided: int, n: int, miss: float, error: float, *, population: bool) -> tuple[float, float]:
    """(lower, upper) for a share, from how many inputs surely belong to it and how many may.

    The upper limit is the largest count k, over n, with P(Binomial(k, 1 - miss) <= below + undecided) > error; the lower
    one is the same of those that do not belong. Population: half the error goes to that, half to the Clopper-Pearson limit
    of the count. Inputs miss independently.

    Args:
        below: inputs whose whole interval lies in the set.
        undecided: inputs whose interval crosses its edge.
        n: all inputs, at least one.
        miss: probability that an input is wrongly sure.
        error: of each limit.
        population: of the population these inputs are a sample of (Clopper-Pearson), not of these inputs.

    >>> share_limits(8, 0, 10, 0.025, 0.05, population=False)
    (0.7, 0.9)
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
