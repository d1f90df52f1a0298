"""Whether what single features do adds up to what they do together, as it does at a point with one slope.

At a kink, as where max-pooling meets equal values, each feature has a slope of its own to either side, a shorter step
shows the same, and together they do something else. Joint displacements as long as the single ones show that without
any further rows, where the profile asks them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.grouping import positions_by_kind, stacked
from fimaudit.estimation.noise import tables_of_each
from fimaudit.measurement.energy import Answered
from fimaudit.space import Space

__all__ = ["KINKED", "Joint", "norm_error", "unexplained_shares"]

#: The unexplained share from which slopes are those of a kink; pooled and ReLU networks whose kinks lie between the input
#: and its displacements stay below (regimes cnn_max_pool and residual of benchmarks/regimes.py), those with equal values at
#: the input are above (cnn_flat_background).
KINKED = 0.01
#: Error of a norm over the square root of the unexplained share: coverage in the same regimes.
PER_ROOT = 0.5
#: Displacements of one feature may all be the same; less variation than this share of their size says nothing.
LEAST_VARIED = 0.1


@dataclass(frozen=True)
class Joint:
    """Displacements of all features at once, and what single features did.

    Attributes:
        space: the domain.
        answered: the displacements; those of the first rung count.
        jacobian: (d, C) of 2 sqrt(p), from one feature at a time, in units of the scale.
    """

    space: Space
    answered: Answered
    jacobian: NDArray[np.float64]


def unexplained_shares(asked: Sequence[Joint]) -> list[float]:
    """Share of the squared differences between joint displacements' answers that single features do not explain.

    sum |(s_t - s) - (v_t - v) J|^2 / sum |s_t - s|^2 over displacements v_t with answers s_t = 2 sqrt(p), less their means.
    """
    out = [0.0] * len(asked)
    for places in positions_by_kind((one.jacobian.shape, one.answered.kind) for one in asked):
        some = [asked[i] for i in places]
        pieces = [one.answered.pieces[0] for one in some]
        m = len(pieces[0])
        rows = [one.answered.rungs.rows.build(0, m).reshape(m, -1)[:, one.space.free.place] for one in some]
        moves = stacked(rows).astype(np.float64)
        moves -= moves.mean(axis=1, keepdims=True)
        moves /= stacked([one.space.free.scale for one in some])[:, None]
        roots = np.sqrt(tables_of_each([one.answered.base_answers.view for one in some], pieces))
        roots *= 2.0
        roots -= roots.mean(axis=1, keepdims=True)
        left = roots - moves @ stacked([one.jacobian for one in some])
        totals, lefts, varied = ((part * part).sum(axis=(1, 2)).tolist() for part in (roots, left, moves))
        for place, i in enumerate(places):
            sent = moves[0].size * float(some[place].answered.rungs.lengths[0]) ** 2
            if totals[place] > 0 and varied[place] >= LEAST_VARIED * sent:
                out[i] = lefts[place] / totals[place]
    return out


def norm_error(share: float) -> float:
    """Relative error of a squared norm that an unexplained share leaves.

    >>> norm_error(0.01)
    0.05
    """
    return PER_ROOT * math.sqrt(share)
