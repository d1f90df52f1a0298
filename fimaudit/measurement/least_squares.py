"""Few features and noisy answers: the whole Jacobian by least squares, from antipodal pairs of random directions.

One feature at a time moves the answers sqrt(d) times less than all of them do, which rounding and noise drown. With at least
as many pairs as features, f(x + v) - f(x - v) = 2 J v over random v has the Jacobian as its least-squares solution; each
pair's second-order term cancels, and the residuals tell the noise, whose mean is taken off and whose spread makes the
interval:

    g = |J u|^2 - s tr(M),   sd(g)^2 = 4 s (J u)^T M (J u) + 2 s^2 tr(M^2),   M = (V^T V)^-1,  s = u^T C u,

with u a direction in class space and C the residuals' covariance (P pairs, P - d degrees of freedom).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fimaudit.estimation.estimate import Estimate, named_contrast
from fimaudit.estimation.margin import Margin, first_order_radii, peak_with_gaps, peak_with_hidden, radius_with_gap
from fimaudit.estimation.noise import VisibleClasses
from fimaudit.estimation.secants import log_probabilities, visible_classes
from fimaudit.estimation.spectral_norm import Limits
from fimaudit.estimation.temperature_search import peak_temperature
from fimaudit.estimation.tempering import temper
from fimaudit.measurement.energy import MAIN, Signs, displaced
from fimaudit.perturbations.random_signs import generator, packed_signs
from fimaudit.perturbations.rows import PlainRows, Rows
from fimaudit.perturbations.sign_rows import displaced_bounds
from fimaudit.space import Space

__all__ = ["Pairs", "antipodal_pairs", "estimate_pairs"]

Array = NDArray[np.float64]

#: Pairs beyond the number of features, from which the noise is known, at least and as a share of the features.
SPARE, SPARE_SHARE = 12, 0.25
#: Where pairs outnumber the signs that there are, each has a length of its own, from this share of the displacement on:
#: rounding is off by the same for rows that are the same, which no residual shows and no number of rows averages out.
SHORTEST = 0.5
#: Directions that move some feature this much less than others in the root mean square do not determine it.
DETERMINED = 0.1
#: Relative half-width that is added for what is not noise, as for one feature at a time.
FLOOR = 1e-3


@dataclass(frozen=True)
class Pairs:
    """Rows x + v_t, then x - v_t.

    Attributes:
        rows: 2 P rows.
        moved: (P, d) half of each pair's difference over the free features, in units of the scale.
        inverse: (d, d) inverse of moved^T moved.
        length: root mean square step of one feature as it was really sent.
    """

    rows: Rows
    length: float
    moved: Array
    inverse: Array


def antipodal_pairs(x: NDArray[np.floating], index: int, space: Space, rho: float, rows: int, seed: int) -> Pairs | None:
    """As many pairs as ``rows`` allow; ``None`` where too few of them differ, or they do not determine every feature.

    Args:
        x, index, space, seed: as for ``InputContext``.
        rho: l2 length of a displacement.
        rows: displaced rows allowed.
    """
    d, count = space.features, rows // 2
    least = d + max(SPARE, int(SPARE_SHARE * d))
    if count < least:
        return None
    rng = generator(seed, index, MAIN)
    half, phase = packed_signs(rng, count, x.size), np.arange(count)
    repeating = 2.0 ** (d - 1) < count
    asked: Rows
    length: float | None = None
    if repeating and not space.quantised:
        step = np.multiply.outer(rng.uniform(SHORTEST, 1.0, count), space.step(rho))
        low, high = displaced_bounds(x, step, space.box, space.dtype)
        up = np.unpackbits(half, axis=1, count=x.size).reshape(high.shape).astype(np.bool_)
        asked = PlainRows(np.concatenate([np.where(up, high, low), np.where(up, low, high)]))
    else:
        signs = Signs(np.concatenate([half, ~half]), np.tile(phase, 2), (seed, index))
        asked = drawn = displaced(x, space, signs, rho)
        length = space.length(drawn.sent())
    free = ~space.frozen.ravel()
    built = asked.build(0, 2 * count).reshape(2 * count, -1)[:, free].astype(np.float64) / space.scale.ravel()[free]
    moved = (built[:count] - built[count:]) / 2
    if repeating and len(np.unique(moved * np.sign(moved[:, :1]), axis=0)) < least:
        return None
    values, vectors = np.linalg.eigh(moved.T @ moved)
    if values[0] <= DETERMINED**2 * float(values.mean()):
        return None
    return Pairs(
        asked, float(np.sqrt((moved**2).mean())) if length is None else length, moved, (vectors / values) @ vectors.T
    )


def estimate_pairs(
    view: VisibleClasses, pairs: Pairs, answers: Array, confidence: float
) -> tuple[Estimate | None, Array | None]:
    """The numbers, and the (d,) gradient of log(p_rival / p_predicted).

    Args:
        view: the measurable classes at the input.
        pairs: what was asked.
        answers: (2 P, K).
        confidence: of each two-sided interval.
    """
    count = len(pairs.moved)
    z = float(special.stdtrit(count - pairs.moved.shape[1], 0.5 + confidence / 2))
    table = view.table(answers)
    base = view.columns
    roots = _fit(pairs, np.sqrt(table[:count]) - np.sqrt(table[count:]))
    if not roots.jacobian.any():
        return None, None
    spectral, direction = _top(roots, pairs.inverse, z)
    everything = _trace(roots, pairs.inverse, z)
    keep = visible_classes(np.vstack([base[None], table]))
    if view.rest:
        keep[-1] = False
    contrast, hidden = named_contrast(view, direction, base), not view.whole or not keep.all()
    top = int(view.place[0])
    if not keep[top] or keep.sum() < 2:
        return Estimate(spectral, everything, None, None, contrast, hidden), None
    columns = np.flatnonzero(keep)
    place = int(np.searchsorted(columns, top))
    logs, base_logs = log_probabilities(table[:, columns], place), log_probabilities(base[None, columns], place)[0]
    slopes = _fit(pairs, (logs[:count] - logs[count:]) / 2)
    temperature = peak_temperature(slopes.jacobian, base_logs)
    jacobian, residuals = (temper(part, base_logs, temperature) for part in (slopes.jacobian, slopes.residuals))
    peak, _ = _top(_Fit(jacobian, residuals, slopes.freedom), pairs.inverse, z)
    margin, descent = _margin(slopes, pairs.inverse, base_logs, place, z)
    if margin is None:
        return Estimate(spectral, everything, peak, None, contrast, hidden), None
    hidden_p = base[: len(view.classes)][~keep[: len(view.classes)]]
    ceiling = max(view.ceiling, float(hidden_p.max(initial=0.0)))
    ahead = float(base_logs[place] - np.log(ceiling)) if ceiling > 0 else np.inf
    hidden, peak = margin.beaten_by(ahead), peak_with_hidden(peak, margin, len(view.base) - len(columns), ahead)
    labelled = Margin(margin.radius, int(view.classes[columns[margin.rival]]), margin.steepest)
    open_gaps = view.gaps(view.classes[columns])
    if open_gaps is not None:
        gaps, other = np.maximum(base_logs[place] - base_logs, 0.0), np.arange(len(columns)) != place
        of_rival = (float(side[margin.rival]) for side in (gaps, *open_gaps))
        labelled = replace(labelled, radius=radius_with_gap(margin.radius, *of_rival))
        peak = peak_with_gaps(peak, *(side[other] for side in (gaps, *open_gaps)))
    found = Estimate(spectral, everything, peak, labelled, contrast, hidden)
    return found.allowing_for_hidden(view), descent


@dataclass(frozen=True)
class _Fit:
    """A least-squares Jacobian (d, C), the residuals (P, C) that it leaves, and their degrees of freedom."""

    jacobian: Array
    residuals: Array
    freedom: int

    def variance(self, direction: Array) -> float:
        """s = u^T C u."""
        return float(((self.residuals @ direction) ** 2).sum()) / self.freedom


def _fit(pairs: Pairs, halves: Array) -> _Fit:
    jacobian = pairs.inverse @ (pairs.moved.T @ halves)
    return _Fit(jacobian, halves - pairs.moved @ jacobian, len(halves) - len(jacobian))


def _square(gradient: Array, s: float, inverse: Array, z: float) -> Limits:
    """|g|^2 without the noise in it."""
    noise = s * float(np.trace(inverse))
    spread = np.sqrt(4 * s * float(gradient @ inverse @ gradient) + 2 * s**2 * float((inverse**2).sum()))
    value = float(gradient @ gradient) - noise
    half = z * float(spread) + FLOOR * max(value, 0.0)
    return Limits(max(value, 0.0), max(value - half, 0.0), max(value, 0.0) + half)


def _top(fit: _Fit, inverse: Array, z: float) -> tuple[Limits, Array]:
    """Top eigenvalue of J^T J - tr(M) C with its limits, and the class direction."""
    gram = fit.jacobian.T @ fit.jacobian
    noise = float(np.trace(inverse)) / fit.freedom * (fit.residuals.T @ fit.residuals)
    direction = np.linalg.eigh(gram - noise)[1][:, -1]
    return _square(fit.jacobian @ direction, fit.variance(direction), inverse, z), direction


def _trace(fit: _Fit, inverse: Array, z: float) -> Limits:
    """The same for the sum over all classes."""
    covariance = fit.residuals.T @ fit.residuals / fit.freedom
    value = float((fit.jacobian**2).sum() - np.trace(inverse) * np.trace(covariance))
    carried = float(np.einsum("ik,ij,jl,kl->", fit.jacobian, inverse, fit.jacobian, covariance, optimize=True))
    half = z * float(np.sqrt(4 * carried + 2 * float((inverse**2).sum()) * float((covariance**2).sum())))
    half += FLOOR * max(value, 0.0)
    return Limits(max(value, 0.0), max(value - half, 0.0), max(value, 0.0) + half)


def _margin(fit: _Fit, inverse: Array, log_p: Array, place: int, z: float) -> tuple[Margin | None, Array | None]:
    """The nearest rival's first-order distance; the smallest lower limit over all rivals."""
    squares, rivals = [], [k for k in range(len(log_p)) if k != place]
    for k in rivals:
        odds = np.zeros(len(log_p))
        odds[place], odds[k] = 1.0, -1.0
        squares.append(_square(fit.jacobian @ odds, fit.variance(odds), inverse, z))
    norms = np.sqrt([(square.value, square.upper, square.lower) for square in squares]).T
    radii, lowers, uppers = first_order_radii(log_p[place] - log_p[rivals], norms)
    nearest = int(radii.argmin())
    if not np.isfinite(radii[nearest]):
        return None, None
    radius = Limits(float(radii[nearest]), float(lowers.min()), float(uppers[nearest]))
    rival = rivals[nearest]
    return Margin(radius, rival, float(norms[0].max())), fit.jacobian[:, rival] - fit.jacobian[:, place]
