"""The top eigenpair of G = diag(s) C diag(s) from products with C, for many inputs at once.

One step is one product with C, a backward and a forward-like pass over the batch; inputs that are done drop out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClassProduct", "Krylov", "lanczos_steps", "lanczos_top", "random_start", "relative_residual"]

Array = NDArray[np.float64]

#: C w and w . C w for the inputs listed: (b, K) cotangents and (b,) positions to (b, K) and (b,).
ClassProduct = Callable[[Array, NDArray[np.intp]], tuple[Array, Array]]


#: Length of a start's random part, that of the exchange being 1, and steps that are taken at least: where the exchange is
#: nearly an eigenvector, and not the top one, the residual is small before the random part has grown.
RANDOM_SHARE, LEAST_STEPS = 0.1, 4


@dataclass(frozen=True)
class Krylov:
    """What the iteration found, and the products that it paid for, which the peak norm and the trace use again.

    Attributes:
        value: (B,) top eigenvalue, a Rayleigh quotient and so never above the true one.
        vector: (B, K) its unit eigenvector.
        residual: (B,) |G u - value u| / value; the value misses an eigenvalue of G by at most residual^2 value^2 / gap.
        steps: (B,) products with C.
        cotangents: (B, n, K) arguments w of the products, zeros where an input was done.
        images: (B, n, K) their products C w.
        squared: (B, n) lengths w . C w, as the product gave them.
    """

    value: Array
    vector: Array
    residual: Array
    steps: NDArray[np.intp]
    cotangents: Array
    images: Array
    squared: Array


def random_start(roots: Array, rng: np.random.Generator) -> Array:
    """A start for each input: the exchange between the top class and the others, and a little of a random vector.

    The random part is what the convergence theory needs (Kuczynski & Wozniakowski 1992, doi 10.1137/0613066).
    """
    count, classes = roots.shape
    guess = -roots * roots.max(axis=1, keepdims=True)
    guess[np.arange(count), roots.argmax(axis=1)] += 1.0
    return _unit(
        _unit(_without(guess, roots)) + RANDOM_SHARE * _unit(_without(rng.standard_normal((count, classes)), roots))
    )


def lanczos_top(
    product: ClassProduct, roots: Array, start: Array, *, tolerance: float, most: int, least: int = LEAST_STEPS
) -> Krylov:
    """Lanczos iteration with full reorthogonalisation on G = diag(s) C diag(s).

    Args:
        product: C w for some of the inputs.
        roots: (B, K) s = sqrt(p).
        start: (B, K) first vectors, orthogonal to s, of unit length.
        tolerance: relative residual at which an input is done.
        most: most steps; the residual says what was reached.
        least: steps that are taken at least, but where no direction is left.

    Source: Lanczos 1950; full reorthogonalisation as in Parlett, The Symmetric Eigenvalue Problem, section 13.
    """
    steps = lanczos_steps(roots, start, tolerance=tolerance, most=most, least=least)
    asked = next(steps)
    while True:
        try:
            asked = steps.send(product(*asked))
        except StopIteration as stop:
            found: Krylov = stop.value
            return found


def lanczos_steps(
    roots: Array, start: Array, *, tolerance: float, most: int, least: int = LEAST_STEPS
) -> Generator[tuple[Array, NDArray[np.intp]], tuple[Array, Array], Krylov]:
    """``lanczos_top`` step by step: yields the arguments of the product that it needs next, and is sent its answer."""
    count, classes = roots.shape
    most = min(most, classes)
    value, residual = np.zeros(count), np.full(count, np.inf)
    vector, steps = start.copy(), np.zeros(count, dtype=np.intp)
    # Step by step in memory, so that what no step reaches is never touched.
    basis, images = (np.zeros((most, count, classes)).swapaxes(0, 1) for _ in range(2))
    squared = np.zeros((count, most))
    active, u = np.arange(count), start
    done_steps = 0
    for step in range(most):
        done_steps = step + 1
        basis[active, step] = u
        images[active, step], squared[active, step] = yield roots[active] * u, active
        steps[active] += 1
        known = basis[active, :done_steps]
        applied = roots[active, None] * images[active, :done_steps]
        projected = known @ applied.mT
        values, vectors = np.linalg.eigh((projected + projected.mT) / 2)
        weights = vectors[:, :, -1:].mT
        value[active] = np.maximum(values[:, -1], 0.0)
        vector[active] = (weights @ known)[:, 0]
        residual[active] = relative_residual((weights @ applied)[:, 0], vector[active], value[active])
        rest = applied[:, step]
        for _ in range(2):
            rest = rest - ((rest[:, None] @ known.mT) @ known)[:, 0]
        length = np.linalg.norm(rest, axis=1)
        early = done_steps < max(least, LEAST_STEPS)
        going = ((residual[active] > tolerance) | early) & (length > 1e-13 * value[active])
        active, u = active[going], rest[going] / length[going, None]
        if len(active) == 0:
            break
    cotangents = roots[:, None] * basis[:, :done_steps]
    return Krylov(value, _unit(vector), residual, steps, cotangents, images[:, :done_steps], squared[:, :done_steps])


def relative_residual(applied: Array, vector: Array, value: Array) -> Array:
    """|A u - value u| / value for each row; 0 where value is 0."""
    missed = np.linalg.norm(applied - value[:, None] * vector, axis=1)
    return np.asarray(np.divide(missed, value, out=np.zeros_like(missed), where=value > 0))


def _without(rows: Array, roots: Array) -> Array:
    """Rows with their part along s removed: G s = 0."""
    return np.asarray(rows - (rows * roots).sum(axis=1, keepdims=True) * roots)


def _unit(rows: Array) -> Array:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, length, out=np.zeros_like(rows), where=length > 0))
