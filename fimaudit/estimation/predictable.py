"""What earlier contrasts predict: directions for the terms of a lower limit, each from the terms before it.

Given the past, the square of the next contrast along a direction found from it is at most lambda times a chi squared with
one degree of freedom, whatever the spectrum: any direction will do, and a good one makes the limit sharp. Shapes are as
in ``spectrum``: contrasts (m, K), exact rows ``exact_part`` (q, K).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DENSE_CLASSES",
    "FIRST_STEPS",
    "LEARNING",
    "RENEWED_STEPS",
    "TINY",
    "block_starts",
    "joint_starts",
    "leading_directions",
    "least_norm",
    "longest_row",
    "past_directions",
    "past_grams",
    "past_rows",
    "predicted_energy",
    "predicted_lower",
    "predicted_sum",
    "seed_direction",
    "unit_vectors",
]

Array = NDArray[np.float64]

#: Terms before the first prediction of the top direction.
LEARNING = 3
#: The predicted direction is renewed when the past has grown by this factor.
GROWTH = 1.6
#: A matrix squared so often leaves its top eigenvector; and what may be divided by.
SQUARINGS, TINY = 4, 1e-300
#: Bisections of a lower limit: relative precision 2^-40.
HALVINGS = 40
#: Above this many classes the predicted direction comes from power steps rather than an eigendecomposition; both sides of
#: it are tested in tests/estimation/test_spectrum.py.
DENSE_CLASSES = 24
#: Power steps for the first of these, and for each of those that start from the one before.
FIRST_STEPS, RENEWED_STEPS = 4, 2


def predicted_energy(y: Array, known: Array | None = None) -> tuple[Array, int]:
    """sum_t (u_t . y_t)^2 with u_t found from y_1 .. y_{t-1} alone, and the number of its terms.

    Given the past each term is at most lambda times a chi squared with one degree of freedom, whatever the spectrum, so
    the sum over its quantile is a lower limit. Any direction found from the past will do; it is renewed in growing blocks.

    Args:
        y: (..., m, K) contrasts in order.
        known: (..., K) the direction where it is known beforehand (two classes); then every term counts.

    >>> energy, terms = predicted_energy(np.array([[1.0, 0.0]] * 5))
    >>> round(float(energy), 6), terms
    (2.0, 2)
    """
    m = y.shape[-2]
    if known is not None:
        return predicted_sum(known[..., None, :], y, (0,)), m
    if m <= LEARNING:
        return np.zeros(y.shape[:-2]), 0
    starts = block_starts(m)
    return predicted_sum(past_directions(y, starts), y, starts), m - LEARNING


def predicted_sum(forms: Array, y: Array, starts: Sequence[int]) -> Array:
    """sum_t (f_b . y_t)^2 over the rows from the first start on, with the form (..., blocks, K) of the block of t.

    >>> float(predicted_sum(np.array([[1.0, 0.0]]), np.array([[2.0, 5.0], [1.0, 7.0]]), (0,)))
    5.0
    """
    return np.asarray(sum(block_energies(forms, y, starts)))


def block_energies(forms: Array, y: Array, starts: Sequence[int]) -> list[Array]:
    """The same sum block by block.

    >>> y = np.array([[2.0], [1.0], [3.0]])
    >>> [float(e) for e in block_energies(np.array([[1.0], [1.0]]), y, (0, 2))]
    [5.0, 9.0]
    """
    out = []
    for block, (first, last) in enumerate(itertools.pairwise((*starts, y.shape[-2]))):
        along = y[..., first:last, :] @ forms[..., block, :, None]
        out.append((along * along).sum(axis=(-2, -1)))
    return out


def least_norm(energies: Sequence[float], offsets: Sequence[float], quantile: float, floor: float) -> float:
    """The smallest L >= floor with sum_b e_b / (L - a_b) <= quantile: a lower limit of what exceeds every offset.

    A direction u_t whose part a_t was measured exactly leaves (u_t . y_t)^2 at most (lambda - a_t) chi2_1 given the past, so
    at the true norm the sum is a chi squared at most. It falls with L; with offsets of 0 it is sum e / quantile.

    Args:
        energies, offsets: e_b and a_b.
        quantile: of the sum.
        floor: a certain lower limit, no smaller than any offset.

    >>> round(least_norm([10.0], [0.0], 5.0, 0.0), 6)
    2.0
    >>> round(least_norm([10.0], [1.0], 5.0, 1.0), 6)
    3.0
    """

    def beyond(at: float) -> bool:
        total = 0.0
        for energy, offset in zip(energies, offsets, strict=True):
            if energy > 0:
                if at <= offset:
                    return True
                total += energy / (at - offset)
        return total > quantile

    if not beyond(floor):
        return floor
    low, high = floor, floor + sum(energies) / quantile
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if beyond(middle) else (low, middle)
    return low


@lru_cache(maxsize=256)
def block_starts(m: int) -> tuple[int, ...]:
    """Where, among m contrasts, the predicted direction is renewed; the first is ``LEARNING``.

    >>> block_starts(20)
    (3, 4, 6, 9, 14)
    """
    starts = [LEARNING]
    while (nxt := max(starts[-1] + 1, int(starts[-1] * GROWTH))) < m:
        starts.append(nxt)
    return tuple(starts)


@lru_cache(maxsize=256)
def joint_starts(m: int) -> tuple[int, ...]:
    """The same beside exact rows: they give the first direction, before any contrast.

    >>> joint_starts(10)
    (0, 3, 4, 6, 9)
    """
    return (0, *(start for start in block_starts(m) if start < m))


def past_rows(y: Array, start: int, exact_part: Array | None = None) -> Array:
    """The rows (..., t, K) before a start; of a single input also its exact rows, which count t times.

    >>> past_rows(np.array([[1.0], [2.0], [3.0]]), 2)
    array([[1.],
           [2.]])
    """
    return y[..., :start, :] if exact_part is None else np.vstack([np.sqrt(max(start, 1)) * exact_part, y[:start]])


def past_grams(y: Array, starts: Sequence[int], exact_part: Array | None = None) -> Array:
    """Gram of the rows before each start, (..., blocks, K, K); of t rows and t times C^T C where there are exact ones.

    >>> past_grams(np.array([[1.0], [2.0], [3.0]]), (1, 3)).ravel()
    array([ 1., 14.])
    """
    parts = [y[..., a:b, :] for a, b in itertools.pairwise((0, *starts))]
    grams = np.cumsum(np.stack([np.swapaxes(part, -1, -2) @ part for part in parts], axis=-3), axis=-3)
    if exact_part is None:
        return grams
    return np.asarray(grams + np.maximum(starts, 1)[:, None, None] * (exact_part.T @ exact_part))


def leading_directions(grams: Array, seeds: Array) -> Array:
    """Unit vectors near the top eigenvectors of (..., K, K) positive matrices: the sixteenth power of each times a seed.

    A prediction need not be exact: whatever the direction, the limit holds. The seeds, (..., K), are contrasts from the
    past, so that no class basis is special; where that is zero, a column of the power has to do.

    >>> leading_directions(np.diag([4.0, 1.0])[None], np.array([[1.0, 1.0]])).round(6)
    array([[1., 0.]])
    """
    power = grams
    for _ in range(SQUARINGS):
        power = power @ power
        power /= np.maximum(power.trace(axis1=-2, axis2=-1), TINY)[..., None, None]
    found = (power @ seeds[..., None])[..., 0]
    return unit_vectors(np.where(found.any(axis=-1, keepdims=True), found, longest_row(power)))


def seed_direction(y: Array, exact_part: Array | None = None) -> Array:
    """(..., K) what the search for a top direction starts from: the longest exact row, or contrast before any prediction.

    >>> seed_direction(np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0], [9.0, 0.0]]))
    array([0., 2.])
    """
    return longest_row(y[..., :LEARNING, :] if exact_part is None else exact_part)


def longest_row(rows: Array) -> Array:
    """(..., K) of (..., m, K).

    >>> longest_row(np.array([[1.0, 1.0], [0.0, 2.0]]))
    array([0., 2.])
    """
    longest = np.vecdot(rows, rows).argmax(axis=-1)
    return np.asarray(np.take_along_axis(rows, longest[..., None, None], axis=-2)[..., 0, :])


def past_directions(y: Array, starts: Sequence[int], exact_part: Array | None = None) -> Array:
    """Leading direction of the rows before each start, (..., blocks, K), with the exact rows of a single input, if any.

    >>> past_directions(np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 0.1], [1.0, 1.0]]), (3,)).round(6)
    array([[1., 0.]])
    """
    seed = seed_direction(y, exact_part)
    if y.shape[-1] <= DENSE_CLASSES:
        grams = past_grams(y, starts, exact_part)
        whole = np.maximum(grams[..., -1, :, :].trace(axis1=-2, axis2=-1), TINY)
        return leading_directions(grams / whole[..., None, None, None], seed[..., None, :])
    out, steps = [], FIRST_STEPS
    for start in starts:
        past = past_rows(y, start, exact_part)
        for _ in range(steps):
            seed = unit_vectors(((seed[..., None, :] @ np.swapaxes(past, -1, -2)) @ past)[..., 0, :])
        seed = np.where(seed.any(axis=-1, keepdims=True), seed, unit_vectors(past[..., -1, :]))
        out.append(seed)
        steps = RENEWED_STEPS
    return np.stack(out, axis=-2)


def unit_vectors(vectors: Array) -> Array:
    """(..., K) divided by their lengths, zeros as they are.

    >>> unit_vectors(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    lengths = np.sqrt(np.vecdot(vectors, vectors))[..., None]
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0))


def predicted_lower(
    forms: Array, y: Array, starts: Sequence[int], exact_part: Array, quantile: float, floor: float
) -> float:
    """``least_norm`` from predicted forms (blocks, K) of the contrasts and of the exact rows; ``floor`` is certain.

    >>> form, exact = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]])
    >>> round(predicted_lower(form, np.array([[2.0, 0.0], [1.0, 0.0]]), (0,), exact, 5.0, 1.0), 6)
    2.0
    """
    offsets = ((forms @ exact_part.T) ** 2).sum(axis=1)
    return least_norm(
        [float(e) for e in block_energies(forms, y, starts)], offsets.tolist(), quantile, max(floor, float(offsets.max()))
    )
