"""What random directions leave open: limits stated at another level, and the spread of a measured value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fimaudit.estimation.predictable import LEARNING
from fimaudit.estimation.spectral_norm import energy_quantile, upper_factor
from fimaudit.results import Sensitivity

__all__ = ["contrast_counts", "contrast_sign", "rescaled_limits", "signal_share", "spread_of_logs"]

Array = NDArray[np.float64]


def contrast_counts(inputs: Sequence[Sensitivity]) -> NDArray[np.int64]:
    """Contrasts of each input measured with random directions, 0 for others; negative for orthonormal directions.

    ``contrast_sign`` times max(queries - 2, 0): one row is the input itself, and the mean over directions takes one more.

    Returns:
        (n,) one for each input.

    >>> contrast_counts([Sensitivity(index=0, status="ok", method="orthonormal", queries=200)]).tolist()
    [-198]
    """
    signs = [contrast_sign(s.method) for s in inputs]
    asked = np.array([s.queries for s in inputs], dtype=np.int64)
    return np.array(signs, dtype=np.int64) * np.maximum(asked - 2, 0)


def contrast_sign(method: str) -> int:
    """1 for independent random directions, -1 for orthonormal ones, 0 where none were drawn.

    Args:
        method: as in ``Sensitivity``.

    >>> [contrast_sign(method) for method in ("rademacher", "levels", "orthonormal", "basis-central")]
    [1, 1, -1, 0]
    """
    return 1 if method.startswith(("rademacher", "levels")) else -int(method.startswith("orthonormal"))


def rescaled_limits(counts: NDArray[np.int64], tail: float, level: float, *, norm: bool, above: bool) -> Array:
    """Factors that turn limits which miss with ``tail`` into limits which miss with ``level``.

    With Q_k the quantile function of chi squared with k degrees of freedom and m contrasts, a norm's limit from above goes
    by Q_m(tail - 2^-m) / Q_m(level - 2^-m), from below by Q_k(1 - tail) / Q_k(1 - level), where k is m - ``LEARNING`` for a
    stricter ``level`` and m for a looser one. A radius goes with 1 / sqrt(norm): its limit from below has the first, from
    above the second, to the power -1/2. Where the exact law is not known (orthonormal directions, numbers of terms) the
    factor is on the safe side; limits that are not of random directions stay.

    Args:
        counts: (n,) from ``contrast_counts``.
        tail, level: probabilities.
        norm: of a norm, else of a radius.
        above: of upper limits.

    Returns:
        (n,) above 1 where an upper limit rises or a lower one does.

    >>> rescaled_limits(np.array([98, 0]), 0.025, 0.005, norm=True, above=True).round(3).tolist()
    [1.104, 1.0]
    """
    out = np.ones(len(counts))
    if level == tail:
        return out
    for count in np.unique(counts[counts != 0]):
        terms, stricter = abs(int(count)), level < tail
        if count < 0 and not stricter:  # their interval is narrower than chi squared's, and loosens by less
            continue
        if norm == above:
            if not np.isfinite(upper_factor(tail, terms, None)):
                continue
            factor = upper_factor(level, terms, None) / upper_factor(tail, terms, None)
            factor = factor if norm else 1 / np.sqrt(factor)
        else:
            predicted = terms - LEARNING if stricter else terms
            if predicted <= 0:
                continue
            factor = energy_quantile(1 - tail, predicted, None) / energy_quantile(1 - level, predicted, None)
            factor = factor if norm else 1 / np.sqrt(factor)
        out[counts == count] = factor
    return out


def spread_of_logs(lower: Array, upper: Array, counts: NDArray[np.int64], tail: float, *, norm: bool) -> Array:
    """(n,) standard deviation of the measured logs: that of log(chi2_m / m), or of the interval where it is narrower.

    min(sqrt(psi'(m / 2)), log(upper / lower) / (2 z)), psi' the trigamma function, z the normal quantile of 1 - ``tail``;
    the first is halved for a radius. An interval is narrower for orthonormal directions and whole Jacobians, and wider than
    the noise for flat spectra.

    Args:
        lower, upper: (n,) limits above 0, finite.
        counts: (n,) from ``contrast_counts``; 0 leaves the interval alone.
        tail: probability that one limit misses.
        norm: of a norm, else of a radius, which goes with its root.

    >>> spread_of_logs(np.full(2, 0.8), np.full(2, 1.25), np.array([0, 198]), 0.025, norm=True).round(3).tolist()
    [0.114, 0.101]
    """
    width = np.log(upper / lower) / (-2 * special.ndtri(tail))
    terms = np.maximum(np.abs(counts), 1)
    sampled = np.where(counts != 0, np.sqrt(special.polygamma(1, terms / 2)) * (1.0 if norm else 0.5), np.inf)
    return np.asarray(np.minimum(width, sampled))


def signal_share(logs: Array, noise: Array) -> float:
    """The share of the variance of measured logs that is not their noise, 1 - mean(noise^2) / var(logs), 0 at least.

    Args:
        logs: (n,) two or more; all equal, they have no variance to share, and the share is 0.
        noise: (n,) standard deviation of each.

    >>> signal_share(np.array([0.0, 2.0]), np.ones(2))
    0.5
    """
    total = float(logs.var(ddof=1))
    return max(0.0, 1.0 - float((noise**2).mean()) / total) if total > 0 else 0.0
