"""Whether what single features do adds up to what they do together, as it does at a point with one slope.

At a kink, as where max-pooling meets equal values, each feature has a slope of its own to either side, a shorter step
shows the same, and together they do something else. Joint displacements as long as the single ones show that without
any further rows, where the profile asks them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fimaudit.measurement.energy import Answered
from fimaudit.space import Space

__all__ = ["KINKED", "norm_error", "unexplained_share"]

#: The unexplained share from which slopes are those of a kink; pooled and ReLU networks whose kinks lie between the input
#: and its displacements stay below (regimes cnn_max_pool and residual of benchmarks/regimes.py), those with equal values at
#: the input are above (cnn_flat_background).
KINKED = 0.01
#: Error of a norm over the square root of the unexplained share: coverage in the same regimes.
PER_ROOT = 0.5
#: Displacements of one feature may all be the same; less variation than this share of their size says nothing.
LEAST_VARIED = 0.1


def unexplained_share(space: Space, joint: Answered, jacobian: NDArray[np.float64]) -> float:
    """Share of the squared differences between joint displacements' answers that single features do not explain.

    sum |(s_t - s) - (v_t - v) J|^2 / sum |s_t - s|^2 over displacements v_t with answers s_t = 2 sqrt(p), less their means.

    Args:
        space: the domain.
        joint: answers to displacements of all features at once; those of the first rung count.
        jacobian: (d, C) of 2 sqrt(p), from one feature at a time, in units of the scale.
    """
    piece = joint.pieces[0]
    free = ~space.frozen.ravel()
    rows = joint.rungs.rows.build(0, len(piece)).reshape(len(piece), -1)[:, free].astype(np.float64)
    moves = (rows - rows.mean(axis=0)) / space.scale.ravel()[free]
    roots = 2.0 * np.sqrt(joint.base_answers.view.table(piece))
    roots -= roots.mean(axis=0)
    total, sent = float((roots**2).sum()), len(piece) * moves.shape[1] * float(joint.rungs.lengths[0]) ** 2
    if not total > 0 or (moves**2).sum() < LEAST_VARIED * sent:
        return 0.0
    return float(((roots - moves @ jacobian) ** 2).sum()) / total


def norm_error(share: float) -> float:
    """Relative error of a squared norm that an unexplained share leaves.

    >>> norm_error(0.01)
    0.05
    """
    return PER_ROOT * math.sqrt(share)
