"""What a class-side basis of products with C tells about one input: any temperature, the trace, every margin.

Products a_i = C w_i are the images J_L t_i of input directions t_i = J_L^T w_i that nobody stores: their inner products are
w_i . a_j. Orthonormalised, they give rows Y = J_L V for an orthonormal V, and all that is needed lies in class space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.stats
from numpy.typing import NDArray

__all__ = ["InputBasis", "input_basis", "margin_candidates", "peak_norm", "tempered_rows", "top_of_rows"]

Array = NDArray[np.float64]

#: Directions that lie in the span of the others to this share, squared, are left out: a float32 network's rounding would
#: otherwise decide their length.
RANK_CUTOFF = 1e-3
#: A direction whose length by its image differs by more than this from its length itself is rounding, not signal.
CLEAN, CLEAN_ALONE = 1e-5, 1e-3
#: Probability, for a class, that its margin is ruled out although it is the nearest.
MISS = 1e-3


@dataclass(frozen=True)
class InputBasis:
    """An orthonormal basis V of input directions, known by its images.

    Attributes:
        images: (r, K) rows J_L v.
        cotangents: (r, K) with v = J_L^T w for each row w.
    """

    images: Array
    cotangents: Array

    def split(self, cotangent: Array) -> tuple[Array, Array]:
        """A cotangent w whose direction t = J_L^T w is cut in two: the part outside V, as a cotangent, and V^T t."""
        inside = self.images @ cotangent
        return cotangent - inside @ self.cotangents, inside

    def extended(self, cotangent: Array, image: Array, squared: float) -> InputBasis:
        """V with one more direction, outside it, from ``split``'s cotangent, its product with C and squared length."""
        if squared <= 0 or abs(float(cotangent @ image) / squared - 1) > CLEAN_ALONE:
            return self
        length = np.sqrt(squared)
        return InputBasis(np.vstack([self.images, image / length]), np.vstack([self.cotangents, cotangent / length]))

    def outside(self, pushed: Array) -> Array:
        """J_L (I - V V^T) z from J_L z: (m, K) to (m, K)."""
        return np.asarray(pushed - (pushed @ self.cotangents.T) @ self.images)


def input_basis(cotangents: Array, images: Array, squared: Array) -> InputBasis:
    """Orthonormalise the directions behind (n, K) cotangents w, their products C w and squared lengths (n,)."""
    kept = squared > 1e-12 * squared.max(initial=0.0)
    clean = kept & (np.abs((cotangents * images).sum(axis=1) - squared) <= CLEAN * squared)
    kept = clean if clean.any() else kept & (squared == squared.max(initial=0.0))
    scale = 1.0 / np.sqrt(squared[kept])
    w, a = cotangents[kept] * scale[:, None], images[kept] * scale[:, None]
    inner = w @ a.T
    values, vectors = np.linalg.eigh((inner + inner.T) / 2)
    strong = values > RANK_CUTOFF
    mixing = (vectors[:, strong] / np.sqrt(values[strong])).T
    return InputBasis(mixing @ a, mixing @ w)


def tempered_rows(rows: Array, log_p: Array, temperature: float) -> Array:
    """(L - L q_T) sqrt(q_T) / T for (n, K) rows L of log-probability changes, q_T ~ p^(1/T)."""
    scaled = (log_p - log_p.max()) / temperature
    q = np.exp(scaled)
    q /= q.sum()
    return np.asarray((rows - (rows @ q)[:, None]) * (np.sqrt(q) / temperature))


def top_of_rows(rows: Array) -> float:
    """Largest eigenvalue of Z^T Z for (n, K) rows Z, on the smaller side."""
    if rows.size == 0:
        return 0.0
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    return float(max(np.linalg.eigvalsh(gram)[-1], 0.0))


def peak_norm(rows: Array, log_p: Array, around: float | None = None) -> tuple[float, float]:
    """The largest lambda_T over temperature: (value, T), by a grid over log T and Brent's method within it.

    Args:
        rows: (n, K) with rows^T rows = C: images of an orthonormal basis, or any factor of C.
        log_p: (K,) log-probabilities; classes at ``-inf`` take no part.
        around: a temperature near the peak, which narrows the grid.
    """
    seen = np.isfinite(log_p)
    rows, log_p = rows[:, seen], log_p[seen]
    if rows.size == 0 or len(log_p) < 2 or not rows.any():
        return 0.0, 1.0

    def negative(log_temperature: float) -> float:
        return -top_of_rows(tempered_rows(rows, log_p, float(np.exp(log_temperature))))

    if around is None:
        leading = np.sort(log_p)[-2:]
        grid = np.log(max(leading[1] - leading[0], 0.5) / 2.4) + np.linspace(-2.8, 2.8, 17)
    else:
        grid = np.log(around) + np.array([-0.7, -0.35, 0.0, 0.35, 0.7])
    heights = [negative(t) for t in grid]
    for _ in range(40):
        best = int(np.argmin(heights))
        if 0 < best < len(grid) - 1:
            break
        # The peak lies beyond the grid: walk on.
        spacing = grid[1] - grid[0]
        grid = np.append(grid, grid[-1] + spacing) if best else np.insert(grid, 0, grid[0] - spacing)
        heights.insert(0 if best == 0 else len(heights), negative(grid[0] if best == 0 else grid[-1]))
    best = int(np.argmin(heights))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = scipy.optimize.minimize_scalar(negative, bounds=(low, high), method="bounded", options={"xatol": 1e-5})
    value, at = (found.fun, found.x) if found.fun < heights[best] else (heights[best], grid[best])
    return -float(value), float(np.exp(at))


def margin_candidates(basis: InputBasis, outside: Array, log_p: Array) -> tuple[Array, Array]:
    """For every class k: an estimate of |grad log(p_c / p_k)|, c the top class, and an upper limit on it.

    Exact within the basis, a chi-square of m directions outside it.

    Args:
        basis: input directions measured exactly.
        outside: (m, K) images of random directions with their part in the basis removed.
        log_p: (K,) log-probabilities.
    """
    top, count = int(np.argmax(log_p)), len(outside)
    inside = ((basis.images - basis.images[:, [top]]) ** 2).sum(axis=0)
    rest = ((outside - outside[:, [top]]) ** 2).mean(axis=0)
    return np.sqrt(inside + rest), np.sqrt(inside + rest * count / scipy.stats.chi2.ppf(MISS, count))
