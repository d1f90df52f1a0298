"""How much of a search from labels alone so many labels pay for."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Effort", "effort"]


@dataclass(frozen=True)
class Effort:
    """What a search may do with so many labels at least.

    Attributes:
        labels: at least.
        rays, randoms: rays to inputs with another label, and random rays.
        share: of the labels, for start and walk; the rest goes to the plane where the walk ends.
        rounds: steps of the walk, the number of walks that take it and the share of the labels of each.
    """

    labels: int
    rays: int
    randoms: int
    share: float
    rounds: tuple[tuple[int, float], ...]


#: Five starts, against one, took the radii that are 1.3 times too long from 23 to 10 % on a network (benchmarks/labels.py).
#: A first step says little: of two that went on from there, the nearest one was missing on one input in seven on a network.
#: Of 1,000 labels the step of the last walk alone would take 100 that say more about its plane; of 500 the walk would end
#: too far away without it, and with 2,000 there are enough for both.
EFFORTS = (
    Effort(1600, 12, 16, 0.6, ((5, 1.0), (3, 1.5), (2, 2.0), (1, 4.0))),
    Effort(800, 12, 16, 0.5, ((5, 1.0), (3, 1.5), (2, 2.0))),
    Effort(400, 12, 16, 0.6, ((3, 1.0), (2, 1.0), (1, 2.0))),
    Effort(0, 6, 8, 0.6, ((1, 1.0), (1, 2.0))),
)


def effort(labels: int) -> Effort:
    """What a search may do with so many labels.

    >>> effort(1000).share
    0.5
    """
    return next(one for one in EFFORTS if labels >= one.labels)
