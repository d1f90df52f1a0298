"""The input-space Fisher information of one input as a scipy operator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from fimaudit.models.classifier import Differentiable
from fimaudit.models.linearization import linearize

__all__ = ["FisherOperator"]


class FisherOperator(LinearOperator):  # type: ignore[misc]
    """F = J_L^T diag(p) J_L at one input, (d, d), symmetric positive semidefinite, never formed.

    A product costs two passes through the model, in its own precision (at least float32).

    Args:
        model: a ``Differentiable`` classifier.
        x: one input, shape \\*shape; d is its size.

    Raises:
        TargetError: the model has no derivative there.

    Use it wherever scipy takes an operator::

        from scipy.sparse.linalg import eigsh
        values, directions = eigsh(FisherOperator(model, x), k=3)
    """

    def __init__(self, model: Differentiable, x: NDArray[Any]) -> None:
        one = np.asarray(x)
        self._at = linearize(model, one[None])
        self._batch_shape = (1, *one.shape)
        wide = np.dtype(model.info.dtype).itemsize >= 8
        super().__init__(np.dtype(np.float64 if wide else np.float32), (one.size, one.size))

    def _matvec(self, v: NDArray[Any]) -> NDArray[Any]:
        along = np.asarray(v, dtype=np.float64).reshape(self._batch_shape)
        return np.asarray(self._at.fisher_product(along).ravel(), dtype=self.dtype)

    def _adjoint(self) -> FisherOperator:
        return self
