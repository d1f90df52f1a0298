"""Multinomial logistic regression: the plainest model of the same data, whose distances to another answer are exact."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cross_fitted", "fit", "margin_radii"]

Array = NDArray[np.float64]
#: Steps of the optimiser at most: a yardstick needs no more digits.
MOST_STEPS = 200


def fit(x: Array, y: NDArray[np.int64], classes: int) -> tuple[Array, Array]:
    """Weights and offsets that minimise sum_i -log p(y_i | x_i) + |W|^2 / 2, p = softmax(W x + b).

    Args:
        x: (n, d) features of mean 0 and deviation 1.
        y: (n,) classes.
        classes: K.

    Returns:
        W (K, d) and b (K,).

    Source: the penalty is that of scikit-learn's LogisticRegression at its default.

    >>> weights, offsets = fit(np.array([[-1.0], [1.0]]), np.array([0, 1]), 2)
    >>> (np.array([[-1.0], [1.0]]) @ weights.T + offsets).argmax(axis=1).tolist()
    [0, 1]
    """
    from scipy.optimize import minimize  # takes long to load, and few runs ask for this

    n, d = x.shape
    right = np.zeros((n, classes))
    right[np.arange(n), y] = 1.0

    def loss(flat: Array) -> tuple[float, Array]:
        weights, offsets = flat[: classes * d].reshape(classes, d), flat[classes * d :]
        z = x @ weights.T + offsets
        z -= z.max(axis=1, keepdims=True)
        p = np.exp(z)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        value = float((np.log(total) - (z * right).sum(axis=1, keepdims=True)).sum() + 0.5 * (weights**2).sum())
        slope = p - right
        return value, np.concatenate([(slope.T @ x + weights).ravel(), slope.sum(axis=0)])

    start = np.zeros(classes * (d + 1))
    found: Any = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": MOST_STEPS})
    return found.x[: classes * d].reshape(classes, d), found.x[classes * d :]


def margin_radii(z: Array, slopes: Array) -> Array:
    """Exact l2 distance of each input to another answer: min over j of (z_c - z_j) / |g_c - g_j|, c its answer.

    Args:
        z: (n, K) logits.
        slopes: (K, d) their gradients, per unit of the input.

    Returns:
        (n,) in that unit; infinite where no change leads to another answer.

    >>> margin_radii(np.array([[3.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 0.0]])).tolist()
    [3.0]
    """
    gram = slopes @ slopes.T
    size = np.diag(gram)
    apart = np.sqrt(np.maximum(size[:, None] + size[None] - 2 * gram, 0.0))
    answer = z.argmax(axis=1)
    gap = z[np.arange(len(z)), answer][:, None] - z
    with np.errstate(divide="ignore", invalid="ignore"):
        radius = gap / apart[answer]
    radius[np.arange(len(z)), answer] = np.inf
    return np.asarray(np.nan_to_num(radius, nan=np.inf).min(axis=1), dtype=np.float64)


def cross_fitted(x: Array, y: NDArray[np.int64], unit: Array, seed: int) -> tuple[float, float] | None:
    """(median distance to another answer, share right) of models that were fitted to the other half of the inputs.

    Args:
        x: (n, d) inputs.
        y: (n,) classes from 0 on.
        unit: (d,) one unit of each feature, 0 for those that are held.
        seed: of the halves.

    Returns:
        ``None`` where a half holds one class only.

    >>> x = np.linspace(-1, 1, 40)[:, None]
    >>> cross_fitted(x, (x[:, 0] > 0).astype(int), np.ones(1), seed=0)[1] > 0.9
    True
    """
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(x))
    halves = order[::2], order[1::2]
    radii, right = [], []
    for train, test in (halves, halves[::-1]):
        if len(np.unique(y[train])) < 2:
            return None
        mean, spread = x[train].mean(axis=0), x[train].std(axis=0)
        spread[spread == 0] = 1.0
        weights, offsets = fit((x[train] - mean) / spread, y[train], int(y.max()) + 1)
        z = (x[test] - mean) / spread @ weights.T + offsets
        radii.append(margin_radii(z, weights / spread * unit))
        right.append(z.argmax(axis=1) == y[test])
    return float(np.median(np.concatenate(radii))), float(np.concatenate(right).mean())
