"""The identity behind the audit, checked on real inputs: three forms of the Fisher information have one spectral norm.

sum_k p_k g_k g_k^T  =  J_z^T (diag p - p p^T) J_z  =  4 J_s^T J_s,      g_k = grad log p_k, s = sqrt(p)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import TargetError

__all__ = ["IdentityCheck", "check_identity"]

Matvec = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class IdentityCheck:
    """The spectral norm of one input by each form, in 1 / input unit^2.

    Attributes:
        gradient: from sum_k p_k g_k g_k^T.
        covariance: from the covariance of the logits' gradients over labels.
        square_root: from 4 J_s^T J_s.
        difference: largest relative difference between two of them; 0 when all vanish.
    """

    gradient: float
    covariance: float
    square_root: float
    difference: float


def check_identity(model: Any, batch: NDArray[Any], *, tolerance: float = 1e-12) -> list[IdentityCheck]:
    """Spectral norms by the three forms, each from derivatives of another quantity (log p, logits, sqrt p), in float64.

    Args:
        model: a torch classifier (``fisher_forms`` gives the three products).
        batch: (n, \\*shape) inputs.
        tolerance: relative residual to which each norm is iterated.

    Raises:
        TargetError: the model gives no such derivatives.
    """
    if not hasattr(model, "fisher_forms"):
        raise TargetError(
            f"the identity needs a model with derivatives, such as a torch module; the {model.info.adapter} adapter "
            "gives probabilities only"
        )
    checks = []
    for x in np.asarray(batch):
        forms: dict[str, Matvec] = model.fisher_forms(x)
        first, second, third = (_top(forms[name], x.size, tolerance) for name in ("gradient", "covariance", "square root"))
        most, least = max(first, second, third), min(first, second, third)
        checks.append(IdentityCheck(first, second, third, (most - least) / most if most > 0 else 0.0))
    return checks


def _top(matvec: Matvec, size: int, tolerance: float, most: int = 100) -> float:
    """Top eigenvalue by Lanczos with full reorthogonalisation in input space."""
    v = np.random.default_rng(0).standard_normal(size)
    v /= np.linalg.norm(v)
    basis, images = np.zeros((0, size)), np.zeros((0, size))
    value = 0.0
    for _ in range(min(most, size)):
        image = matvec(v)
        basis, images = np.vstack([basis, v]), np.vstack([images, image])
        projected = basis @ images.T
        values, vectors = np.linalg.eigh((projected + projected.T) / 2)
        value, weights = float(values[-1]), vectors[:, -1]
        residual = np.linalg.norm(weights @ images - value * (weights @ basis))
        rest = image - basis.T @ (basis @ image)
        rest -= basis.T @ (basis @ rest)
        length = float(np.linalg.norm(rest))
        if residual <= tolerance * value or length <= 1e-14 * abs(value):
            break
        v = rest / length
    return max(value, 0.0)
