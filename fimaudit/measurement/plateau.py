"""How far to displace: the plateau of the secant energy over a ladder of displacements.

``rho`` is the l2 length of a displacement of all features. Too short and rounding of the answers dominates, too
long and the model is no longer linear; between the two the energy E(rho) of the secants is flat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fimaudit.space import column_pieces

__all__ = ["FLAT", "Plateau", "find_plateau", "ladder", "spread"]

Array = NDArray[np.float64]

#: Decades from rung to rung.
DECADES = 0.25
FLAT = 0.03
FLAT_FACTOR = 1.5
PERCENTILE = 80.0


@dataclass(frozen=True)
class Plateau:
    """The longest run of rungs over which the energy is flat.

    Attributes:
        displacement: geometric middle of the run.
        first, last: positions of the run's ends on the ladder.
        change: the largest change of log energy between neighbours within the run.
    """

    displacement: float
    first: int
    last: int
    change: float


def spread(x: NDArray[np.floating]) -> tuple[float, float]:
    """Typical and small size of one feature's variation over the data, from which the ladder starts.

    Args:
        x: (n, d) inputs in units of the scale.

    Returns:
        root mean square over all features, and the median over the features that vary (the same when n is 1).
    """
    wide = np.asarray(x, np.float64)
    pieces = column_pieces(*wide.shape) if len(wide) > 1 else ()
    per_feature = np.concatenate([np.empty(0), *(wide[:, some].std(axis=0) for some in pieces)])
    varying = per_feature[per_feature > 0]
    size = float(np.sqrt((varying**2).mean())) if varying.size else float(wide.std())
    if size == 0:
        size = float(np.abs(wide).max(initial=0.0)) or 1.0
    small = float(np.median(varying)) if varying.size else size
    return size, min(small, size)


def ladder(x: NDArray[np.floating], features: int, finest: float = 0.0, sizes: tuple[float, float] | None = None) -> Array:
    """Quarter decades of rho from a millionth of the small spread to the whole of the typical one, times sqrt(features).

    Args:
        x: (n, d) inputs in units of the scale.
        features: how many features move.
        finest: smallest step of a feature that the model's dtype can tell from none, in the same units.
        sizes: the ``spread`` of x, where it is known.
    """
    size, small = sizes or spread(x)
    low, high = np.log10(max(1e-6 * small, min(finest, 0.1 * size))), np.log10(size)
    rungs = int(np.ceil((high - low) / DECADES)) + 1
    return np.asarray(10.0 ** (high - DECADES * np.arange(rungs)[::-1]) * np.sqrt(features))


def find_plateau(
    energy: Array,
    rungs: Array,
    flat: float = FLAT,
    quiet: NDArray[np.bool_] | None = None,
    percentile: float = PERCENTILE,
) -> Plateau | None:
    """Place the displacement in the middle of the longest run of rungs over which the energy is flat.

    A pair of neighbouring rungs belongs to a run when a percentile over inputs of |log E(next) / E| is within
    max(flat, 1.5 x its minimum over the ladder). Zero energies never count: rounded answers have zero energy, then
    overshoot, then a plateau.

    Args:
        energy: (inputs, rungs) mean squared secants, the same directions on each rung.
        rungs: (rungs,) displacements in rising order.
        flat: the change that counts as none.
        quiet: (rungs,) the only ones that may belong to a run; all when left out.
        percentile: over inputs, of their changes.

    Returns:
        ``None`` when no two neighbouring rungs have energy.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.abs(np.diff(np.log(np.where(energy > 0, energy, np.nan)), axis=1))
    change = np.where(np.isfinite(change), change, np.inf)
    change = change[np.isfinite(change).any(axis=1)]
    if change.size == 0:
        return None
    typical = np.sort(change, axis=0)[math.ceil(percentile * (len(change) - 1) / 100)]
    if quiet is not None:
        typical = np.where(quiet[:-1] & quiet[1:], typical, np.inf)
    least = float(typical.min())
    if not np.isfinite(least):
        return None
    good = typical <= max(flat, FLAT_FACTOR * least)
    best = (0, 0.0, 0)
    start = 0
    while start < len(good):
        if not good[start]:
            start += 1
            continue
        stop = start
        while stop < len(good) and good[stop]:
            stop += 1
        key = (stop - start, -float(typical[start:stop].max()), start)
        best = max(best, key)
        start = stop
    length, worst, first = best
    last = first + length
    return Plateau(float(np.sqrt(rungs[first] * rungs[last])), first, last, -worst)
