"""From one input's answers to its numbers: secants to spectral norm, peak, trace, contrast and margin radius."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.grouping import positions_by_kind
from fimaudit.estimation.margin import STEEPER, Margin, first_order_radii, peak_with_gaps, peak_with_hidden, radius_with_gap
from fimaudit.estimation.noise import VisibleClasses
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
        up = float(np.exp(min(change, 1.0)))
        of_odds = up if of_logs is None else float(np.exp(min(of_logs, 1.0)))

        def wide(limits: Limits, by: float) -> Limits:
            return Limits(limits.value, limits.lower / by, limits.upper * by)

        margin = self.margin and replace(self.margin, radius=wide(self.margin.radius, of_odds**0.5))
        peak = self.peak and wide(self.peak, of_odds)
        return replace(self, spectral=wide(self.spectral, up), trace=wide(self.trace, up), peak=peak, margin=margin)

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


@dataclass(frozen=True)
class _Exact:
    spectral: float
    trace: float
    peak: float | None
    radius: float | None
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

    @cached_property
    def base(self) -> Array:
        """(C,) probabilities at the input."""
        return self.view.columns

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """(C,) whether both steps saw the class's logarithm."""
        finite = np.isfinite(self.fine[1]).all(axis=0) & np.isfinite(self.coarse[1]).all(axis=0)
        return np.asarray(finite & (self.base > 0))

    @property
    def kind(self) -> Hashable:
        """What Jacobians that are worked on together have in common; ``None`` where no answer differed."""
        if not self.fine[0].any() and not self.coarse[0].any():
            return None
        return (*self.fine[0].shape, int(self.seen.sum()), bool(self.seen[self.view.place[0]]))


def _exact(measured: Sequence[MeasuredJacobian]) -> list[list[_Exact]]:
    """Of Jacobians of one kind, at the smaller and at the larger step of each."""
    slopes = np.stack([step[0] for one in measured for step in (one.fine, one.coarse)])
    values, vectors = np.linalg.eigh(np.swapaxes(slopes, 1, 2) @ slopes)
    traces, tops = (slopes**2).sum(axis=(1, 2)), np.array([int(one.view.place[0]) for one in measured])
    found = [
        _Exact(float(value[-1]), float(trace), None, None, int(top), 0.0, vector[:, -1])
        for value, trace, top, vector in zip(values, traces, tops.repeat(2), vectors, strict=True)
    ]
    classes = np.stack([np.flatnonzero(one.seen) for one in measured])
    if classes.shape[1] >= 2 and measured[0].seen[tops[0]]:
        _add_log_odds(found, measured, classes, (classes == tops[:, None]).argmax(axis=1))
    return [found[i : i + 2] for i in range(0, len(found), 2)]


def _add_log_odds(
    found: list[_Exact],
    measured: Sequence[MeasuredJacobian],
    classes: NDArray[np.int64],
    places: NDArray[np.int64],
) -> None:
    """Peak and radius, where any logarithm moved; ``classes`` (n, V) are visible, the predicted ones at ``places``."""
    each = zip(measured, classes, strict=True)
    logs = np.stack([step[1][:, seen] for one, seen in each for step in (one.fine, one.coarse)])
    base = np.stack([one.base[seen] for one, seen in zip(measured, classes, strict=True)])
    log_p, place = log_probabilities(base[:, None], places)[:, 0].repeat(2, axis=0), places.repeat(2)[:, None]
    z = temper(logs, log_p, peak_temperature(logs, log_p))
    peaks = np.linalg.eigvalsh(np.swapaxes(z, 1, 2) @ z)[:, -1]
    norms = np.linalg.norm(np.take_along_axis(logs, place[:, None], axis=2) - logs, axis=1)
    radii = first_order_radii(np.take_along_axis(log_p, place, axis=1) - log_p, norms)  # infinite of the class itself
    for i in np.flatnonzero(logs.any(axis=(1, 2))):
        found[i] = replace(found[i], peak=float(peaks[i]))
        if norms[i].any():
            rival = int(classes[i // 2][int(radii[i].argmin())])
            found[i] = replace(found[i], radius=float(radii[i].min()), rival=rival, steepest=float(norms[i].max()))


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
    for places in positions_by_kind(one.kind for one in measured):
        for i, (fine, coarse) in zip(places, _exact([measured[i] for i in places]), strict=True):
            out[i] = _estimate_jacobian(measured[i], fine, coarse)
    return out


def _estimate_jacobian(measured: MeasuredJacobian, one: _Exact, two: _Exact) -> Estimate:
    view, base, top = measured.view, measured.base, int(measured.view.place[0])
    margin, ahead = None, np.inf
    hidden = not view.whole
    if one.radius is not None and two.radius is not None:
        margin = Margin(_agreement(one.radius, two.radius), int(view.classes[one.rival]), one.steepest)
        unmeasured = base[: len(view.classes)][~measured.seen[: len(view.classes)]]
        least = float(least_visible(base[None])) if unmeasured.size else 0.0
        ceiling = max(view.ceiling, least, float(unmeasured.max(initial=0.0)))
        ahead = float(np.log(base[top]) - np.log(ceiling)) if ceiling > 0 else np.inf
        hidden = margin.beaten_by(ahead)
    peak = _agreement(one.peak, two.peak) if one.peak is not None and two.peak is not None else None
    if peak is not None and margin is not None:
        peak = peak_with_hidden(peak, margin, len(view.base) - int(measured.seen[: len(view.classes)].sum()), ahead)
    rivals = [k for k in np.flatnonzero(measured.seen[: len(view.classes)]).tolist() if k != top]
    limits = None if margin is None else view.gaps(view.classes[rivals])
    if margin is not None and limits is not None:
        gaps, nearest = np.maximum(np.log(base[top] / base[rivals]), 0.0), rivals.index(one.rival)
        peak = peak and peak_with_gaps(peak, gaps, *limits)
        margin = replace(margin, radius=radius_with_gap(margin.radius, *(float(side[nearest]) for side in (gaps, *limits))))
    return Estimate(
        _agreement(one.spectral, two.spectral),
        _agreement(one.trace, two.trace),
        peak,
        margin,
        named_contrast(view, one.direction, base),
        hidden,
    ).allowing_for_hidden(view)


def _agreement(fine: float, coarse: float) -> Limits:
    half = 3.0 * abs(fine - coarse) + 1e-3 * fine
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
