"""Limits of a probability that hold after every observation at once, so that one may stop whenever one likes."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaln, xlog1py, xlogy

__all__ = ["PRIOR", "probability_limits"]

#: Parameters of the Beta mixture: most weight near 0 and 1, where certificates are decided.
PRIOR = (0.3, 0.3)
#: Probabilities are told apart from 0 and 1 down to this.
TINY = 1e-15


def probability_limits(hits: int, trials: int, error: float, prior: tuple[float, float] = PRIOR) -> tuple[float, float]:
    """The confidence sequence of a Bernoulli probability: the p with M(p) < 1 / error, where

    M(p) = B(a + hits, b + trials - hits) / B(a, b) / (p^hits (1 - p)^(trials - hits))

    is a martingale for the true p, which exceeds 1 / error at any time with probability ``error`` at most (Ville 1939).

    Source: Robbins 1970, Ann. Math. Stat. 41:1397, with a Beta mixture.

    Args:
        hits, trials: so far; order and stopping rule do not matter.
        error: 1 - confidence, of both sides and all times together.
        prior: a and b of the mixture.

    Returns:
        lower and upper limit.

    >>> low, high = probability_limits(990, 1000, 0.05)
    >>> round(low, 3), round(high, 3)
    (0.978, 0.997)
    """
    if trials == 0:
        return 0.0, 1.0
    a, b = prior
    misses = trials - hits
    most = float(betaln(a + hits, b + misses) - betaln(a, b)) + np.log(error)

    def excess(p: float) -> float:
        return float(most - xlogy(hits, p) - xlog1py(misses, -p))

    peak = hits / trials
    inside = min(max(peak, TINY), 1 - TINY)
    lower = 0.0 if hits == 0 or excess(TINY) < 0 else float(brentq(excess, TINY, inside, xtol=1e-14))
    upper = 1.0 if misses == 0 or excess(1 - TINY) < 0 else float(brentq(excess, inside, 1 - TINY, xtol=1e-14))
    return lower, upper
