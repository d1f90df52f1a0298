"""Three forms of the Fisher information of one input, each by torch's own derivatives of another quantity."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fimaudit.models.linearization import derivative_failure
from fimaudit_adapters.pytorch.derivatives import TorchModel, raw_function
from fimaudit_adapters.pytorch.jacobian_products import Function, Guard, JacobianProducts
from fimaudit_adapters.pytorch.numerics import module_untouched

__all__ = ["fisher_forms"]

Matvec = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def fisher_forms(model: TorchModel, x: NDArray[Any]) -> dict[str, Matvec]:
    """Products F v at one input, in float64, for the gradient, the label-covariance and the square-root form.

    - ``gradient``: J_L^T diag(p) J_L with the Jacobian of log p;
    - ``covariance``: J_z^T (diag p - p p^T) J_z with the Jacobian of the logits, or of log p where the model gives none;
    - ``square root``: 4 J_s^T J_s with the Jacobian of s = sqrt(p).
    """
    guard = partial(module_untouched, model.module, model.device)
    raw = raw_function(model, torch.float64)
    at = torch.from_numpy(np.array(x, dtype=model.info.dtype)[None]).to(model.device, model.dtype).to(torch.float64)

    def logs(z: torch.Tensor) -> torch.Tensor:
        if model.link == "softmax":
            return z.log_softmax(dim=1)
        if model.link == "sigmoid":
            return torch.nn.functional.logsigmoid(torch.cat([-z, z], dim=1))
        return (torch.cat([1 - z, z], dim=1) if z.shape[1] == 1 else z).clamp_min(1e-300).log()

    def logits(z: torch.Tensor) -> torch.Tensor:
        if model.link == "softmax":
            return z
        return torch.cat([torch.zeros_like(z), z], dim=1) if model.link == "sigmoid" else logs(z)

    try:
        with torch.no_grad(), guard():
            p = logs(raw(at)).exp()
    except Exception as exc:
        raise derivative_failure(exc) from exc

    def covariance(a: torch.Tensor) -> torch.Tensor:
        return p * a - p * (p * a).sum()

    return {
        "gradient": _form(lambda v: logs(raw(v)), at, lambda a: p * a, guard),
        "covariance": _form(lambda v: logits(raw(v)), at, covariance, guard),
        "square root": _form(lambda v: (logs(raw(v)) / 2).exp(), at, lambda a: 4 * a, guard),
    }


def _form(function: Function, x: torch.Tensor, middle: Function, guard: Guard) -> Matvec:
    """v to J^T M J v."""
    products = JacobianProducts(function, x, guard=guard)

    def matvec(v: NDArray[np.float64]) -> NDArray[np.float64]:
        along = torch.from_numpy(np.ascontiguousarray(v, dtype=np.float64)).to(x.device).view(x.shape)
        return np.asarray(products.pull(middle(products.push(along))).flatten().cpu().numpy())

    return matvec
