"""The trace of a symmetric matrix that is known only by its products with vectors: a value and its standard error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["TraceEstimate", "trace_hutchinson", "trace_xtrace"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TraceEstimate:
    """A trace, its standard error and the products it took.

    >>> A = np.diag([3.0, 2.0, 1.0])
    >>> trace_hutchinson(lambda v: A @ v, 3, 4, np.random.default_rng(0)).value
    6.0
    """

    value: float
    standard_error: float
    products: int


def trace_hutchinson(matvec: Callable[[Array], Array], size: int, products: int, rng: np.random.Generator) -> TraceEstimate:
    """Mean of z^T A z over Rademacher z.

    Relative standard error at most sqrt(2 / products) for a positive semidefinite A of rank one or more.

    Args:
        matvec: A v for a (size,) vector.
        size: order of A.
        products: how many vectors to draw, at least 2.
        rng: random generator.

    Source: Hutchinson 1990, doi 10.1080/03610919008812866.
    """
    signs = np.where(rng.integers(0, 2, (products, size), dtype=np.uint8), 1.0, -1.0)
    terms = np.array([z @ matvec(z) for z in signs])
    return TraceEstimate(float(terms.mean()), _standard_error(terms), products)


def trace_xtrace(matvec: Callable[[Array], Array], size: int, products: int, rng: np.random.Generator) -> TraceEstimate:
    """XTrace: exact on a sketched range plus Hutchinson on the rest, every test vector serving both in turn.

    With Q R = A Omega and s_i the unit normal of R's columns without the i-th, the range without omega_i is
    Q (I - s_i s_i^T) Q^T = P_i, and estimate i is tr(P_i A) + w^T A w, w = (I - P_i) omega_i rescaled to length
    sqrt(size - rank P_i). The value is the mean over i.

    Args:
        matvec: A v for a (size,) vector; A symmetric.
        size: order of A.
        products: how many products to spend, at least 4; half sketch the range.
        rng: random generator.

    Source: Epperly, Tropp & Webber 2024, arXiv 2301.07825.
    """
    count = min(products // 2, size)
    omega = rng.standard_normal((size, count))
    omega *= np.sqrt(size) / np.linalg.norm(omega, axis=0)
    sketch = np.stack([matvec(column) for column in omega.T], axis=1)
    if not sketch.any():
        return TraceEstimate(0.0, 0.0, count)
    q, r = np.linalg.qr(sketch)
    inner = np.stack([matvec(column) for column in q.T], axis=1)
    inner = q.T @ inner
    inner = (inner + inner.T) / 2
    if count == size:
        return TraceEstimate(float(np.trace(inner)), 0.0, 2 * count)
    # A sketch of lower rank than its columns has no normal; a tiny ridge picks one.
    ridge = 1e-14 * np.abs(r).max() * np.eye(count)
    normals = np.linalg.inv(r + ridge).T
    normals /= np.linalg.norm(normals, axis=0)
    seen = q.T @ omega
    inside = seen - normals * (normals * seen).sum(axis=0)
    outside = (seen * r).sum(0) - 2 * (inside * r).sum(0) + (inside * (inner @ inside)).sum(0)
    left = np.maximum(size - (inside**2).sum(axis=0), 1e-300)
    terms = np.trace(inner) - (normals * (inner @ normals)).sum(axis=0) + (size - count + 1) * outside / left
    return TraceEstimate(float(terms.mean()), _standard_error(terms), 2 * count)


def _standard_error(terms: Array) -> float:
    return float(terms.std(ddof=1) / np.sqrt(len(terms))) if len(terms) > 1 else float("inf")
