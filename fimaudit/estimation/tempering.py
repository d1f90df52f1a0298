"""Contrasts of log p and their Gram matrices at a softmax temperature T, where q_T ~ p^(1/T)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.predictable import TINY

__all__ = [
    "linear_forms",
    "power_steps",
    "probabilities_at",
    "temper",
    "tempered",
    "tempered_cotangent",
    "tempered_grams",
]

Array = NDArray[np.float64]


def temper(logs: Array, log_p: Array, temperature: float | Array) -> Array:
    """Z = (L - L q_T) sqrt(q_T) / T: contrasts of log p to contrasts of 2 sqrt(q_T), both (..., m, K).

    Args:
        logs: (..., m, K).
        log_p: (..., K) log probabilities at the input.
        temperature: one for each input.

    >>> log_p = np.log([0.5, 0.5])
    >>> temper(np.array([[2.0, -2.0]]), log_p, 1.0).round(3)
    array([[ 1.414, -1.414]])
    """
    q, root = tempered(log_p, np.asarray(temperature, dtype=np.float64)[..., None])
    out = logs - logs @ np.swapaxes(q, -1, -2)
    out *= root
    return np.asarray(out)


def tempered_cotangent(direction: Array, log_p: Array, temperature: float) -> Array:
    """The transpose of ``temper``: a class-side vector z at a temperature to a cotangent of log p, both (K,).

    >>> log_p, rows, z = np.log([0.5, 0.3, 0.2]), np.array([[1.0, 0.0, 2.0]]), np.array([0.6, 0.8, 0.0])
    >>> bool(np.isclose(temper(rows, log_p, 2.0) @ z, rows @ tempered_cotangent(z, log_p, 2.0))[0])
    True
    """
    q, root = tempered(log_p, np.array([temperature]))
    return linear_forms(direction, q[0], root[0])


def tempered(log_p: Array, temperatures: Array) -> tuple[Array, Array]:
    """q_T of (..., K) log probabilities at (..., n) temperatures, and sqrt(q_T) / T: (..., n, K) each.

    >>> [of.round(3).tolist() for of in tempered(np.log([0.5, 0.5]), np.array([1.0, 2.0]))]
    [[[0.5, 0.5], [0.5, 0.5]], [[0.707, 0.707], [0.354, 0.354]]]
    """
    q = probabilities_at(log_p, temperatures)
    return q, np.sqrt(q) / temperatures[..., None]


def probabilities_at(log_p: Array, temperatures: Array) -> Array:
    """q_T alone, as for ``tempered``.

    >>> probabilities_at(np.log([0.8, 0.2]), np.array([1.0, 1e3])).round(3).tolist()
    [[0.8, 0.2], [0.5, 0.5]]
    """
    q = log_p[..., None, :] / temperatures[..., None]
    q -= q.max(axis=-1, keepdims=True)
    np.exp(q, out=q)
    q /= q.sum(axis=-1, keepdims=True)
    return np.asarray(q)


def tempered_grams(grams: Array, log_p: Array, temperatures: Array) -> Array:
    """diag(sqrt q) (I - 1 q^T) C (I - q 1^T) diag(sqrt q) / T^2 at each temperature, for one or as many Grams C.

    Args:
        grams: (..., n or 1, K, K) Grams of log-probability gradients.
        log_p: (..., K) log probabilities.
        temperatures: (..., n).

    Returns:
        (..., n, K, K) Fisher information on the class side.

    >>> log_p, rows = np.log([0.6, 0.4]), np.array([[1.0, -1.0]])
    >>> z = temper(rows, log_p, 2.0)
    >>> bool(np.allclose(tempered_grams((rows.T @ rows)[None], log_p, np.array([2.0]))[0], z.T @ z))
    True
    """
    q, root = tempered(log_p, temperatures)
    left = (np.eye(q.shape[-1]) - q[..., None, :]) * root[..., None]
    return np.asarray(left @ grams @ np.swapaxes(left, -1, -2))


def power_steps(logs: Array, log_p: Array, temperatures: Array, seed: Array, steps: int) -> tuple[Array, Array, Array]:
    """Power steps on Z^T Z, Z = (L - L q) sqrt(q) / T, at each of n temperatures at once; Z itself is never built.

    Args:
        logs: (..., m, K) contrasts L of log p.
        log_p: (..., K) log probabilities.
        temperatures: (..., n).
        seed: (..., n or 1, K) rows of log p, or sums of such rows, to start from.
        steps: how many.

    Returns:
        (..., n, K) top directions as linear forms of rows of L, (..., n) top eigenvalues from below, precise enough to place
        a maximum, and the (..., n, K) sums of rows that the directions come from.

    >>> log_p, rows = np.log([0.5, 0.3, 0.2]), np.array([[1.0, 0.0, 2.0]])
    >>> _, top, _ = power_steps(rows, log_p, np.array([2.0]), rows, 3)
    >>> bool(np.isclose(top[0], (temper(rows, log_p, 2.0) ** 2).sum()))
    True
    """
    q, turned = probabilities_at(log_p, temperatures), np.swapaxes(logs, -1, -2)
    weights = q / temperatures[..., None] ** 2
    for step in range(steps + 1):
        # u = centred root, and as q adds up to 1 its form is u root: no mean of it is left to take off.
        centred = seed - np.vecdot(q, seed)[..., None]
        forms = centred * weights
        values = np.sqrt(np.maximum(np.vecdot(forms, centred), 0.0))
        inverse = 1.0 / np.maximum(values, TINY)[..., None]
        if step < steps:
            seed = ((forms @ turned) * inverse) @ logs
    forms *= inverse
    return forms, values, seed


def linear_forms(directions: Array, q: Array, root: Array) -> Array:
    """u . z = sum_k u_k sqrt(q_k) / T (L_k - L q) as linear forms of L; all (..., K), ``root`` is sqrt(q) / T.

    >>> log_p, rows, u = np.log([0.5, 0.3, 0.2]), np.array([[1.0, 0.0, 2.0]]), np.array([0.6, 0.8, 0.0])
    >>> q, root = tempered(log_p, np.array([2.0]))
    >>> bool(np.isclose(rows @ linear_forms(u, q[0], root[0]), temper(rows, log_p, 2.0) @ u)[0])
    True
    """
    weights = directions * root
    return np.asarray(weights - weights.sum(axis=-1, keepdims=True) * q)
