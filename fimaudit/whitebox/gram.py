"""Few classes: everything from the Gram of all K gradients of log p, formed by K backward passes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.peak_norm import peak_norm
from fimaudit.models.linearization import Linearization
from fimaudit.whitebox.result import WhiteBox, contrasts_and_cotangents, margin_of

__all__ = ["measure_gram"]

Array = NDArray[np.float64]

#: Eigenvalues of C below this share of the largest are rounding; the classes that count lie far above.
FACTOR_CUTOFF = 1e-14


def measure_gram(at: Linearization, *, worst_direction: bool = False, method: str = "gram") -> list[WhiteBox]:
    """Measure every input of a linearised batch exactly."""
    scale, log_p = at.row_scale, at.log_probabilities
    scaled = at.gram()
    roots = np.exp(log_p / 2)
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    gram = scaled * inverse[:, :, None] * inverse[:, None, :]
    fisher = gram * roots[:, :, None] * roots[:, None, :]
    values, vectors = np.linalg.eigh(fisher)
    contrasts, cotangents = contrasts_and_cotangents(roots, vectors[:, :, -1])
    directions = at.direction(cotangents) if worst_direction else None
    results = []
    for i in range(len(roots)):
        top = max(float(values[i, -1]), 0.0)
        peak, temperature = peak_norm(_factor(gram[i]), log_p[i])
        trace = float(np.trace(fisher[i]))
        radius, rival = margin_of(log_p[i], _contrast_norms(gram[i], int(np.argmax(log_p[i]))))
        results.append(
            WhiteBox(
                probabilities=np.exp(log_p[i]),
                spectral_norm=top,
                residual=0.0,
                peak_spectral_norm=peak,
                peak_temperature=temperature,
                peak_residual=0.0,
                trace=trace,
                trace_error=0.0,
                effective_rank=trace / top if top > 0 else None,
                contrast=contrasts[i] if top > 0 else None,
                margin_radius=radius,
                rival=rival,
                margin_slack=0.0,
                direction=None if directions is None else directions[i],
                passes=at.passes,
                hidden_classes=int(np.isneginf(log_p[i]).sum()),
                method=method,
            )
        )
    return results


def _factor(gram: Array) -> Array:
    """(r, K) rows Y with Y^T Y = C."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > FACTOR_CUTOFF * max(values[-1], 0.0)
    return np.asarray((vectors[:, kept] * np.sqrt(values[kept])).T)


def _contrast_norms(gram: Array, top: int) -> Array:
    """|grad log(p_c / p_k)| for every k."""
    diagonal = np.diagonal(gram)
    return np.asarray(np.sqrt(np.maximum(diagonal + diagonal[top] - 2 * gram[top], 0.0)))
