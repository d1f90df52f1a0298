"""What a basis leaves out, from random directions: images for the margins, and the trace with its standard error."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.margin import first_order_radii
from fimaudit.perturbations.random_signs import generator, packed_signs
from fimaudit.whitebox.batch_products import BatchProducts
from fimaudit.whitebox.krylov_basis import InputBasis, margin_candidates

__all__ = ["log_odds_radii", "outside_images", "trace_and_error"]

Array = NDArray[np.float64]

#: Random input directions, which serve the trace and the search for the nearest class: the first of them, and more while
#: more classes may be the nearest than there are directions.
DIRECTIONS = (8, 14, 20)
#: Stream of the generator that no black-box measurement uses.
DIRECTION_STREAM = 102


def outside_images(
    batch: BatchProducts, bases: list[InputBasis], log_p: Array, keys: Sequence[tuple[int, int]]
) -> list[Array]:
    """(m, K) images J_L z for each input, of random sign vectors without their part in its basis.

    How many an input takes is its own affair, whatever the batch.
    """
    most = DIRECTIONS[-1]
    packed = np.stack([packed_signs(generator(*key, DIRECTION_STREAM), most, batch.features) for key in keys])
    found: list[Array] = [np.zeros((0, log_p.shape[1]))] * len(keys)
    active = np.arange(len(keys))
    for first, last in pairwise((0, *DIRECTIONS)):
        images = np.stack([batch.push_signs(packed[active, r], active) for r in range(first, last)], axis=1)
        for i, of in zip(active.tolist(), images, strict=True):
            found[i] = np.vstack([found[i], bases[i].outside(of)])
        active = active[[_many_candidates(bases[i], found[i], log_p[i]) for i in active]]
        if len(active) == 0:
            break
    return found


def trace_and_error(basis: InputBasis, outside: Array, roots: Array) -> tuple[float, float]:
    """The trace and its standard error: exact on the basis, Hutchinson's estimator outside it.

    With A = P F P the part outside, a term z . A z has the variance 2 |A|^2, or less, and two independent z show that norm:
    |A|^2 is the mean square of z . A z'. Where A is of low rank and terms are few, this is often much too small, and so is
    what the terms themselves vary by, but seldom the larger of both (tests/whitebox/test_random_directions.py).

    Args:
        basis: input directions measured exactly.
        outside: (m, K) images of random sign vectors without their part in the basis, m >= 2.
        roots: (K,) s = sqrt(p).

    >>> basis = InputBasis(np.zeros((0, 2)), np.zeros((0, 2)))
    >>> trace_and_error(basis, np.array([[3.0, 0.0], [0.0, 1.0]]), np.ones(2))
    (5.0, 4.0)
    """
    inside = float(((roots * basis.images) ** 2).sum())
    rows = roots * outside
    products = rows @ rows.T
    terms = np.diagonal(products)
    count = len(terms)
    square = float((products**2).sum() - (terms**2).sum()) / (count * (count - 1))
    return inside + float(terms.mean()), float(np.sqrt(max(2 * square, terms.var(ddof=1)) / count))


def _many_candidates(basis: InputBasis, images: Array, log_p: Array) -> bool:
    estimate, lower = log_odds_radii(basis, images, log_p)
    return bool(np.count_nonzero(lower < estimate.min()) > len(images))


def log_odds_radii(basis: InputBasis, images: Array, log_p: Array) -> tuple[Array, Array]:
    """(K,) first-order radii toward every class, estimated, and their lower limits; infinite for the top class."""
    top = log_p.argmax()
    estimate, lower = (first_order_radii(log_p[top] - log_p, norms) for norms in margin_candidates(basis, images, log_p))
    estimate[top] = lower[top] = np.inf
    return estimate, lower
