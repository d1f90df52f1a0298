"""Limits of a probability at planned looks that hold at all of them together, so that one may stop at any."""

from __future__ import annotations

from scipy.special import betaincinv

__all__ = ["LimitsAtLooks", "planned_looks"]

#: Observations at the first look, and how many times as many there are at each one after.
FIRST_LOOK, GROWTH = 64, 1.5
#: Share of the error that the last look may spend; the others share the rest equally.
LAST_SHARE = 0.5


def planned_looks(most: int) -> list[int]:
    """Numbers of observations after which to look, up to ``most``.

    >>> planned_looks(500)
    [64, 96, 144, 216, 324, 500]
    """
    looks, at = [], float(FIRST_LOOK)
    while at * GROWTH < most:
        looks.append(int(at))
        at *= GROWTH
    return [*looks, most]


class LimitsAtLooks:
    """A confidence sequence of a Bernoulli probability by error spending (Lan and DeMets 1983, Biometrika 70:659).

    Each look k is a Clopper-Pearson limit at the error e_k, with the sum of all e_k the whole error: the lower limits at all
    looks hold together with probability 1 - error at least, and so do the upper ones. Half of the error is kept for the last
    look, so that one who never stops early loses almost nothing against a fixed sample.

    Args:
        most: observations at the last look.
        error: 1 - confidence, of each side.

    >>> sequence = LimitsAtLooks(10_000, 0.001)
    >>> low, high = sequence.update(10_000, 10_000)
    >>> round(low, 5), high
    (0.99924, 1.0)
    """

    def __init__(self, most: int, error: float) -> None:
        self.looks = planned_looks(most)
        self._error = error
        self.lower, self.upper = 0.0, 1.0

    def update(self, hits: int, trials: int) -> tuple[float, float]:
        """The best lower and upper limit so far, after the look at so many observations.

        Raises:
            ValueError: ``trials`` is no planned look.
        """
        if trials not in self.looks:
            raise ValueError(f"expected a planned look among {self.looks}, got {trials}")
        last, others = trials == self.looks[-1], len(self.looks) - 1
        error = self._error * (LAST_SHARE if last else (1 - LAST_SHARE) / others)
        if not others:
            error = self._error
        misses = trials - hits
        low = 0.0 if hits == 0 else float(betaincinv(hits, misses + 1, error))
        high = 1.0 if misses == 0 else float(betaincinv(hits + 1, misses, 1 - error))
        self.lower, self.upper = max(self.lower, low), min(self.upper, high)
        return self.lower, self.upper
