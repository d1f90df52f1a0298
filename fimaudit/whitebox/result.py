"""What the white-box measurement of one input gives, and the conventions of its fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.estimate import class_contrast
from fimaudit.estimation.margin import first_order_radii
from fimaudit.results import Contrast

__all__ = ["WhiteBox", "contrasts_and_cotangents", "margin_of"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class WhiteBox:
    """One input, measured by derivatives. Units: 1 / input unit^2 for norms and trace, input unit for the radius.

    Attributes:
        probabilities: (K,) p.
        spectral_norm: lambda, the top eigenvalue of the input-space Fisher information.
        residual: |G u - lambda u| / lambda; 0 where the whole matrix was decomposed.
        peak_spectral_norm: largest lambda_T over softmax temperature T; ``None`` when left out.
        peak_temperature: the T where it lies.
        peak_residual: like ``residual``, at that temperature.
        trace: trace of the Fisher information.
        trace_error: its standard error; 0 where it is exact.
        effective_rank: trace / lambda; ``None`` where lambda is 0.
        contrast: the classes that trade probability along the worst direction; ``None`` where lambda is 0.
        margin_radius: first-order l2 distance to a changed decision; ``None`` where no class can be reached.
        rival: the class it leads to.
        margin_slack: the radius may be smaller by this fraction; 0 where every class that could be nearer was measured.
        direction: worst input direction, unit l2 norm, towards ``contrast``'s second class; ``None`` unless asked for.
        passes: forward and backward passes through the model, over batches that held this input.
        hidden_classes: classes whose probability is exactly 0 in the model's answer, which no derivative reaches.
        method: ``gram``, ``lanczos`` or ``reference``.
    """

    probabilities: Array
    spectral_norm: float
    residual: float
    peak_spectral_norm: float | None
    peak_temperature: float | None
    peak_residual: float | None
    trace: float | None
    trace_error: float | None
    effective_rank: float | None
    contrast: Contrast | None
    margin_radius: float | None
    rival: int | None
    margin_slack: float
    direction: NDArray[Any] | None
    passes: int
    hidden_classes: int
    method: str


def contrasts_and_cotangents(roots: Array, vectors: Array) -> tuple[list[Contrast], Array]:
    """The contrast of each input, and the cotangent s u of its worst direction, signed towards the class that gains.

    Args:
        roots: (n, K) s = sqrt(p).
        vectors: (n, K) top eigenvectors u of G, of either sign.
    """
    contrasts = [class_contrast(u, s**2) for s, u in zip(roots, vectors, strict=True)]
    flows = roots * vectors
    for contrast, flow in zip(contrasts, flows, strict=True):
        if flow[contrast.to] < flow[contrast.from_]:
            flow *= -1.0
    return contrasts, flows


def margin_of(log_p: Array, norms: Array) -> tuple[float | None, int | None]:
    """min over k != c of log(p_c / p_k) / norm_k, and the class; ``None`` where no norm is positive."""
    top = int(np.argmax(log_p))
    radii = first_order_radii(log_p[top] - log_p, norms)
    radii[top] = np.inf
    rival = int(np.argmin(radii))
    return (float(radii[rival]), rival) if np.isfinite(radii[rival]) else (None, None)
