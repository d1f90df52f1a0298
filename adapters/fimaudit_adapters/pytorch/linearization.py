"""A torch classifier linearised at a batch: the link's derivative in float64 around the network's own.

The network gives raw outputs z (logits, or probabilities under link identity) and products with its Jacobian J_z in its
own precision. What turns them into log-probabilities is differentiated by hand, in float64, in a form that subtracts
nothing of nearly equal size: with c the top class,

    softmax    (J_L^T w)_k -> w_k - p_k sum(w) for k != c, and minus the sum of those at c
    identity   w_k / p_k - w_c / p_c for k != c, and 0 at c, because p_c is 1 minus the others
    sigmoid    p_0 w_1 - p_1 w_0
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fimaudit.models.links import to_probabilities
from fimaudit_adapters.pytorch.device_signs import unpacked_bits
from fimaudit_adapters.pytorch.jacobian_products import JacobianProducts

__all__ = ["LinkDerivative", "TorchLinearization"]

Array = NDArray[np.float64]

#: Rows of a Jacobian that are held at once.
ROWS_BYTES = 256 * 2**20
#: Cotangents that go back together, over inputs and classes: larger operators up to here, more memory beyond.
ROWS_TOGETHER = 16
#: Cotangents stay below this, with room for sums.
MOST_FLOAT32 = 1e34


class LinkDerivative:
    """Derivative of log p with respect to the raw output of a network, at a batch.

    Args:
        raw: (B, M) outputs; M = K, or 1 for two classes from one column.
        link: as given to ``open_classifier``; ``auto`` has become ``identity`` for M >= 2.
    """

    def __init__(self, raw: Array, link: Any) -> None:
        self.probabilities = p = to_probabilities(raw, link, rows=len(raw))
        z = raw.astype(np.float64)
        self.kind = "column" if z.shape[1] == 1 and link != "sigmoid" else "identity" if link == "auto" else link
        with np.errstate(divide="ignore"):
            self.log_probabilities = np.log(p)
        if self.kind == "softmax":
            z = z - z.max(axis=1, keepdims=True)
            self.log_probabilities = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        elif self.kind == "sigmoid":
            self.log_probabilities = -np.logaddexp(0.0, np.hstack([z, -z]))
        self._inverse = np.divide(1.0, p, out=np.zeros_like(p), where=p > 0)
        self._rows = np.arange(len(p))
        self._top = p.argmax(axis=1)
        inside = self.kind in ("identity", "column")
        self.row_scale = np.sqrt(p) if inside else np.ones_like(p)
        self.shrinkage = p.min(axis=1, keepdims=True) if self.kind == "column" else p if inside else np.ones_like(z)

    def pull(self, w: Array) -> Array:
        """Cotangents of log p to cotangents of the raw output: (..., B, K) to (..., B, M)."""
        p, rows, top = self.probabilities, self._rows, self._top
        if self.kind == "sigmoid":
            return np.asarray(w[..., 1:] * p[:, :1] - w[..., :1] * p[:, 1:])
        if self.kind == "column":
            return np.asarray(w[..., 1:] * self._inverse[:, 1:] - w[..., :1] * self._inverse[:, :1])
        if self.kind == "softmax":
            raw = w - p * w.sum(axis=-1, keepdims=True)
            raw[..., rows, top] = 0.0
            raw[..., rows, top] = -raw.sum(axis=-1)
            return np.asarray(raw)
        scaled = np.where(self._inverse > 0, w, 0.0) * self._inverse
        raw = np.where(self._inverse > 0, scaled - scaled[..., rows, top][..., None], 0.0)
        return np.asarray(raw)

    def push(self, a: Array) -> Array:
        """Changes of the raw output to changes of log p: (B, M) to (B, K)."""
        p, rows, top = self.probabilities, self._rows, self._top
        if self.kind == "sigmoid":
            return np.hstack([-p[:, 1:] * a, p[:, :1] * a])
        if self.kind == "column":
            return np.hstack([-a, a]) * self._inverse
        if self.kind == "softmax":
            change = a - a[rows, top][:, None]
            return np.asarray(change - (p * change).sum(axis=1, keepdims=True))
        change = np.where(self._inverse > 0, a, 0.0)
        change[rows, top] = 0.0
        change[rows, top] = -change.sum(axis=1)
        return np.asarray(change * self._inverse)


class TorchLinearization:
    """See ``fimaudit.models.linearization.Linearization``."""

    def __init__(self, products: JacobianProducts, link: LinkDerivative) -> None:
        self._products = products
        self.link = link
        self._shape = tuple(products.input.shape)
        self.log_probabilities: Array = link.log_probabilities
        self.row_scale: Array = link.row_scale

    @property
    def passes(self) -> int:
        return self._products.passes

    @property
    def fallback(self) -> str | None:
        """How J v is formed when not by the double vjp."""
        return self._products.fallback

    def product(self, cotangents: Array) -> tuple[Array, Array]:
        back, scale, raw = self._pulled(cotangents, self._products.pull_recorded)
        return self._pushed(back, raw) * scale[:, None], _squared(back) * scale**2

    def squared_norms(self, cotangents: Array) -> Array:
        back, scale, _ = self._pulled(cotangents)
        return _squared(back) * scale**2

    def pull(self, cotangents: Array) -> Array:
        back, scale, _ = self._pulled(cotangents)
        return on_host(back) * scale.reshape(-1, *(1,) * (back.ndim - 1))

    def push_signs(self, packed: NDArray[np.uint8]) -> Array:
        like = self._products.input
        bits = unpacked_bits(packed, self._shape[1:], like.device)
        return self._pushed(bits.to(like.dtype) * 2 - 1)

    def gram(self, rows_bytes: int = ROWS_BYTES) -> Array:
        """See ``Linearization``; by columns where the rows would take more than ``rows_bytes``."""
        count, classes = self.row_scale.shape
        features = self._products.input[0].numel()
        if count * classes * features * self._products.input.element_size() > rows_bytes:
            columns = [self.product(self._unit(k))[0] for k in range(classes)]
            return np.stack(columns, axis=1) * self.row_scale[:, None, :]
        like, together = self._products.input, max(1, ROWS_TOGETHER // count)
        rows = torch.empty((count, classes, features), dtype=like.dtype, device=like.device)
        for first in range(0, classes, together):
            wanted = np.stack([self._unit(k) for k in range(first, min(classes, first + together))])
            back = self._products.pull(self._as_raw(self.link.pull(wanted)))
            rows[:, first : first + len(wanted)] = back.flatten(2).transpose(0, 1)
        return on_host(_accurate_gram(rows))

    def fisher_product(self, tangents: NDArray[Any]) -> Array:
        like = self._products.input
        v = torch.tensor(tangents).to(like.dtype).to(like.device).view(self._shape)
        return self.pull(self.link.probabilities * self._pushed(v))

    def direction(self, cotangents: Array) -> NDArray[Any]:
        back, *_ = self._pulled(cotangents)
        size = back.flatten(1).norm(dim=1).view(-1, *(1,) * (back.ndim - 1))
        return np.asarray(torch.where(size > 0, back / size, torch.zeros_like(back)).cpu().numpy())

    def root_pull(self, cotangents: torch.Tensor) -> torch.Tensor:
        """J_s^T w for (B, K) cotangents of s = sqrt(p)."""
        back, scale, _ = self._pulled(0.5 * np.sqrt(self.link.probabilities) * on_host(cotangents))
        return back * torch.tensor(scale, dtype=back.dtype, device=back.device).view(-1, *(1,) * (back.ndim - 1))

    def root_push(self, tangents: torch.Tensor) -> torch.Tensor:
        """J_s v for (B, \\*shape) tangents."""
        change = 0.5 * np.sqrt(self.link.probabilities) * self._pushed(tangents.to(self._products.input.dtype))
        return torch.tensor(change, dtype=self._products.input.dtype, device=self._products.input.device)

    def _unit(self, k: int) -> Array:
        unit = np.zeros_like(self.row_scale)
        unit[:, k] = self.row_scale[:, k]
        return unit

    def _pulled(
        self, cotangents: Array, pull: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, Array, torch.Tensor]:
        """J_L^T of cotangents brought to ordinary size, their sizes (float32 holds neither 1e-45 nor 1e39), and the raw
        output's cotangents behind it."""
        raw = self.link.pull(cotangents)
        # A network that ends in probabilities multiplies by them on the way back.
        scale = np.maximum(np.abs(raw * self.link.shrinkage).max(axis=1), np.abs(raw).max(axis=1) / MOST_FLOAT32)
        scale[scale == 0] = 1.0
        brought = self._as_raw(raw / scale[:, None])
        return (pull or self._products.pull)(brought), scale, brought

    def _pushed(self, tangents: torch.Tensor, cotangents: torch.Tensor | None = None) -> Array:
        return self.link.push(on_host(self._products.push(tangents, cotangents)))

    def _as_raw(self, raw: Array) -> torch.Tensor:
        like = self._products.output
        return torch.from_numpy(raw).to(like.dtype).to(like.device)


def _squared(back: torch.Tensor) -> Array:
    wide = (back.cpu() if back.device.type == "mps" else back).flatten(1).double()
    return on_host(wide.square().sum(1))


def _accurate_gram(rows: torch.Tensor) -> torch.Tensor:
    """Rows times rows in float64, a slice of features at a time so that the wide copy stays small."""
    count, classes, features = rows.shape
    rows = rows.cpu() if rows.device.type == "mps" else rows
    gram = torch.zeros((count, classes, classes), dtype=torch.float64, device=rows.device)
    step = max(1, 2**22 // (count * classes))
    for start in range(0, features, step):
        wide = rows[:, :, start : start + step].double()
        gram += wide @ wide.mT
    return gram


def on_host(tensor: torch.Tensor) -> Array:
    """A tensor as a float64 array."""
    return np.asarray(tensor.detach().cpu().double().numpy())
