"""What the white-box measurement of one input gives, and the conventions of its fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["WhiteBox", "contrast_of", "margin_of"]

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
        contrast: the classes that trade probability along the worst direction, (from, to); ``None`` where lambda is 0.
        margin_radius: first-order l2 distance to a changed decision; ``None`` where no class can be reached.
        rival: the class it leads to.
        margin_slack: the radius may be smaller by this fraction; 0 where every class that could be nearer was measured.
        direction: worst input direction, unit l2 norm, towards ``contrast``'s second class; ``None`` unless asked for.
        passes: forward and backward passes through the model, over batches that held this input.
        hidden_classes: classes whose probability is exactly 0 in the model's answer, which no derivative reaches.
        method: ``gram``, ``lanczos``, ``power`` or ``reference``.
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
    contrast: tuple[int, int] | None
    margin_radius: float | None
    rival: int | None
    margin_slack: float
    direction: NDArray[Any] | None
    passes: int
    hidden_classes: int
    method: str


def contrast_of(roots: Array, vector: Array) -> tuple[tuple[int, int], float]:
    """(from, to) for a top eigenvector u of G, and the sign that makes it so.

    Along u the probabilities change as dp_k ~ s_k u_k. The sign is chosen so that the predicted class loses, or, where it
    takes no part, the class that changes most.
    """
    flow = roots * vector
    top = int(np.argmax(roots))
    leading = top if flow[top] != 0 else int(np.argmax(np.abs(flow)))
    sign = -1.0 if flow[leading] > 0 else 1.0
    flow = sign * flow
    return (int(np.argmin(flow)), int(np.argmax(flow))), sign


def margin_of(log_p: Array, norms: Array) -> tuple[float | None, int | None]:
    """min over k != c of log(p_c / p_k) / norm_k, and the class; ``None`` where no norm is positive."""
    top = int(np.argmax(log_p))
    gaps = log_p[top] - log_p
    radii = np.divide(gaps, norms, out=np.full_like(gaps, np.inf), where=norms > 0)
    radii[top] = np.inf
    rival = int(np.argmin(radii))
    return (float(radii[rival]), rival) if np.isfinite(radii[rival]) else (None, None)
