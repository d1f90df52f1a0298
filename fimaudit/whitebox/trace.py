"""The trace of a symmetric matrix that is known only by its products with vectors: a value and its standard error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["TraceEstimate", "trace_hutchinson"]

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


def _standard_error(terms: Array) -> float:
    return float(terms.std(ddof=1) / np.sqrt(len(terms))) if len(terms) > 1 else float("inf")
