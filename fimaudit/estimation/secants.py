"""From answers to secants: sqrt(p), its differences over the displacement that was sent, and their Helmert contrasts."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.number_format import FLOAT32_SPACING, are_float32_below_range, narrowed

__all__ = [
    "complete",
    "complete_in_place",
    "contrasts",
    "contrasts_in_place",
    "least_visible",
    "log_probabilities",
    "resolution",
    "visible_classes",
]

Array = NDArray[np.float64]

#: Below this a float32 probability has lost its relative precision (denormal numbers begin at 1.2e-38).
FLOAT32_FLOOR = 1e-36
FLOAT64_FLOOR = 1e-290
#: Below this float32 has so few digits that its numbers can be told from those of float64.
FEW_DIGITS = 1e-40
#: Up to this, a class is what the others leave of 1, as ``complete`` made it: far above the rounding of a sum, and below
#: what classes that are not in the row hold (test_secants.test_a_class_that_is_not_in_the_row_is_not_taken_for_rounding).
COMPLETE = 1e-9
#: Contrasts are matrix products of so many rows each.
BLOCK_ROWS = 16


def complete(p: Array, top: int | NDArray[np.int64]) -> Array:
    """Replace the probability of class ``top`` by 1 minus the others, in float64, where it is the larger part.

    A float32 answer of 1 - 1e-9 reads 1.0; the others keep their relative precision, so their sum says what was lost.

    Args:
        p: (m, K) probabilities, or (n, m, K) with a ``top`` (n,) for each of n inputs.
        top: the class that holds most of the probability at the base point.

    >>> bool(complete(np.array([[1.0, 1e-9, 2e-9]]), 0)[0, 0] == 1 - 3e-9)
    True
    """
    out = p.copy()
    complete_in_place(out, top)
    return out


def complete_in_place(p: Array, top: int | NDArray[np.int64]) -> None:
    """``complete`` without a copy.

    >>> rows = np.array([[1.0, 1e-9, 2e-9]])
    >>> complete_in_place(rows, 0)
    >>> bool(rows[0, 0] == 1 - 3e-9)
    True
    """
    place, others = _place(top), _without(p, top)
    p[place] = np.where(others < 0.5, 1.0 - others, p[place])


def _place(top: int | NDArray[np.int64]) -> Any:
    """Where class ``top`` stands in all rows: (..., K), or (n, m, K) with one class for each of n."""
    return (..., top) if np.ndim(top) == 0 else (np.arange(np.size(top)), slice(None), top)


def _without(p: Array, top: int | NDArray[np.int64]) -> Array:
    """Sum over the classes but class ``top``; the whole sum less that one would cancel."""
    if np.ndim(top) == 0:
        return np.asarray((p @ _all_but(p.shape[-1], int(top)))[..., 0])
    counted = np.arange(p.shape[-1]) != np.asarray(top)[..., None]
    return np.asarray((p @ counted.astype(np.float64)[..., None])[..., 0])


@lru_cache(maxsize=1024)
def _all_but(classes: int, top: int) -> Array:
    """(K, 1) ones, and 0 for class ``top``."""
    return np.asarray((np.arange(classes) != top).astype(np.float64)[:, None])


def resolution(p: Array, spacing: float) -> float:
    """The absolute quantum of the smaller of two classes that came as one column, else 0.

    A model with a single output P(class 1) = 1 - e says e only to the spacing of its numbers at 1, which is 6e-8 for
    float32. It is 0 too where that leaves e as many digits as float32 has.

    Args:
        p: (m, 2) probabilities.
        spacing: of the numbers just below 1 (``number_spacing``), at least float32's where it holds the column.

    >>> column = np.float32([0.1, 0.2]).astype(float)
    >>> bool(resolution(np.stack([1 - column, column], axis=1), 2.0**-53) == FLOAT32_SPACING * 2 * column[1])
    True
    >>> resolution(np.array([[1 - 0.99991, 0.99991]]), 1e-5), resolution(np.array([[1e-9, 1 - 1e-9]]), 1e-5)
    (1e-05, 0.0)
    """
    if p.shape[1] != 2:
        return 0.0
    column = p[:, 1]
    if not (p[:, 0] == 1.0 - column).all():
        return 0.0
    if narrowed(column).dtype == np.float32:
        spacing = max(spacing, FLOAT32_SPACING)
    quantum = spacing * min(1.0, (10.0 if spacing > FLOAT32_SPACING else 2.0) * float(column.max(initial=0.0)))
    return float(quantum) if quantum >= FLOAT32_SPACING * float(p.min(initial=1.0)) else 0.0


def visible_classes(p: Array) -> NDArray[np.bool_]:
    """Classes whose probability keeps relative precision in every row: the ones whose logarithm can be used.

    Args:
        p: (..., m, K); the result is (..., K).

    >>> visible_classes(np.array([[1.0, 1e-10, 1e-300], [1.0, 2e-10, 1e-300]]))
    array([ True,  True, False])
    """
    return np.asarray(p.min(axis=-2) > least_visible(p)[..., None])


def least_visible(p: Array) -> Array:
    """The probability (...) below which a class of (..., m, K) rows is hidden by the range of the numbers they came in.

    Numbers of float32 are seen as such, and also where float64 carries them: divided by their sum, or read from text. What
    float32 holds below its range are multiples of 2^-149, however they came.

    >>> least_visible(np.array([[0.75, 0.25]])), least_visible(np.array([[0.7, 0.2, 0.1]]))
    (array(1.e-36), array(1.e-290))
    >>> least_visible(np.array([[0.7, 0.3, 4e-45]])), least_visible(np.array([[0.7, 0.3, 3.3e-45]]))
    (array(1.e-36), array(1.e-290))
    """
    row = p[..., -1, :]
    narrow = (row == row.astype(np.float32)) | (np.arange(row.shape[-1]) == row.argmax(axis=-1)[..., None])
    short = np.asarray(narrow.all(axis=-1))  # the largest may have been completed
    if not short.all() and ((coarse := (p > 0) & (p < FEW_DIGITS)).any()):
        for place in np.argwhere(~short & coarse.any(axis=(-2, -1))):
            short[tuple(place)] = are_float32_below_range(p[tuple(place)][coarse[tuple(place)]])
    return np.where(short, FLOAT32_FLOOR, FLOAT64_FLOOR)


def log_probabilities(p: Array, top: int | NDArray[np.int64]) -> Array:
    """log p of rows from ``complete``; the top class by log1p of minus the others, so that 1 - 1e-20 is not 0.

    Rows of some of the classes do not add up to 1, and what the others leave is not the top class then.

    Args:
        p: (m, K) positive probabilities, or (n, m, K) with a ``top`` (n,) for each of n inputs.
        top: the class that holds most of the probability at the base point.

    Returns:
        natural logarithms, of the shape of ``p``.

    >>> float(log_probabilities(np.array([[1.0, 1e-20]]), 0)[0, 0])
    -1e-20
    >>> log_probabilities(np.array([[0.3, 0.2]]), 0).round(3).tolist()
    [[-1.204, -1.609]]
    """
    out, place = np.log(p), _place(top)
    others = _without(p, top)
    sure = (others < 0.5) & (np.abs(1.0 - others - p[place]) < COMPLETE)
    out[place] = np.where(sure, np.log1p(-np.where(sure, others, 0.0)), out[place])
    return np.asarray(out)


def contrasts(secants: Array) -> Array:
    """Helmert contrasts over the directions: (..., m, K) to (..., m - 1, K), without the mean over directions.

    c_t = (t y_{t+1} - sum_{i<=t} y_i) / sqrt(t (t+1)). The rows are an orthonormal transform of the centred secants, so
    sum_t c_t c_t^T = sum_i (y_i - ybar)(y_i - ybar)^T; contrast t uses only the first t + 1 secants, which is what the
    predictable lower limit needs; and the base point, common to all secants, drops out.

    >>> contrasts(np.array([[1.0], [3.0]]))
    array([[1.41421356]])
    """
    return contrasts_in_place(secants.copy())


def contrasts_in_place(secants: Array) -> Array:
    """``contrasts``, written over the secants: the result is a view of them.

    >>> rows = np.array([[1.0], [3.0]])
    >>> contrasts_in_place(rows), rows
    (array([[1.41421356]]), array([[0.        ],
           [1.41421356]]))
    """
    secants -= secants[..., :1, :].copy()  # a class that all but stands still would leave the rounding of its own size
    rows = np.zeros((*secants.shape[:-2], BLOCK_ROWS + 1, secants.shape[-1]))  # the first is the sum of all before
    for first, last, weights in _helmert_blocks(secants.shape[-2]):
        some = rows[..., : last - first + 1, :]
        some[..., 1:, :] = secants[..., first:last, :]
        np.matmul(weights, some, out=secants[..., first:last, :])
        rows[..., 0, :] = some.sum(axis=-2)
    return secants[..., 1:, :]


@lru_cache(maxsize=16)
def _helmert_blocks(m: int) -> list[tuple[int, int, Array]]:
    """Secants first:last, and the weights of the sum of those before and of themselves in the contrasts that each adds."""
    blocks = []
    for first in range(1, m, BLOCK_ROWS):
        last = min(first + BLOCK_ROWS, m)
        t = np.arange(first, last, dtype=np.float64)[:, None]
        behind = 1.0 / np.sqrt(t * (t + 1))
        weights = np.tril(np.broadcast_to(-behind, (last - first, last - first + 1)))
        np.fill_diagonal(weights[:, 1:], t * behind)
        blocks.append((first, last, np.ascontiguousarray(weights)))
    return blocks
