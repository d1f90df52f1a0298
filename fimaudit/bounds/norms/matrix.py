"""Certified upper bounds on the spectral norm of dense matrices, one or a whole batch, by Gram iteration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Stack = NDArray[Any]

__all__ = ["OUTWARD", "Stack", "largest_norm", "spectral_norm_upper"]

OUTWARD = 1.0 + 1e-6
"""Every norm read off weights is raised by this factor: it covers our own float64 rounding (at most 1e-8 for
matrices of 25,000 columns) and the float32 rounding of the network's arithmetic."""

TOLERANCE = 1e-3
MOST_SQUARINGS = 40
CERTIFY_SIZE, POWER_STEPS = 48, 20  # matrices on which the shorter proof by Cholesky is tried


def spectral_norm_upper(matrix: ArrayLike) -> float:
    """Upper bound on the largest singular value of a matrix, at most about 0.1 % above it.

    sigma(W) <= ||(W^T W)^(2^j)||_F^(1/2^(j+1)): the Frobenius norm is never below the spectral norm, and each
    squaring takes the square root of the gap. The iteration stops once tr and ||.||_F of the power, which bound the
    top eigenvalue from below by ||.||_F^2 / tr, agree to 0.1 %; on large matrices a Cholesky factorisation proves the
    last step instead.

    Args:
        matrix: (m, n), real or complex, any unit (the bound has the same).

    Raises:
        ValueError: not a matrix, or not finite.

    Source: Delattre et al., Efficient Bound of Lipschitz Constant for Convolutional Layers by Gram Iteration, ICML
    2023, arXiv 2305.16173. The stopping rule is ours.

    >>> round(spectral_norm_upper([[3.0, 0.0], [0.0, 4.0]]), 2)
    4.0
    """
    a = np.asarray(matrix)
    if a.ndim != 2:
        raise ValueError(f"expected a matrix, got an array of shape {a.shape}")
    return float(OUTWARD * largest_norm([a[None]]))


def largest_norm(batches: Iterable[Stack]) -> float:
    """Upper bound on the largest spectral norm among all the matrices of some (B, m, n) batches, without ``OUTWARD``.

    A matrix whose upper bound falls to the best lower bound seen so far is dropped, so most cost two or three products.
    """
    best, bound = -np.inf, -np.inf  # logs of the best lower bound and of the largest last upper bound
    for batch in batches:
        a = np.asarray(batch, dtype=np.complex128 if np.iscomplexobj(batch) else np.float64)
        if a.size == 0:
            continue
        peak = float(np.abs(a).max())
        if not np.isfinite(peak):
            raise ValueError("expected finite weights, got NaN or infinity")
        scale = peak * float(np.sqrt(_squares(a / peak).max())) if peak else 0.0
        if scale == 0.0 or np.log(scale) <= best:
            bound = max(bound, np.log(scale)) if scale else bound
            continue
        best, bound = _iterate(_gram(a / scale), float(np.log(scale)), best, bound)
    return float(np.exp(bound))


def _gram(a: Stack) -> Stack:
    adjoint = np.conj(np.swapaxes(a, 1, 2))
    return np.asarray(a @ adjoint if a.shape[1] <= a.shape[2] else adjoint @ a)


def _iterate(gram: Stack, log_scale: float, best: float, bound: float) -> tuple[float, float]:
    exponent = 2.0  # gram holds the power sigma^exponent, divided by exp(log_size)
    log_size = np.zeros(len(gram))
    for _ in range(MOST_SQUARINGS):
        frobenius = np.maximum(np.sqrt(_squares(gram)), np.finfo(np.float64).tiny)
        trace = np.maximum(np.einsum("bii->b", gram).real, frobenius)
        upper = (np.log(frobenius) + log_size) / exponent + log_scale
        lower = (2 * np.log(frobenius) - np.log(trace) + log_size) / exponent + log_scale
        best = max(best, float(lower.max()))
        keep = upper > best + TOLERANCE
        bound = max(bound, float(upper[~keep].max(initial=-np.inf)))
        if not keep.any():
            return best, bound
        upper = upper[keep]
        gram = gram[keep] / frobenius[keep, None, None]
        log_size = 2 * (log_size[keep] + np.log(frobenius[keep]))
        if gram.shape[1] >= CERTIFY_SIZE:
            scaled = log_size / 2
            best = max(best, float((np.log(_rayleigh(gram)) + scaled).max()) / exponent + log_scale)
            if _below(gram, np.exp(exponent * (best + TOLERANCE - log_scale) - scaled)):
                return best, max(bound, best + TOLERANCE)
        gram = gram @ gram
        exponent *= 2
    return best, max(bound, float(upper.max()))


def _rayleigh(gram: Stack) -> NDArray[np.float64]:
    """A good lower bound on each top eigenvalue, by power steps from a fixed start."""
    start = np.random.default_rng(0).standard_normal((1, gram.shape[1], 1))
    v = np.broadcast_to(start / np.linalg.norm(start), (len(gram), *start.shape[1:]))
    size = np.ones(len(gram))
    for _ in range(POWER_STEPS):
        w = gram @ v
        size = np.maximum(np.einsum("bik,bik->b", np.conj(v), w).real, np.finfo(np.float64).tiny)
        v = w / np.maximum(np.sqrt(_squares(w)), np.finfo(np.float64).tiny)[:, None, None]
    return np.asarray(size)


def _below(gram: Stack, limit: NDArray[np.float64]) -> bool:
    """Whether every eigenvalue is below its matrix's limit: a Cholesky factorisation of limit I - G that runs through
    proves it, but for a rounding of (q + 1) q eps limit (Rump, BIT 46, 2006, doi:10.1007/s10543-006-0056-1), far
    below ``OUTWARD``."""
    try:
        np.linalg.cholesky(limit[:, None, None] * np.eye(gram.shape[1]) - gram)
    except np.linalg.LinAlgError:
        return False
    return True


def _squares(a: Stack) -> NDArray[np.float64]:
    flat = a.reshape(len(a), -1)
    parts = (flat.real, flat.imag) if np.iscomplexobj(flat) else (flat,)
    return np.asarray(sum(np.einsum("bi,bi->b", part, part) for part in parts), dtype=np.float64)
