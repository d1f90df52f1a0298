"""The top eigenvalue of a Gram matrix of random secants: value, upper and lower limit, and the trace.

Input everywhere: ``y`` (m, K), contrasts of 2 sqrt(p) for directions with E[v v^T] = I, so that S = y^T y / m estimates
G = 4 J_s J_s^T, whose top eigenvalue is the spectral norm of the Fisher information.

Where some directions were measured exactly (``deflation``), ``caught`` (q, K) holds C = 2 J_s U^T transposed for their
orthonormal rows U, the contrasts come from directions of their complement, and G = C^T C + E[S]. Only the second part is
sampled, so only it is corrected, and only it has quantiles.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = [
    "Limits",
    "ManyLimits",
    "block_energies",
    "block_starts",
    "corrected_top",
    "energy_quantile",
    "joint_rows",
    "joint_starts",
    "joint_top",
    "leading_directions",
    "least_norm",
    "many_spectral_limits",
    "many_trace_limits",
    "past_directions",
    "past_grams",
    "past_rows",
    "predicted_lower",
    "predicted_sum",
    "sample_spectrum",
    "seed_direction",
    "sketch_limits",
    "spectral_limits",
    "top_pair",
    "trace_limits",
    "upper_factor",
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
#: Above this many classes the predicted direction comes from power steps rather than an eigendecomposition.
DENSE_CLASSES = 24
#: Power steps for the first of these, and for each of those that start from the one before.
FIRST_STEPS, RENEWED_STEPS = 4, 2


@dataclass(frozen=True)
class Limits:
    """A value with a lower and an upper confidence limit."""

    value: float
    lower: float
    upper: float


class ManyLimits(NamedTuple):
    """The same for many inputs, (n,) each."""

    value: Array
    lower: Array
    upper: Array

    def each(self) -> list[Limits]:
        """One by one."""
        return [Limits(*of) for of in zip(self.value.tolist(), self.lower.tolist(), self.upper.tolist(), strict=True)]


@lru_cache(maxsize=4096)
def energy_quantile(probability: float, terms: int, features: int | None) -> float:
    """Quantile of sum_t (g . v_t)^2 / |g|^2 over ``terms`` directions.

    Independent directions: chi squared with ``terms`` degrees of freedom. Orthonormal directions of length sqrt(d):
    d Beta(terms / 2, (d - terms) / 2).
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
    """
    left = tail if features is not None else tail - 2.0**-terms
    return terms / energy_quantile(left, terms, features) if left > 0 else float("inf")


def sample_spectrum(y: Array, terms: int | None = None) -> Array:
    """Eigenvalues of S = y^T y / m, falling, zeros beyond min(m, K) left out.

    Args:
        y: (..., m, K) contrasts, of as many inputs as the first axes say.
        terms: stands for m where the rows are more than the terms that they are a mean of (``joint_rows``).
    """
    return np.asarray(np.maximum(np.linalg.eigvalsh(_smaller_gram(y) / (terms or y.shape[-2]))[..., ::-1], 0.0))


def top_pair(y: Array) -> tuple[Array, Array]:
    """``sample_spectrum`` of (..., m, K) contrasts, and the unit top class-space eigenvector."""
    gram = _smaller_gram(y) / y.shape[-2]
    if gram.shape[-1] > DENSE_CLASSES:
        values = np.linalg.eigvalsh(gram)
        direction = _near(gram, values[..., -1])
    else:
        values, vectors = np.linalg.eigh(gram)
        direction = vectors[..., -1]
    if y.shape[-1] > y.shape[-2]:
        direction = _unit((direction[..., None, :] @ y)[..., 0, :])
    return np.maximum(values[..., ::-1], 0.0), direction


def _near(gram: Array, value: Array) -> Array:
    """The unit eigenvector to an eigenvalue of (..., r, r), by an inverse step: after ``eigvalsh`` faster than ``eigh``."""
    apart = np.maximum(value * (1.0 + 1e-9), TINY)  # never the eigenvalue itself
    start = _unit((gram @ _anywhere(gram.shape[-1]))[..., None, :])
    found = np.linalg.solve(apart[..., None, None] * np.eye(gram.shape[-1]) - gram, np.swapaxes(start, -1, -2))
    return _unit(np.asarray(found[..., 0], dtype=np.float64))


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


def joint_rows(y: Array, caught: Array, factor: float = 1.0) -> Array:
    """Rows (q + m, K) whose Gram over m is C^T C + factor * S."""
    return np.vstack([np.sqrt(len(y)) * caught, np.sqrt(factor) * y])


def joint_top(y: Array, caught: Array, features: int | None) -> tuple[float, Array]:
    """The top eigenvalue of C^T C + S without its first-order bias, and its unit eigenvector.

    The second-order term of the eigenvalue, taken over the Wishart law of S alone (Lawley 1956):

        b = (1 / m) sum_{j>=2} (g_11 g_jj + g_1j^2) / (l_1 - l_j),   g = S in the eigenbasis of C^T C + S.

    Returned is l_1 - b / (1 + b / g_11), which never takes off more than was sampled.

    Args:
        y: (m, K) contrasts in the complement.
        caught: (q, K) exact secants.
        features: dimension of the complement for orthonormal directions in it, ``None`` for independent ones.
    """
    terms, rows = len(y), joint_rows(y, caught)
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


def predicted_energy(y: Array, known: Array | None = None) -> tuple[Array, int]:
    """sum_t (u_t . y_t)^2 with u_t found from y_1 .. y_{t-1} alone, and the number of its terms.

    Given the past each term is at most lambda times a chi squared with one degree of freedom, whatever the spectrum, so
    the sum over its quantile is a lower limit. Any direction found from the past will do; it is renewed in growing blocks.

    Args:
        y: (..., m, K) contrasts in order.
        known: (..., K) the direction where it is known beforehand (two classes); then every term counts.
    """
    m = y.shape[-2]
    if known is not None:
        return predicted_sum(known[..., None, :], y, (0,)), m
    if m <= LEARNING:
        return np.zeros(y.shape[:-2]), 0
    starts = block_starts(m)
    return predicted_sum(past_directions(y, starts), y, starts), m - LEARNING


def predicted_sum(forms: Array, y: Array, starts: Sequence[int]) -> Array:
    """sum_t (f_b . y_t)^2 over the rows from the first start on, with the form (..., blocks, K) of the block of t."""
    return np.asarray(sum(block_energies(forms, y, starts)))


def block_energies(forms: Array, y: Array, starts: Sequence[int]) -> list[Array]:
    """The same sum block by block."""
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
    """Where, among m contrasts, the predicted direction is renewed; the first is ``LEARNING``."""
    starts = [LEARNING]
    while (nxt := max(starts[-1] + 1, int(starts[-1] * GROWTH))) < m:
        starts.append(nxt)
    return tuple(starts)


@lru_cache(maxsize=256)
def joint_starts(m: int) -> tuple[int, ...]:
    """The same beside exact rows: they give the first direction, before any contrast."""
    return (0, *(start for start in block_starts(m) if start < m))


def past_rows(y: Array, start: int, caught: Array | None = None) -> Array:
    """The rows (..., t, K) before a start; of a single input also its exact rows, which count t times."""
    return y[..., :start, :] if caught is None else np.vstack([np.sqrt(max(start, 1)) * caught, y[:start]])


def past_grams(y: Array, starts: Sequence[int], caught: Array | None = None) -> Array:
    """Gram of the rows before each start, (..., blocks, K, K); of t rows and t times C^T C where there are exact ones."""
    parts = [y[..., a:b, :] for a, b in itertools.pairwise((0, *starts))]
    grams = np.cumsum(np.stack([np.swapaxes(part, -1, -2) @ part for part in parts], axis=-3), axis=-3)
    if caught is None:
        return grams
    return np.asarray(grams + np.maximum(starts, 1)[:, None, None] * (caught.T @ caught))


def leading_directions(grams: Array, seeds: Array) -> Array:
    """Unit vectors near the top eigenvectors of (..., K, K) positive matrices: the sixteenth power of each times a seed.

    A prediction need not be exact: whatever the direction, the limit holds. The seeds, (..., K), are contrasts from the
    past, so that no class basis is special.
    """
    power = grams
    for _ in range(SQUARINGS):
        power = power @ power
        power /= np.maximum(power.trace(axis1=-2, axis2=-1), TINY)[..., None, None]
    found = (power @ seeds[..., None])[..., 0]
    return np.asarray(found / np.maximum(np.sqrt((found**2).sum(axis=-1, keepdims=True)), TINY))


def seed_direction(y: Array, caught: Array | None = None) -> Array:
    """(..., K) what the search for a top direction starts from: the longest exact row, or contrast before any prediction."""
    rows = y[..., :LEARNING, :] if caught is None else caught
    longest = (rows**2).sum(axis=-1).argmax(axis=-1)
    return np.asarray(np.take_along_axis(rows, longest[..., None, None], axis=-2)[..., 0, :])


def past_directions(y: Array, starts: Sequence[int], caught: Array | None = None) -> Array:
    """Leading direction of the rows before each start, (..., blocks, K), with the exact rows of a single input, if any."""
    seed = seed_direction(y, caught)
    if y.shape[-1] <= DENSE_CLASSES:
        grams = past_grams(y, starts, caught)
        whole = np.maximum(grams[..., -1, :, :].trace(axis1=-2, axis2=-1), TINY)
        return leading_directions(grams / whole[..., None, None, None], seed[..., None, :])
    out, steps = [], FIRST_STEPS
    for start in starts:
        past = past_rows(y, start, caught)
        for _ in range(steps):
            seed = _unit(((seed[..., None, :] @ np.swapaxes(past, -1, -2)) @ past)[..., 0, :])
        seed = np.where(seed.any(axis=-1, keepdims=True), seed, _unit(past[..., -1, :]))
        out.append(seed)
        steps = RENEWED_STEPS
    return np.stack(out, axis=-2)


def _unit(vectors: Array) -> Array:
    """(..., K) divided by their lengths, zeros as they are."""
    lengths = np.sqrt((vectors * vectors).sum(axis=-1, keepdims=True))
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0))


def spectral_limits(
    y: Array,
    confidence: float,
    features: int | None = None,
    known: Array | None = None,
    caught: Array | None = None,
) -> tuple[Limits, Array]:
    """The spectral norm from contrasts: bias-corrected value, limits that hold for every spectrum, top class direction.

    upper = m l_1 / chi2_{m, alpha/2}, because u_1^T S u_1 is lambda chi2_m / m for the true top direction u_1;
    lower = predicted energy / chi2_{n, 1 - alpha/2}. With exact rows: upper = the top eigenvalue of
    C^T C + S m / chi2_{m, alpha/2}, lower = ``least_norm`` with a_t = |C u_t|^2.

    Args:
        y: (m, K) contrasts of 2 sqrt(p), m >= 1.
        confidence: of the two-sided interval, for example 0.95.
        features: d for orthonormal directions, ``None`` for independent ones; that of the complement beside exact rows.
        known: (K,) unit class direction of the top eigenvector, where it is known without data.
        caught: (q, K) exact secants of 2 sqrt(p) along orthonormal directions; ``None`` for none.

    Returns:
        the limits and the (K,) unit top eigenvector in class space.
    """
    terms, tail = len(y), (1.0 - confidence) / 2
    if caught is not None and len(caught):
        factor = upper_factor(tail, terms, features)
        value, direction = joint_top(y, caught, features)
        upper = float(sample_spectrum(joint_rows(y, caught, factor), terms)[0]) if np.isfinite(factor) else np.inf
        starts = joint_starts(terms) if known is None else (0,)
        forms = past_directions(y, starts, caught) if known is None else known[None]
        floor = float(sample_spectrum(caught, 1)[0])
        lower = predicted_lower(forms, y, starts, caught, energy_quantile(1.0 - tail, terms, features), floor)
        return Limits(max(value, lower), lower, upper), direction
    limits, directions = many_spectral_limits(y[None], confidence, features, None if known is None else known[None])
    return limits.each()[0], directions[0]


def many_spectral_limits(
    y: Array, confidence: float, features: int | None = None, known: Array | None = None
) -> tuple[ManyLimits, Array]:
    """``spectral_limits`` of (n, m, K) contrasts without exact rows, ``known`` (n, K); directions (n, K)."""
    tail = (1.0 - confidence) / 2
    values, directions = top_pair(y)
    return sketch_limits(values, predicted_energy(y, known), y.shape[-2], tail, features), directions


def sketch_limits(values: Array, predicted: tuple[Array, int], terms: int, tail: float, features: int | None) -> ManyLimits:
    """The limits from the eigenvalues (n, r) of the sample, falling, and the predicted energy with its terms."""
    energy, n = predicted
    lower = energy / energy_quantile(1.0 - tail, n, features) if n else np.zeros(len(values))
    upper = values[:, 0] * upper_factor(tail, terms, features)
    return ManyLimits(np.maximum(corrected_top(values, terms, features), lower), lower, upper)


def predicted_lower(forms: Array, y: Array, starts: Sequence[int], caught: Array, quantile: float, floor: float) -> float:
    """``least_norm`` from predicted forms (blocks, K) of the contrasts and of the exact rows; ``floor`` is certain."""
    offsets = ((forms @ caught.T) ** 2).sum(axis=1)
    return least_norm(
        [float(e) for e in block_energies(forms, y, starts)], offsets.tolist(), quantile, max(floor, float(offsets.max()))
    )


def trace_limits(y: Array, confidence: float, features: int | None = None, caught: Array | None = None) -> Limits:
    """trace(F) = |C|^2 + mean |y|^2; the limits take all of the second part as one eigenvalue, which is the widest case."""
    known = 0.0 if caught is None else float((caught**2).sum())
    value, lower, upper = (float(part[0]) for part in many_trace_limits(y[None], confidence, features))
    return Limits(known + value, known + lower, known + upper)


def many_trace_limits(y: Array, confidence: float, features: int | None = None) -> ManyLimits:
    """``trace_limits`` of (n, m, K) contrasts without exact rows."""
    terms, tail = y.shape[-2], (1.0 - confidence) / 2
    total = (y * y).sum(axis=(-2, -1))
    factor = upper_factor(tail, terms, features)
    with np.errstate(invalid="ignore"):  # few terms have no finite factor
        return ManyLimits(total / terms, total / energy_quantile(1.0 - tail, terms, features), total / terms * factor)
