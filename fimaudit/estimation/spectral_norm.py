"""The top eigenvalue of a Gram matrix of random secants: value, upper and lower limit, and the trace.

Input everywhere: ``y`` (m, K), contrasts of 2 sqrt(p) for directions with E[v v^T] = I, so that S = y^T y / m estimates
G = 4 J_s J_s^T, whose top eigenvalue is the spectral norm of the Fisher information.

Where some directions were measured exactly (``deflation``), ``exact_part`` (q, K) holds C = 2 J_s U^T transposed for their
orthonormal rows U, the contrasts come from directions of their complement, and G = C^T C + E[S]. Only the second part is
sampled, so only it is corrected, and only it has quantiles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fimaudit.estimation.grouping import chosen
from fimaudit.estimation.predictable import (
    DENSE_CLASSES,
    joint_starts,
    past_directions,
    predicted_energy,
    predicted_lower,
    unit_vectors,
)

__all__ = [
    "Limits",
    "ManyLimits",
    "corrected_top",
    "energy_quantile",
    "joint_rows",
    "joint_top",
    "sample_spectrum",
    "sketch_limits",
    "spectral_limits",
    "top_pair",
    "trace_limits",
    "upper_factor",
]

Array = NDArray[np.float64]

#: The largest eigenvalue stands apart while its correction scatters by less than this share of its own variance; stricter
#: below so many terms. tests/estimation/test_coverage.py: two equal eigenvalues, and 0.7 to 0.9 beside 1.
SEPARATED, FEW_TERMS = 0.015, 100


class Limits(NamedTuple):
    """A value with a lower and an upper confidence limit."""

    value: float
    lower: float
    upper: float

    @property
    def relative_half_width(self) -> float:
        """Half of the interval's width over its value.

        >>> Limits(2.0, 1.0, 4.0).relative_half_width
        0.75
        """
        return (self.upper - self.lower) / (2 * self.value) if self.value > 0 else float("inf")


class ManyLimits(NamedTuple):
    """The same for as many inputs as the arrays' axes say."""

    value: Array
    lower: Array
    upper: Array

    @classmethod
    def of_one(cls, limits: Limits, shape: tuple[int, ...]) -> ManyLimits:
        """Of a single input, in a shape of axes of length 1."""
        return cls(*(np.full(shape, of) for of in (limits.value, limits.lower, limits.upper)))

    def each(self) -> list[Limits]:
        """One by one, of (n,) each."""
        return [Limits(*of) for of in zip(self.value.tolist(), self.lower.tolist(), self.upper.tolist(), strict=True)]


@lru_cache(maxsize=4096)
def energy_quantile(probability: float, terms: int, features: int | None) -> float:
    """Quantile of sum_t (g . v_t)^2 / |g|^2 over ``terms`` directions.

    Independent directions: chi squared with ``terms`` degrees of freedom. Orthonormal directions of length sqrt(d):
    d Beta(terms / 2, (d - terms) / 2).

    Args:
        probability: of a smaller sum, between 0 and 1.
        terms: how many directions, at least 1.
        features: d for orthonormal directions, ``None`` for independent ones.

    >>> round(energy_quantile(0.95, 1, None), 2)  # chi squared
    3.84
    >>> energy_quantile(0.5, 10, 10)  # orthonormal directions that span everything leave nothing to chance
    10.0
    """
    if features is None:
        return float(2.0 * special.gammaincinv(terms / 2, probability))
    if terms >= features:
        return float(features)
    return float(features * special.betaincinv(terms / 2, (features - terms) / 2, probability))


def upper_factor(tail: float, terms: int, features: int | None) -> float:
    """What a mean energy is multiplied by for an upper limit that misses with probability ``tail`` at most.

    With sign vectors a gradient of one feature meets equal signs throughout, and leaves no contrast, with probability
    2^-terms; that much is taken from the tail, so five terms or fewer have no finite limit at 95 %.

    Args:
        tail: probability that the limit is exceeded.
        terms, features: as for ``energy_quantile``.

    >>> round(upper_factor(0.025, 100, None), 3), upper_factor(0.025, 5, None)
    (1.347, inf)
    """
    left = tail if features is not None else tail - 2.0**-terms
    return terms / energy_quantile(left, terms, features) if left > 0 else float("inf")


def sample_spectrum(y: Array, terms: int | None = None) -> Array:
    """Eigenvalues of S = y^T y / m, falling, zeros beyond min(m, K) left out.

    Args:
        y: (..., m, K) contrasts, of as many inputs as the first axes say.
        terms: stands for m where the rows are more than the terms that they are a mean of (``joint_rows``).

    >>> sample_spectrum(np.array([[2.0, 0.0], [0.0, 0.0]]))
    array([2., 0.])
    """
    return np.asarray(np.maximum(np.linalg.eigvalsh(_smaller_gram(y) / (terms or y.shape[-2]))[..., ::-1], 0.0))


def top_pair(y: Array) -> tuple[Array, Array]:
    """``sample_spectrum`` of (..., m, K) contrasts, and the unit top class-space eigenvector.

    >>> values, direction = top_pair(np.array([[2.0, 0.0], [0.0, 1.0]]))
    >>> values, abs(direction)
    (array([2. , 0.5]), array([1., 0.]))
    """
    gram = _smaller_gram(y) / y.shape[-2]
    if gram.shape[-1] > DENSE_CLASSES:
        values = np.linalg.eigvalsh(gram)
        direction = _near(gram, values[..., -1])
    else:
        values, vectors = np.linalg.eigh(gram)
        direction = vectors[..., -1]
    if y.shape[-1] > y.shape[-2]:
        direction = unit_vectors((direction[..., None, :] @ y)[..., 0, :])
    return np.maximum(values[..., ::-1], 0.0), direction


def _near(gram: Array, value: Array) -> Array:
    """The unit eigenvector to an eigenvalue of (..., r, r), by an inverse step: after ``eigvalsh`` faster than ``eigh``."""
    size = gram.shape[-1]
    scaled = gram / np.where(value > 0, value, 1.0)[..., None, None]
    start = unit_vectors((scaled @ _anywhere(size))[..., None, :])
    apart = (1.0 + 1e-9) * np.eye(size)  # never the eigenvalue itself
    return unit_vectors(np.asarray(np.linalg.solve(apart - scaled, np.swapaxes(start, -1, -2))[..., 0], dtype=np.float64))


@lru_cache(maxsize=64)
def _anywhere(size: int) -> Array:
    """A vector that no matrix has anything to do with, always the same."""
    return np.random.default_rng(0).standard_normal(size)


def _smaller_gram(y: Array) -> Array:
    """y^T y or y y^T, whichever has fewer entries: they have the same eigenvalues above zero."""
    turned = np.swapaxes(y, -1, -2)
    return np.asarray(turned @ y if y.shape[-1] <= y.shape[-2] else y @ turned)


def corrected_top(values: Array, terms: int, features: int | None) -> Array:
    """Remove the upward bias of the largest sample eigenvalue: (m - 1) / sum_{j>=2} 1 / (l_1 - l_j), zeros included.

    Orthonormal directions leave only the share 1 - m / d of the sampling noise, and so of the bias.

    Args:
        values: (..., r) eigenvalues, falling.
        terms: m.
        features: d for orthonormal directions, ``None`` for independent ones.

    >>> float(corrected_top(np.array([4.0, 2.0]), 2, None))
    2.0
    """
    top = values[..., 0]
    if terms < 2:
        return top
    gaps = top[..., None] - values[..., 1:terms]
    tied = (top <= 0) | (gaps.min(axis=-1, initial=np.inf) <= 1e-12 * top)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = (1.0 / gaps).sum(axis=-1) + (terms - 1 - gaps.shape[-1]) / top
        corrected = (terms - 1) / total
    if features is not None:
        corrected = top - (1.0 - terms / features) * (top - corrected)
    return np.asarray(np.where(tied, top, corrected))


def joint_rows(y: Array, exact_part: Array, factor: float = 1.0) -> Array:
    """Rows (q + m, K) whose Gram over m is C^T C + factor * S.

    >>> joint_rows(np.array([[1.0, 0.0]]), np.array([[0.0, 3.0]]))
    array([[0., 3.],
           [1., 0.]])
    """
    return np.vstack([np.sqrt(len(y)) * exact_part, np.sqrt(factor) * y])


def joint_top(y: Array, exact_part: Array, features: int | None) -> tuple[float, Array]:
    """The top eigenvalue of C^T C + S without its first-order bias, and its unit eigenvector.

    The second-order term of the eigenvalue, taken over the Wishart law of S alone (Lawley 1956):

        b = (1 / m) sum_{j>=2} (g_11 g_jj + g_1j^2) / (l_1 - l_j),   g = S in the eigenbasis of C^T C + S.

    Returned is l_1 - b / (1 + b / g_11), which never takes off more than was sampled.

    Args:
        y: (m, K) contrasts in the complement.
        exact_part: (q, K) exact secants.
        features: dimension of the complement for orthonormal directions in it, ``None`` for independent ones.

    >>> value, direction = joint_top(np.zeros((4, 2)), np.array([[3.0, 0.0]]), None)
    >>> round(value, 9), abs(direction).round(9)
    (9.0, array([1., 0.]))
    """
    terms, rows = len(y), joint_rows(y, exact_part)
    if rows.shape[1] <= len(rows):
        rising, basis = np.linalg.eigh(rows.T @ rows / terms)
        values, vectors = rising[::-1], basis[:, ::-1]
    else:
        _, singular, right = np.linalg.svd(rows, full_matrices=False)
        values, vectors = singular**2 / terms, right.T
    top, gaps = float(values[0]), values[0] - values[1:]
    along = y @ vectors
    first = along[:, 0] @ along / terms
    share = 1.0 if features is None else max(0.0, 1.0 - terms / features)
    if first[0] <= 0 or (gaps.size and float(gaps.min()) <= 1e-12 * top):
        return top, vectors[:, 0]
    each = (along[:, 1:] ** 2).sum(axis=0) / terms
    bias = share * float(((first[0] * each + first[1:] ** 2) / gaps).sum()) / terms
    return top - bias / (1.0 + bias / float(first[0])), vectors[:, 0]


def spectral_limits(
    y: Array,
    confidence: float,
    features: int | None = None,
    known: Array | None = None,
    exact_part: Array | None = None,
) -> tuple[ManyLimits, Array]:
    """The spectral norm from contrasts: bias-corrected value, limits, top class direction.

    Limits for every spectrum: upper = m l_1 / chi2_{m, alpha/2}, because u_1^T S u_1 is lambda chi2_m / m for the true top
    direction u_1; lower = predicted energy / chi2_{n, 1 - alpha/2}. Where the top eigenvalue ``stands_apart``, both are
    loose: l_1 is too large by its known bias, and the first predictions are poor. There both are taken about the corrected
    value, m value / chi2_m; that either side holds is a matter of simulation (tests/estimation/test_coverage.py), not of
    proof. With exact rows: upper = the top eigenvalue of C^T C + S m / chi2_{m, alpha/2}, lower = ``least_norm`` with
    a_t = |C u_t|^2.

    Args:
        y: (..., m, K) contrasts of 2 sqrt(p), m >= 1, of as many inputs as the first axes say.
        confidence: of the two-sided interval, for example 0.95.
        features: d for orthonormal directions, ``None`` for independent ones; that of the complement beside exact rows.
        known: (..., K) unit class direction of the top eigenvector, where it is known without data.
        exact_part: (q, K) exact secants of 2 sqrt(p) along orthonormal directions, of a single input; ``None`` for none.

    Returns:
        the limits (...) in 1 / unit of the input squared, and the (..., K) unit top eigenvectors in class space.

    >>> limits, direction = spectral_limits(np.diag([3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]), 0.95)
    >>> bool(limits.lower < limits.value < limits.upper), abs(direction).round().tolist()
    (True, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    """
    tail, (m, classes) = (1.0 - confidence) / 2, y.shape[-2:]
    if exact_part is not None and len(exact_part):
        limits, direction = _joint_limits(y.reshape(m, classes), tail, features, known, exact_part)
        return ManyLimits.of_one(limits, y.shape[:-2]), np.broadcast_to(direction, (*y.shape[:-2], classes))
    values, directions = top_pair(y)
    each = y.reshape(-1, m, classes)
    each_known = None if known is None else np.broadcast_to(known, (*y.shape[:-2], classes)).reshape(-1, classes)

    def predict(which: NDArray[np.bool_]) -> tuple[Array, int]:
        return predicted_energy(chosen(each, which), None if each_known is None else chosen(each_known, which))

    found = sketch_limits(values.reshape(len(each), -1), predict, m, tail, features)
    return ManyLimits(*(of.reshape(y.shape[:-2]) for of in found)), directions


def _joint_limits(
    y: Array, tail: float, features: int | None, known: Array | None, exact_part: Array
) -> tuple[Limits, Array]:
    """``spectral_limits`` of (m, K) contrasts beside exact rows."""
    terms, factor = len(y), upper_factor(tail, len(y), features)
    value, direction = joint_top(y, exact_part, features)
    upper = float(sample_spectrum(joint_rows(y, exact_part, factor), terms)[0]) if np.isfinite(factor) else np.inf
    starts = joint_starts(terms) if known is None else (0,)
    forms = past_directions(y, starts, exact_part) if known is None else known.reshape(1, -1)
    floor = float(sample_spectrum(exact_part, 1)[0])
    lower = predicted_lower(forms, y, starts, exact_part, energy_quantile(1.0 - tail, terms, features), floor)
    return Limits(max(value, lower), lower, max(upper, value, lower)), direction


def sketch_limits(
    values: Array,
    predict: Callable[[NDArray[np.bool_]], tuple[Array, int]],
    terms: int,
    tail: float,
    features: int | None,
) -> ManyLimits:
    """The limits (n,) from the eigenvalues of the sample, and where those say too little from predicted energies.

    Args:
        values: (n, r) eigenvalues, falling.
        predict: of which inputs (n,) to their predicted energies, one each, and the number of their terms.
        terms: m.
        tail: probability that one limit misses.
        features: d for orthonormal directions, ``None`` for independent ones.

    >>> values, predicted = np.array([[2.0, 1.9]]), (np.array([20.0]), 20)
    >>> found = sketch_limits(values, lambda which: predicted, 20, 0.025, None)
    >>> bool(found.lower[0] < found.value[0] < found.upper[0])
    True
    """
    top, corrected = values[:, 0], corrected_top(values, terms, features)
    apart = stands_apart(values, terms)
    lower = np.where(apart, corrected * (terms / energy_quantile(1.0 - tail, terms, features)), 0.0)
    if not apart.all():
        energy, n = predict(~apart)
        lower[~apart] = energy / energy_quantile(1.0 - tail, n, features) if n else 0.0
    value = np.maximum(corrected, lower)
    upper = _times(np.where(apart, corrected, top), upper_factor(tail, terms, features))
    return ManyLimits(value, lower, np.maximum(upper, value))


def stands_apart(values: Array, terms: int) -> NDArray[np.bool_]:
    """Whether the largest eigenvalue (n,) is so far from all others that its correction is as good as known.

    sum_{j>=2} (l_j / (l_1 - l_j))^2 <= ``SEPARATED`` m min(1, m / ``FEW_TERMS``): the scatter of the correction, relative to
    that of l_1. It is then an eigenvalue that scatters as an energy along a known direction does. Two that are equal look
    like that once in several thousand samples.

    Args:
        values: (n, r) eigenvalues, falling.
        terms: m.

    >>> stands_apart(np.array([[1.0, 0.5], [1.0, 0.8]]), 200)
    array([ True, False])
    """
    top = values[:, :1]
    gaps = np.maximum(top - values[:, 1:], 1e-12 * top)
    ratios = np.divide(values[:, 1:], gaps, out=np.zeros_like(gaps), where=gaps > 0)
    near = np.vecdot(ratios, ratios)
    return np.asarray((values[:, 0] > 0) & (near <= SEPARATED * terms * min(1.0, terms / FEW_TERMS)))


def trace_limits(y: Array, confidence: float, features: int | None = None, exact_part: Array | None = None) -> ManyLimits:
    """trace(F) = |C|^2 + mean |y|^2; the limits take all of the second part as one eigenvalue, which is the widest case.

    Args:
        y, confidence, features, exact_part: as for ``spectral_limits``.

    >>> float(trace_limits(np.eye(8, 3), 0.95).value)
    0.375
    """
    terms, tail = y.shape[-2], (1.0 - confidence) / 2
    known = 0.0 if exact_part is None else float((exact_part**2).sum())
    total = np.vecdot(y, y).sum(axis=-1)
    lower = total / energy_quantile(1.0 - tail, terms, features)
    upper = _times(total / terms, upper_factor(tail, terms, features))
    return ManyLimits(known + total / terms, known + lower, known + upper)


def _times(values: Array, factor: float) -> Array:
    """Upper limits; few terms have no finite factor, whatever was measured."""
    return values * factor if np.isfinite(factor) else np.full(np.shape(values), np.inf)
