"""From one input's answers to its numbers: secants to spectral norm, peak, trace, contrast and margin radius."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fimaudit.margin import Margin, margin_limits
from fimaudit.results import Contrast
from fimaudit.secants import complete, contrasts, log_probabilities, visible_classes
from fimaudit.spectrum import Limits, energy_quantile, spectral_limits, trace_limits
from fimaudit.temperature import peak_limits, peak_temperature, temper

__all__ = ["Estimate", "class_contrast", "estimate_basis", "estimate_sketch", "undetected"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """The numbers of one input; ``peak`` and ``margin`` are ``None`` where fewer than two classes are visible."""

    spectral: Limits
    trace: Limits
    peak: Limits | None
    margin: Margin | None
    contrast: Contrast

    def widened(self, change: float) -> Estimate:
        """The same values with limits that also allow for a relative error ``change`` of the norms from the step."""
        up = float(np.exp(min(change, 1.0)))

        def wide(limits: Limits, by: float) -> Limits:
            return Limits(limits.value, limits.lower / by, limits.upper * by)

        margin = self.margin and Margin(wide(self.margin.radius, up**0.5), self.margin.rival)
        peak = self.peak and wide(self.peak, up)
        return Estimate(wide(self.spectral, up), wide(self.trace, up), peak, margin, self.contrast)


def estimate_sketch(base: Array, answers: Array, length: float, confidence: float, features: int | None) -> Estimate | None:
    """Numbers from random directions.

    Args:
        base: (K,) probabilities at the input.
        answers: (m, K) probabilities at the displaced inputs, m >= 2.
        length: root mean square displacement of one feature, as it was really sent.
        confidence: of each two-sided interval.
        features: d for orthonormal directions, ``None`` for independent ones.

    Returns:
        ``None`` when no answer differs from another.
    """
    top = int(np.argmax(base))
    p = complete(np.vstack([base[None], answers]), top)
    y = contrasts(np.sqrt(p[1:]) * (2.0 / length))
    if not y.any():
        return None
    known = np.array([np.sqrt(p[0, 1]), -np.sqrt(p[0, 0])]) if p.shape[1] == 2 else None
    spectral, direction = spectral_limits(y, confidence, features, known)
    trace = trace_limits(y, confidence, features)
    peak: Limits | None = None
    margin: Margin | None = None
    visible = visible_classes(p)
    if visible[top] and visible.sum() >= 2:
        classes = np.flatnonzero(visible)
        place = int(np.searchsorted(classes, top))
        logs = log_probabilities(p[:, classes], place)
        slopes = contrasts(logs[1:] / length)
        if slopes.any():
            peak, _ = peak_limits(slopes, logs[0], confidence, features)
            margin = margin_limits(slopes, logs[0], place, confidence, features)
            if margin is not None:
                margin = Margin(margin.radius, int(classes[margin.rival]))
    return Estimate(spectral, trace, peak, margin, class_contrast(direction, p[0], top))


def class_contrast(direction: Array, p: Array, top: int) -> Contrast:
    """Which classes trade probability along the top eigenvector u of G: dp_k is proportional to sqrt(p_k) u_k.

    Oriented so that the predicted class, where it takes part, is the one that loses.
    """
    flow = np.sqrt(p) * direction
    loses, gains = int(np.argmin(flow)), int(np.argmax(flow))
    if gains == top or (loses != top and abs(flow[gains]) > abs(flow[loses])):
        loses, gains = gains, loses
    return Contrast(from_=loses, to=gains)


@dataclass(frozen=True)
class _Exact:
    spectral: float
    trace: float
    peak: float | None
    radius: float | None
    rival: int
    direction: Array


def _exact(base: Array, slopes: Array, logs: Array, top: int, classes: NDArray[np.int64]) -> _Exact:
    """From the whole Jacobian: rows of 2 J_s^T (d, K) and of J_log p^T (d, visible)."""
    values, vectors = np.linalg.eigh(slopes.T @ slopes)
    peak: float | None = None
    radius: float | None = None
    rival = top
    if len(classes) >= 2 and top in classes and logs.any():
        place = int(np.searchsorted(classes, top))
        log_p = log_probabilities(base[None, classes], place)[0]
        temperature = peak_temperature(logs, log_p)
        z = temper(logs, log_p, temperature)
        peak = float(np.linalg.eigvalsh(z.T @ z)[-1])
        others = np.delete(np.arange(len(classes)), place)
        norms = np.linalg.norm(logs[:, [place]] - logs[:, others], axis=0)
        if norms.any():
            with np.errstate(divide="ignore"):
                radii = np.where(norms > 0, (log_p[place] - log_p[others]) / norms, np.inf)
            radius = float(radii.min())
            rival = int(classes[others[int(radii.argmin())]])
    return _Exact(float(values[-1]), float((slopes**2).sum()), peak, radius, rival, vectors[:, -1])


def estimate_basis(base: Array, fine: tuple[Array, Array], coarse: tuple[Array, Array]) -> Estimate | None:
    """Numbers from the whole Jacobian, measured with two step sizes.

    The half-width of each interval is three times the disagreement of the two plus 0.1 % of the value: their plain
    disagreement covers only half.

    Args:
        base: (K,) probabilities at the input, completed.
        fine: (d, K) secants of 2 sqrt(p) and (d, K) secants of log p (NaN where a class is not visible), smaller step.
        coarse: the same with the larger step.
    """
    top = int(np.argmax(base))
    if not fine[0].any() and not coarse[0].any():
        return None
    seen = np.isfinite(fine[1]).all(axis=0) & np.isfinite(coarse[1]).all(axis=0)
    classes = np.flatnonzero(seen)
    one = _exact(base, fine[0], fine[1][:, classes], top, classes)
    two = _exact(base, coarse[0], coarse[1][:, classes], top, classes)
    margin = None
    if one.radius is not None and two.radius is not None:
        margin = Margin(_agreement(one.radius, two.radius), one.rival)
    peak = _agreement(one.peak, two.peak) if one.peak is not None and two.peak is not None else None
    return Estimate(
        _agreement(one.spectral, two.spectral),
        _agreement(one.trace, two.trace),
        peak,
        margin,
        class_contrast(one.direction, base, top),
    )


def _agreement(fine: float, coarse: float) -> Limits:
    half = 3.0 * abs(fine - coarse) + 1e-3 * fine
    return Limits(fine, max(0.0, fine - half), fine + half)


def undetected(base: Array, quantum: Array, length: float, terms: int, confidence: float) -> tuple[float, float]:
    """Limits that hold when no answer differed from another: spectral norm from above, margin radius from below.

    Each probability is known to half its quantum, so 2 sqrt(p_k) moved by at most slack_k; if all moved that much along the
    top direction, lambda chi2_m <= m |slack|^2 / h^2. Likewise log(p_c / p_k) for the radius.

    Args:
        base: (K,) probabilities.
        quantum: (K,) distance of neighbouring answers.
        length: root mean square displacement of one feature.
        terms: directions asked.
        confidence: of the two-sided interval.
    """
    low, high = np.maximum(base - quantum / 2, 0.0), base + quantum / 2
    factor = terms / energy_quantile((1.0 - confidence) / 2, terms, None) / length**2
    slack = 2.0 * (np.sqrt(high) - np.sqrt(low))
    top = int(np.argmax(base))
    with np.errstate(divide="ignore"):
        wobble = np.log(high / low)
        gap = np.maximum(np.log(low[top] / high), 0.0)
    radii = np.delete(gap / (wobble + wobble[top]), top) / np.sqrt(factor)
    return factor * float((slack**2).sum()), float(radii.min())
