"""From one input's answers to its numbers: secants to spectral norm, peak, trace, contrast and margin radius."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.grouping import few_at_a_time, positions_by_kind, stacked
from fimaudit.estimation.margin import STEEPER, Margin, first_order_radii, peak_with_gaps, peak_with_hidden, radius_with_gap
from fimaudit.estimation.noise import VisibleClasses
from fimaudit.estimation.predictable import unit_vectors
from fimaudit.estimation.secants import contrasts, least_visible, log_probabilities
from fimaudit.estimation.spectral_norm import Limits, sample_spectrum, upper_factor
from fimaudit.estimation.temperature_search import peak_temperature
from fimaudit.estimation.tempering import temper
from fimaudit.results import Contrast

__all__ = [
    "Estimate",
    "MeasuredJacobian",
    "class_contrast",
    "estimate_jacobians",
    "named_contrast",
    "undetected",
]

Array = NDArray[np.float64]

#: Times that the disagreement of two step sizes counts; where the answers to either moved by a normal number of its own, s
#: and t, the first one's error over the disagreement is s / (s - t), which lies within 3 in 89 %. Models whose calls move so
#: are asked row by row.
DISAGREEMENT = 3.0


@dataclass(frozen=True)
class Estimate:
    """The numbers of one input; ``peak`` and ``margin`` are ``None`` where fewer than two classes are visible.

    Attributes:
        spectral, trace, peak, margin: with limits.
        contrast: which classes trade probability.
        rival_hidden: a class that the answers hide may be nearer than every visible one, so ``margin`` and ``peak`` say
            nothing but the margin's upper limit.
        heaviness: by how much log intervals widen on each side if the secants scatter as they do here rather than as
            those of a linear function would.
    """

    spectral: Limits
    trace: Limits
    peak: Limits | None
    margin: Margin | None
    contrast: Contrast | None
    rival_hidden: bool = False
    heaviness: float = 0.0

    def widened(self, change: float, of_logs: float | None = None) -> Estimate:
        """The same values with limits that also allow for a relative error from the step.

        Args:
            change: of the norms.
            of_logs: of what comes from log p, the peak and the squared radius; the same where it is left out.
        """
        if change == 0 and not of_logs:
            return self
        up = math.exp(min(change, 1.0))
        of_odds = up if of_logs is None else math.exp(min(of_logs, 1.0))

        def wide(limits: Limits, by: float) -> Limits:
            return Limits(limits.value, limits.lower / by, limits.upper * by)

        margin, peak = self.margin, self.peak and wide(self.peak, of_odds)
        if margin is not None:
            margin = Margin(wide(margin.radius, of_odds**0.5), margin.rival, margin.steepest)
        norms = wide(self.spectral, up), wide(self.trace, up)
        return Estimate(*norms, peak, margin, self.contrast, self.rival_hidden, self.heaviness)

    def allowing_for_hidden(self, view: VisibleClasses) -> Estimate:
        """Upper limits of norm and trace that hold if no class that is seen with others only is steeper than ``STEEPER``.

        With h the probability of such classes and g the steepest gradient that they may have, their part is at most h g^2.
        """
        if view.whole or self.margin is None:
            return self
        hidden = max(0.0, 1.0 - float(view.base[view.classes].sum())) * (STEEPER * self.margin.steepest) ** 2

        def above(limits: Limits) -> Limits:
            return Limits(limits.value, limits.lower, limits.upper + hidden)

        return replace(self, spectral=above(self.spectral), trace=above(self.trace))


def named_contrast(view: VisibleClasses, direction: Array, p: Array) -> Contrast | None:
    """The contrast in the model's own classes; ``None`` where one of the two is the pooled rest.

    >>> view = VisibleClasses(np.array([0.6, 0.1, 0.3]), 0, np.array([0, 2]))
    >>> named_contrast(view, np.array([0.6, -0.8]), np.array([0.6, 0.3])).model_dump()
    {'from_': 0, 'to': 2}
    """
    columns = class_contrast(direction, p)
    if max(columns.from_, columns.to) >= len(view.classes):
        return None
    return Contrast(from_=int(view.classes[columns.from_]), to=int(view.classes[columns.to]))


def class_contrast(direction: Array, p: Array) -> Contrast:
    """Which two classes trade the most probability along the top eigenvector u of G: dp_k is proportional to sqrt(p_k) u_k.

    They are the classes of the largest and of the smallest dp_k. An eigenvector has no sign, so the more probable of the two
    is named first, as the one that loses: an order that no noise in u can turn, and that names the predicted class first
    wherever it takes part.

    Args:
        direction: (K,) unit top eigenvector u in class space, of either sign.
        p: (K,) probabilities at the input.

    >>> class_contrast(np.array([0.8, -0.6, 0.0]), np.array([0.36, 0.48, 0.16])).model_dump()
    {'from_': 1, 'to': 0}
    """
    flow = np.sqrt(p) * direction
    first, second = sorted((int(flow.argmin()), int(flow.argmax())))
    return Contrast(from_=first, to=second) if p[first] >= p[second] else Contrast(from_=second, to=first)


class _Exact(NamedTuple):
    """One input's numbers at the smaller and at the larger step; ``peak`` and ``radius`` are NaN where there is none.

    Attributes:
        spectral, trace, peak, radius: (2,) each.
        rival, steepest, direction: at the smaller step.
    """

    spectral: list[float]
    trace: list[float]
    peak: list[float]
    radius: list[float]
    rival: int
    steepest: float
    direction: Array


@dataclass(frozen=True)
class MeasuredJacobian:
    """The whole Jacobian at an input, measured with two step sizes.

    Attributes:
        view: the measurable classes at the input.
        fine: (d, C) secants of 2 sqrt(p) and (d, C) secants of log p (NaN where a class is not visible), smaller step.
        coarse: the same with the larger step.
    """

    view: VisibleClasses
    fine: tuple[Array, Array]
    coarse: tuple[Array, Array]

    @property
    def base(self) -> Array:
        """(C,) probabilities at the input."""
        return self.view.columns


def _exact(measured: Sequence[MeasuredJacobian], slopes: Array, seen: NDArray[np.bool_]) -> list[_Exact]:
    """Of n Jacobians of one kind, whose slopes of 2 sqrt(p) are (n, 2, d, C).

    Args:
        measured: the Jacobians.
        slopes: at the smaller and at the larger step.
        seen: (n, C) whether both steps saw a class's logarithm: as many classes of each.
    """
    n, tops = len(measured), np.array([int(one.view.place[0]) for one in measured])
    largest, directions = _largest(slopes)
    traces = (slopes * slopes).sum(axis=(2, 3))
    peaks, radii = np.full((n, 2), np.nan), np.full((n, 2), np.nan)
    rivals, steepest = tops, np.zeros(n)
    classes = np.nonzero(seen)[1].reshape(n, -1)
    if classes.shape[1] >= 2 and seen[0, tops[0]]:
        logs = stacked([step[1] for one in measured for step in (one.fine, one.coarse)])
        if not seen.all():
            logs = np.take_along_axis(logs, classes.repeat(2, axis=0)[:, None], axis=2)
        base = np.take_along_axis(stacked([one.base for one in measured]), classes, axis=1)
        places = (classes == tops[:, None]).argmax(axis=1)
        moved = logs.any(axis=(1, 2)).reshape(n, 2)
        found, of_odds, norms = _log_odds(logs, log_probabilities(base[:, None], places)[:, 0], places)
        peaks = np.where(moved, found, np.nan)
        radii = np.where(moved & norms.any(axis=2), of_odds.min(axis=2), np.nan)
        rivals = np.take_along_axis(classes, of_odds[:, 0].argmin(axis=1)[:, None], axis=1)[:, 0]
        steepest = norms[:, 0].max(axis=1)
    numbers = (largest, traces, peaks, radii, rivals, steepest)
    each = zip(*(one.tolist() for one in numbers), directions[:, 0], strict=True)
    return [_Exact(*one) for one in each]


def _largest(rows: Array) -> tuple[Array, Array]:
    """The largest eigenvalue (...) of R^T R and its vector (..., K), from (..., d, K) rows, by the smaller Gram matrix."""
    turned = np.swapaxes(rows, -1, -2)
    if rows.shape[-2] >= rows.shape[-1]:
        values, vectors = np.linalg.eigh(turned @ rows)
        return values[..., -1], vectors[..., -1]
    values, vectors = np.linalg.eigh(rows @ turned)
    return values[..., -1], unit_vectors((turned @ vectors[..., -1:])[..., 0])


def _log_odds(logs: Array, log_p: Array, places: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """Peaks (n, 2), radii (n, 2, V), infinite of the class itself, and norms (n, 2, V) of the gradients of the log-odds.

    Args:
        logs: (2 n, d, V) slopes of log p of the visible classes, the two steps of each of n inputs.
        log_p: (n, V) at the input.
        places: (n,) of the predicted class among the V.
    """
    n, visible = log_p.shape
    twice, place = log_p.repeat(2, axis=0), places.repeat(2)[:, None]
    z = temper(logs, twice, peak_temperature(logs, twice))
    peaks = _largest(z)[0]
    norms = np.asarray(np.linalg.norm(np.take_along_axis(logs, place[:, None], axis=2) - logs, axis=1), np.float64)
    radii = first_order_radii(np.take_along_axis(twice, place, axis=1) - twice, norms)
    return np.asarray(peaks, np.float64).reshape(n, 2), radii.reshape(n, 2, visible), norms.reshape(n, 2, visible)


def estimate_jacobians(measured: Sequence[MeasuredJacobian]) -> list[Estimate | None]:
    """Numbers from whole Jacobians, each measured with two step sizes; ``None`` where no answer differed.

    The half-width of each interval is three times the disagreement of the two plus 0.1 % of the value: their plain
    disagreement covers only half. Those of one kind are worked on together, which changes nothing but the time.

    >>> view = VisibleClasses(np.array([0.6, 0.4]), 0, np.array([0, 1]))
    >>> slopes = np.array([[1.0, -1.0]])  # of log p, over one feature
    >>> secants = (slopes * np.sqrt(view.base), slopes)
    >>> (found,) = estimate_jacobians([MeasuredJacobian(view, secants, secants)])
    >>> round(found.spectral.value, 6), found.contrast.to, round(found.margin.radius.value, 3)
    (1.0, 1, 0.203)
    """
    out: list[Estimate | None] = [None] * len(measured)
    most = max((one.fine[0].size for one in measured), default=0)
    for alike in few_at_a_time(positions_by_kind(one.fine[0].shape for one in measured), 4 * most):
        some = [measured[i] for i in alike]
        slopes = stacked([step[0] for one in some for step in (one.fine, one.coarse)]).reshape(
            len(some), 2, *some[0].fine[0].shape
        )
        finite = np.isfinite(stacked([step[1] for one in some for step in (one.fine, one.coarse)])).all(axis=1)
        seen = finite.reshape(len(some), 2, -1).all(axis=1) & (stacked([one.base for one in some]) > 0)
        kinds = zip(np.any(slopes, axis=(1, 2, 3)).tolist(), seen.sum(axis=1).tolist(), _own(seen, some), strict=True)
        for chosen in positions_by_kind((number, own) if moved else None for moved, number, own in kinds):
            exact = _exact([some[j] for j in chosen], slopes[chosen], seen[chosen])
            for j, numbers in zip(chosen, exact, strict=True):
                out[alike[j]] = _estimate_jacobian(some[j], seen[j], numbers)
    return out


def _own(seen: NDArray[np.bool_], measured: Sequence[MeasuredJacobian]) -> list[bool]:
    """Whether the predicted class is among the visible ones (n, C) of each."""
    return [bool(visible[one.view.place[0]]) for visible, one in zip(seen, measured, strict=True)]


def _estimate_jacobian(measured: MeasuredJacobian, seen: NDArray[np.bool_], exact: _Exact) -> Estimate:
    view, base, top = measured.view, measured.base, int(measured.view.place[0])
    margin, ahead = None, math.inf
    hidden = not view.whole
    visible = seen[: len(view.classes)]
    unmeasured = len(visible) - int(np.count_nonzero(visible))
    if not any(map(math.isnan, exact.radius)):
        margin = Margin(_agreement(exact.radius), int(view.classes[exact.rival]), exact.steepest)
        ceiling = view.ceiling
        if unmeasured:
            ceiling = max(ceiling, float(least_visible(base[None])), float(base[: len(visible)][~visible].max()))
        ahead = float(np.log(base[top]) - np.log(ceiling)) if ceiling > 0 else math.inf
        hidden = margin.beaten_by(ahead)
    peak = None if any(map(math.isnan, exact.peak)) else _agreement(exact.peak)
    if peak is not None and margin is not None:
        peak = peak_with_hidden(peak, margin, len(view.base) - len(visible) + unmeasured, ahead)
    if margin is not None and view.error is not None:
        rivals = [k for k in np.flatnonzero(visible).tolist() if k != top]
        limits = view.gaps(view.classes[rivals])
        assert limits is not None
        gaps, nearest = np.maximum(np.log(base[top] / base[rivals]), 0.0), rivals.index(exact.rival)
        peak = peak and peak_with_gaps(peak, gaps, *limits)
        margin = replace(margin, radius=radius_with_gap(margin.radius, *(float(side[nearest]) for side in (gaps, *limits))))
    return Estimate(
        _agreement(exact.spectral),
        _agreement(exact.trace),
        peak,
        margin,
        named_contrast(view, exact.direction, base),
        hidden,
    ).allowing_for_hidden(view)


def _agreement(both: Sequence[float]) -> Limits:
    """From a number at the smaller and at the larger step."""
    fine, coarse = both
    half = DISAGREEMENT * abs(fine - coarse) + 1e-3 * fine
    return Limits(fine, max(0.0, fine - half), fine + half)


def undetected(
    view: VisibleClasses, rows: Array, quantum: float, length: float, confidence: float, factor: float | None = None
) -> tuple[float, float]:
    """Limits that hold when nothing rose above the noise: spectral norm from above, margin radius from below.

    Measurable classes: the limit of what was measured, noise included. Every other probability is known to half its
    quantum, so 2 sqrt(p_k) stayed within a range slack_k and its variance is at most slack_k^2 / 4; the two
    parts add as lengths. Likewise log(p_c / p_k) for the radius.

    Args:
        view: the measurable classes.
        rows: (m, K) answers at the displaced inputs.
        quantum: distance of neighbouring answers; 0 for the spacing of float32.
        length: root mean square displacement of one feature.
        confidence: of the two-sided interval.
        factor: limit of lambda over the mean energy; for random directions when left out.

    >>> view = VisibleClasses(np.array([0.6, 0.4]), 0, np.array([0, 1]))
    >>> norm, radius = undetected(view, np.tile(view.base, (20, 1)), 0.01, 0.1, 0.95)
    >>> 0 < norm < 1, radius > 0
    (True, True)
    """
    if length == 0:
        return float("inf"), 0.0
    if factor is None:
        factor = upper_factor((1.0 - confidence) / 2, max(1, len(rows) - 1), None)
    everything = np.vstack([view.base[None], rows])
    width = quantum if quantum > 0 else np.spacing(everything.max(axis=0).astype(np.float32)).astype(np.float64)
    low, high = np.maximum(everything.min(axis=0) - width / 2, 0.0), everything.max(axis=0) + width / 2
    slack = np.sqrt(high) - np.sqrt(low)
    measured = 0.0
    if not view.unmeasurable and len(rows) > 1:
        table = view.table(rows)
        if (table != table[0]).any():
            measured = factor * float(sample_spectrum(contrasts(np.sqrt(table) * (2.0 / length)))[0])
    if measured > 0:
        slack[view.classes] = 0.0
    unmeasured = factor * float((slack**2).sum()) / length**2
    with np.errstate(divide="ignore", invalid="ignore"):
        wobble = np.log(high / low)
        gap = np.maximum(np.log(low[view.top] / high), 0.0)
        radii = np.delete(gap / (wobble + wobble[view.top]), view.top) * (length * 2.0 / np.sqrt(factor))
    radius = float(np.nan_to_num(radii, nan=0.0).min())
    return float((np.sqrt(measured) + np.sqrt(unmeasured)) ** 2), radius
