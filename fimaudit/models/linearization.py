"""First derivatives of the log-probabilities at a batch of inputs: what the white-box measurement asks of a model.

With J_L the (K, d) Jacobian of log p at one input and C = J_L J_L^T its Gram in class space,

    F = J_L^T diag(p) J_L,        G = 4 J_s J_s^T = diag(s) C diag(s),   s = sqrt(p),

so products with C give everything. Working with log p keeps saturated answers: s_k enters only as a factor, in float64.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import ModelFailure
from fimaudit.foreign_errors import one_line
from fimaudit.models.classifier import Differentiable

__all__ = ["Linearizable", "Linearization", "RootLinearization", "derivative_failure", "linearize"]

Array = NDArray[np.float64]


class Linearization(Protocol):
    """A model linearised at (B, \\*shape) inputs. Class-side arrays are numpy float64; input-side ones stay inside.

    J_L is in 1 / unit, that of the input, and C and F in 1 / unit^2.

    Source: arXiv 2606.04767.
    """

    @property
    def log_probabilities(self) -> Array:
        """(B, K), ``-inf`` where the model answers exactly 0."""
        ...

    @property
    def row_scale(self) -> Array:
        """(B, K) factors r for which the rows r_k grad log p_k of an input are of ordinary size."""
        ...

    @property
    def passes(self) -> int:
        """Forward and backward passes that this linearisation has made, each over the whole batch."""
        ...

    def product(self, cotangents: Array) -> tuple[Array, Array]:
        """C w = J_L (J_L^T w), (B, K) to (B, K), and |J_L^T w|^2, (B,), from the same backward pass."""
        ...

    def squared_norms(self, cotangents: Array) -> Array:
        """|J_L^T w|^2: (B, K) to (B,)."""
        ...

    def pull(self, cotangents: Array) -> Array:
        """J_L^T w: (B, K) to (B, \\*shape)."""
        ...

    def push_signs(self, packed: NDArray[np.uint8]) -> Array:
        """J_L z for Rademacher z given as (B, ceil(d / 8)) bits, 1 for +: (B, K)."""
        ...

    def gram(self) -> Array:
        """r C r, the Gram of the scaled rows: (B, K, K)."""
        ...

    def fisher_product(self, tangents: NDArray[Any]) -> Array:
        """F v = J_L^T (p * J_L v): (B, \\*shape) to (B, \\*shape)."""
        ...

    def direction(self, cotangents: Array) -> NDArray[Any]:
        """J_L^T w scaled to unit l2 norm: (B, K) to (B, \\*shape); zeros where it vanishes."""
        ...


@runtime_checkable
class Linearizable(Differentiable, Protocol):
    """A differentiable classifier that linearises itself, which spares passes and keeps saturated answers."""

    def linearize(self, batch: NDArray[Any]) -> Linearization:
        """The model linearised at (B, \\*shape) inputs: records what is needed for derivatives."""
        ...

    def derivative_rows(self, row_bytes: int) -> int:
        """How many inputs of ``row_bytes`` bytes to linearise together, at least 1."""
        ...


def linearize(model: Differentiable, batch: NDArray[Any]) -> Linearization:
    """The model's own linearisation where it has one, else one made of its ``vjp`` and ``jvp``.

    That the two agree: test_whitebox.test_products_of_the_root_alone_give_the_same.

    Args:
        model: where it makes its own, what it raises is passed on.
        batch: (B, \\*shape) inputs.
    """
    return model.linearize(batch) if isinstance(model, Linearizable) else RootLinearization(model, batch)


def derivative_failure(exc: Exception) -> ModelFailure:
    """What a model raised while its derivative was taken, in our words."""
    return ModelFailure(f"the model raised {type(exc).__name__} while its derivative was taken: {one_line(exc, 300)}")


class RootLinearization:
    """A linearisation from products with J_s alone: J_L = 2 diag(1/s) J_s.

    A class that the model answers with exactly 0 has no row: it counts as one that does not change.

    Args:
        model: any ``Differentiable``; its arrays are torch tensors.
        batch: (B, \\*shape) inputs.

    Attributes:
        log_probabilities: (B, K), ``-inf`` where the model answers exactly 0.
        row_scale: (B, K) s, the factors r of ``Linearization``.
        passes: one for the answers, one for each cotangent and one for each push so far.
    """

    def __init__(self, model: Differentiable, batch: NDArray[Any]) -> None:
        import torch

        self._model = model
        self._batch = torch.tensor(np.asarray(batch, dtype=model.info.dtype), device=model.info.device)
        p = model.probabilities(np.asarray(batch))
        self._inverse = np.divide(1.0, np.sqrt(p), out=np.zeros_like(p), where=p > 0)
        self.row_scale = np.sqrt(p)
        with np.errstate(divide="ignore"):
            self.log_probabilities = np.log(p)
        self.passes = 1

    def product(self, cotangents: Array) -> tuple[Array, Array]:
        """C w, (B, K), and |J_L^T w|^2, (B,), of (B, K) cotangents; two passes."""
        back = self._pull(cotangents[:, None])
        return self._push(back), _host(back.double().flatten(1).square().sum(1))

    def squared_norms(self, cotangents: Array) -> Array:
        """|J_L^T w|^2: (B, K) to (B,); one pass."""
        return _host(self._pull(cotangents[:, None]).double().flatten(1).square().sum(1))

    def pull(self, cotangents: Array) -> Array:
        """J_L^T w: (B, K) to (B, \\*shape); one pass."""
        return _host(self._pull(cotangents[:, None])[:, 0])

    def push_signs(self, packed: NDArray[np.uint8]) -> Array:
        """J_L z for signs z given as (B, ceil(d / 8)) bits, 1 for +: (B, K); one pass."""
        import torch

        signs = np.unpackbits(packed, axis=1, count=self._batch[0].numel()).astype(np.float64) * 2 - 1
        return self._push(torch.tensor(signs, device=self._batch.device).view(len(packed), 1, *self._batch.shape[1:]))

    def gram(self) -> Array:
        """r C r = 4 J_s J_s^T: (B, K, K), from all K rows at once, (B, K, d) in memory; K passes."""
        classes = self.row_scale.shape[1]
        rows = self._pull(self.row_scale[:, :, None] * np.eye(classes)).double().flatten(2)
        return _host(rows @ rows.mT)

    def fisher_product(self, tangents: NDArray[Any]) -> Array:
        """F v = J_L^T (p * J_L v): (B, \\*shape) to (B, \\*shape); two passes."""
        import torch

        v = torch.tensor(tangents, device=self._batch.device).view(self._batch.shape).unsqueeze(1)
        return _host(self._pull((self.row_scale**2 * self._push(v))[:, None])[:, 0])

    def direction(self, cotangents: Array) -> NDArray[Any]:
        """J_L^T w scaled to unit l2 norm: (B, K) to (B, \\*shape), zeros where it vanishes; one pass."""
        back = _host(self._pull(cotangents[:, None])[:, 0])
        size = np.linalg.norm(back.reshape(len(back), -1), axis=1).reshape(-1, *(1,) * (back.ndim - 1))
        return np.asarray(np.divide(back, size, out=np.zeros_like(back), where=size > 0))

    def _pull(self, cotangents: Array) -> Any:
        import torch

        self.passes += cotangents.shape[1]
        roots = 2.0 * cotangents * self._inverse[:, None]
        return self._model.vjp(self._batch, torch.tensor(roots, device=self._batch.device))

    def _push(self, tangents: Any) -> Array:
        self.passes += 1
        return 2.0 * _host(self._model.jvp(self._batch, tangents)[:, 0]) * self._inverse


def _host(tensor: Any) -> Array:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)
