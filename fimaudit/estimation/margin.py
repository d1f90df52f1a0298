"""The first-order l2 distance to a changed decision, from the secants of the log-odds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.predictable import LEARNING, block_starts, least_norm
from fimaudit.estimation.spectral_norm import Limits, ManyLimits, energy_quantile, upper_factor

__all__ = [
    "STEEPER",
    "Margin",
    "first_order_radii",
    "margin_limits",
    "peak_with_gaps",
    "peak_with_hidden",
    "radius_with_gap",
]

Array = NDArray[np.float64]

#: The peak of two classes in units of 1 / radius^2.
TWO_CLASS_PEAK = 0.4392
#: A gap of up to this share of what it may be is none: the peak, which goes with 1 / gap^2, would be known to a factor of
#: 16 at best (test_margin.test_beside_a_rival_that_may_be_far_away_the_peak_has_no_value).
TIED = 0.25
#: A hidden class is taken to be at most this much steeper than the steepest visible one.
STEEPER = 1.25
#: Far more than what sums in another order differ by.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Margin:
    """The margin radius with its limits (units of the input), and the class on its other side.

    Attributes:
        radius: with limits.
        rival: the class beyond it.
        steepest: the largest gradient norm of a visible class's log-odds.
    """

    radius: Limits
    rival: int
    steepest: float = 0.0

    def beaten_by(self, gap: float) -> bool:
        """Whether a hidden class, at least ``gap`` below the predicted one in log p, may be nearer than the visible rival.

        It would need a steeper gradient than any visible class has, by more than the factor ``STEEPER``.
        """
        return gap < STEEPER * self.steepest * self.radius.value


def first_order_radii(gaps: Array, norms: Array) -> Array:
    """The l2 distance at which a linear function changes its decision: gap / |gradient|, infinite for a gradient of 0.

    Args:
        gaps: log(p_c / p_k) >= 0, c the predicted class; a gap below 0, which only noise makes, counts as 0.
        norms: |grad log(p_c / p_k)|, of a shape that goes with that of ``gaps``, in 1 / unit of the input.

    Returns:
        radii in units of the input.

    >>> first_order_radii(np.array([2.0, 1.0, 3.0]), np.array([4.0, 0.5, 0.0]))
    array([0.5, 2. , inf])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(norms > 0, np.maximum(gaps, 0.0) / norms, np.inf)


def margin_limits(
    logs: Array,
    log_p: Array,
    top: NDArray[np.int64],
    confidence: float,
    features: int | None = None,
    noise: Array | None = None,
    exact_part: Array | None = None,
    exact_noise: float = 0.0,
    gap_limits: Sequence[tuple[Array, Array] | None] | None = None,
) -> list[Margin | None]:
    """min over k != c of log(p_c / p_k) / |grad log(p_c / p_k)|, an estimate of the distance, not a bound on it.

    The squared norm of each gradient is the mean square of its secants. Lower limit: the smallest over k of the gap over the
    norm's upper limit; the true nearest class is among them, so no correction for many classes is due. Upper limit: with
    the class k_t chosen from earlier contrasts, (l_t / gap)^2 is at most chi2_1 / radius^2 given the past, so
    radius <= sqrt(chi2_{n, 1-alpha/2} / sum_t (l_t / gap)^2). What exact rows measured is added to each squared norm without
    any limits; the upper limit then follows from ``least_norm`` for 1 / radius^2.

    Args:
        logs: (n, m, K) contrasts of log p over the visible classes, of n inputs.
        log_p: (n, K) log probabilities at the input.
        top: (n,) the predicted class, a position among the K.
        confidence: of the two-sided interval.
        features: d for orthonormal directions, ``None`` for independent ones.
        noise: (n, K) variance that noise of the answers adds to a contrast; taken off the value and the upper limit.
        exact_part: (n, q, K) exact secants of log p along orthonormal directions; ``None`` for none.
        exact_noise: noise that they add to each squared norm, in multiples of ``noise``.
        gap_limits: of each input, what the gaps (K,) are at least and at most, where rounding or noise leaves them open.

    Returns:
        (n,) each in units of the input; ``None`` where no class's log-odds moved at all.

    >>> rows = np.random.default_rng(0).standard_normal((1, 50, 3))
    >>> (margin,) = margin_limits(rows, np.log([[0.7, 0.2, 0.1]]), np.array([0]), 0.95)
    >>> margin.rival, margin.radius.lower < margin.radius.value < margin.radius.upper
    (1, True)
    """
    if exact_part is not None and not exact_part.shape[1]:
        exact_part = None
    n, terms, tail = len(logs), logs.shape[-2], (1.0 - confidence) / 2
    i = np.arange(n)
    other = np.arange(logs.shape[-1]) != top[:, None]
    gaps = np.where(other, np.maximum(log_p[i, top][:, None] - log_p, 0.0), np.inf)
    odds = np.take_along_axis(logs, top[:, None, None], axis=2) - logs
    sums = _sums(odds)
    energy = sums[:, -1]
    least, most = gaps, gaps
    if gap_limits is not None:
        open_ones = [(g, g) if limits is None else limits for g, limits in zip(gaps, gap_limits, strict=True)]
        least, most = (np.where(other, np.stack([one[side] for one in open_ones]), np.inf) for side in (0, 1))
    exact = (
        None
        if exact_part is None
        else ((np.take_along_axis(exact_part, top[:, None, None], axis=2) - exact_part) ** 2).sum(axis=1)
    )
    moved = other & (energy > 0 if exact is None else energy + exact > 0)
    added = np.zeros_like(energy) if noise is None else noise + noise[i, top][:, None]
    norms2 = np.where(other, np.maximum(energy / terms - added, 0.0), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):  # few terms have no finite factor; a class may not move at all
        upper2 = energy / terms * upper_factor(tail, terms, features)
        if exact is not None:
            upper2 = upper2 + exact
            exact = np.maximum(exact - exact_noise * added, 0.0)
            norms2 = norms2 + exact
    radii = first_order_radii(gaps, np.sqrt(norms2))
    lowers = first_order_radii(least, np.sqrt(np.where(moved, upper2, 0.0))).min(axis=1)
    uppers = np.maximum(_upper(odds, sums, most, tail, features, added, exact), lowers)
    nearest, steepest = radii.argmin(axis=1), np.sqrt(norms2.max(axis=1))
    limits = ManyLimits(radii[i, nearest], lowers, uppers).each()
    return [
        Margin(one, int(rival), float(steep)) if np.isfinite(one.value) else None
        for one, rival, steep in zip(limits, nearest, steepest, strict=True)
    ]


def peak_with_gaps(peak: Limits, gaps: Array, least: Array, most: Array) -> Limits:
    """The peak over temperatures where the gaps to the rivals are known to lie between limits only.

    Of two classes the peak is 0.4392 |grad log(p_c / p_k)|^2 / gap^2, so its limits go with 1 / gap^2, of the rival
    whose gap is known least. Beside a class that is tied as far as the answers show there is no value, and no upper limit.

    >>> peak_with_gaps(Limits(4.0, 3.0, 5.0), np.array([0.2, 3.0]), np.array([0.1, 2.9]), np.array([0.4, 3.1]))
    Limits(value=4.0, lower=0.75, upper=20.0)
    """
    if (gaps <= TIED * most).any():
        return Limits(np.nan, 0.0, np.inf)
    upper = peak.upper * float(((gaps / least) ** 2).max()) if (least > 0).all() else np.inf
    return Limits(peak.value, peak.lower * float(((gaps / most) ** 2).min()), upper)


def peak_with_hidden(peak: Limits, margin: Margin, count: int, gap: float) -> Limits:
    """The peak beside classes that the answers hide: its upper limit allows for each as for a pair with the predicted class.

    Args:
        peak: of the visible classes.
        margin: theirs; a hidden class is taken to be at most ``STEEPER`` times as steep as the steepest of them.
        count: of hidden classes.
        gap: by how much log p of each is below the predicted one at least; infinite where none has any probability.

    The variance of n classes is at most twice that of their pairs, 0.4392 g^2 / gap^2 each.

    >>> peak_with_hidden(Limits(4.0, 3.0, 5.0), Margin(Limits(1.0, 1.0, 1.0), 1, steepest=2.0), 3, 10.0).upper
    5.1647
    """
    if not count:
        return peak
    pairs = 2 * count * TWO_CLASS_PEAK * (STEEPER * margin.steepest / gap) ** 2 if gap > 0 else np.inf
    return Limits(peak.value, peak.lower, peak.upper + pairs)


def radius_with_gap(radius: Limits, gap: float, least: float, most: float) -> Limits:
    """The radius, gap / |gradient|, where the gap to the nearest rival is known to lie between two limits only.

    >>> radius_with_gap(Limits(1.0, 0.5, 1.5), 0.25, 0.125, 0.5)
    Limits(value=1.0, lower=0.25, upper=3.0)
    """
    if gap <= 0:
        return Limits(radius.value, 0.0, np.inf)
    return Limits(radius.value, radius.lower * least / gap, radius.upper * most / gap)


def _sums(odds: Array) -> Array:
    """Sums of squares of (n, m, K) rows up to the end of each of a few growing blocks, (n, blocks, K).

    The first block holds ``LEARNING`` rows.
    """
    n, m, classes = odds.shape
    ends = (*(start for start in block_starts(m) if start < m), m)
    sums = np.empty((n, len(ends), classes))
    for block, (first, last) in enumerate(itertools.pairwise((0, *ends))):
        rows = odds[:, first:last]
        np.einsum("nmk,nmk->nk", rows, rows, out=sums[:, block])
    return np.cumsum(sums, axis=1, out=sums)


def _upper(
    odds: Array, sums: Array, gaps: Array, tail: float, features: int | None, added: Array, exact: Array | None
) -> Array:
    """The upper limits (n,); a tie is a changed decision at distance 0."""
    learning = LEARNING if exact is None else 0
    n = odds.shape[1] - learning
    tied = (gaps == 0).any(axis=1)
    if n <= 0:
        return np.where(tied, 0.0, np.inf)
    weights = np.where(tied[:, None], 0.0, 1.0 / np.where(gaps > 0, gaps, 1.0) ** 2)
    columns = (
        _candidates(sums * weights[:, None]) if exact is None else np.broadcast_to(np.arange(gaps.shape[1]), gaps.shape)
    )
    scaled = np.stack([one[:, places] for one, places in zip(odds, columns, strict=True)])
    scaled *= scaled
    scaled *= np.take_along_axis(weights, columns, axis=1)[:, None]
    past = np.cumsum(scaled, axis=1)[:, learning - 1 : -1] if exact is None else _past(scaled, exact * weights)
    place = past.argmax(axis=2)
    terms = np.take_along_axis(scaled[:, learning:], place[:, :, None], axis=2)[:, :, 0]
    chosen = np.take_along_axis(columns, place, axis=1)
    noise = np.take_along_axis(added * weights, chosen, axis=1).sum(axis=1)
    total = terms.sum(axis=1) - noise
    quantile = energy_quantile(1.0 - tail, n, features)
    if exact is None:
        inverse2 = total / quantile
    else:
        known = exact * weights
        share = np.maximum(total, 0.0) / np.where(total + noise > 0, total + noise, np.inf)  # of the sum that is no noise
        inverse2 = np.array(
            [
                least_norm((np.bincount(c, t, len(k)) * s).tolist(), k.tolist(), quantile, float(k.max()))
                for c, t, s, k in zip(chosen, terms, share, known, strict=True)
            ]
        )
    found = 1.0 / np.sqrt(np.where(inverse2 > 0, inverse2, 1.0))
    return np.where(tied, 0.0, np.where(inverse2 > 0, found, np.inf))


def _candidates(sums: Array) -> NDArray[np.intp]:
    """The classes (n, c) with the largest of all sums at any place, in order, from ``_sums``, and some others beside them.

    Sums only grow, so that a class that is largest within a block is, at its end, above every one at its beginning.
    """
    least = (1.0 - ROUNDING) * sums[:, :-1].max(axis=2)
    possible = (sums[:, 1:] >= least[:, :, None]).any(axis=1)
    return np.argsort(~possible, axis=1, kind="stable")[:, : int(possible.sum(axis=1).max())]


def _past(scaled: Array, known: Array) -> Array:
    """The score of each class before each term: the exact part, and the mean of the terms so far."""
    before = np.concatenate([np.zeros_like(known)[:, None], np.cumsum(scaled, axis=1)[:, :-1]], axis=1)
    return np.asarray(known[:, None] + before / np.maximum(np.arange(scaled.shape[1]), 1)[:, None])
