"""What a class-side basis of products with C gives for one input: any temperature, the trace, every margin.

Products a_i = C w_i are the images J_L t_i of input directions t_i = J_L^T w_i that nobody stores: their inner products are
w_i . a_j. Orthonormalised, they give rows Y = J_L V for an orthonormal V, and all that is needed lies in class space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.spectral_norm import energy_quantile

__all__ = ["InputBasis", "input_basis", "margin_candidates"]

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
    return np.sqrt(inside + rest), np.sqrt(inside + rest * count / energy_quantile(MISS, count, None))
