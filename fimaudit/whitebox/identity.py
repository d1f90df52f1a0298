"""The identity behind the audit, checked on real inputs: three forms of the Fisher information have one spectral norm.

sum_k p_k g_k g_k^T  =  J_z^T (diag p - p p^T) J_z  =  4 J_s^T J_s,      g_k = grad log p_k, s = sqrt(p)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

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


def _top(matvec: Matvec, size: int, tolerance: float) -> float:
    """Top eigenvalue of a positive semidefinite operator by Lanczos (ARPACK)."""
    start = np.random.default_rng(0).standard_normal(size)
    image = matvec(start)
    if size == 1 or not image.any():  # ARPACK takes neither
        return max(float(image[0] / start[0]), 0.0)
    operator = LinearOperator((size, size), matvec=matvec, dtype=np.float64)
    return max(float(eigsh(operator, k=1, v0=start, tol=tolerance, return_eigenvectors=False)[0]), 0.0)
