"""Models whose last digits depend on the call, as those of matrix products do: on its rows' number and places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["batch_sensitive", "shifts"]


def shifts(rows: int, columns: int) -> np.ndarray:
    """(rows, columns) numbers in [-1, 1), the same for each call of so many rows, and others for calls of another number.

    >>> bool((shifts(3, 2) == shifts(3, 2)).all()), bool((shifts(3, 2) == shifts(4, 2)[:3]).any())
    (True, False)
    """
    place, column = np.mgrid[0:rows, 0:columns].astype(np.uint64)
    mixed = (place * 2_654_435_761 + column * 40_503 + np.uint64(rows) * 97_531) % np.uint64(2**32)
    for _ in range(2):  # neighbours must not have neighbouring numbers
        mixed = ((mixed ^ (mixed >> np.uint64(15))) * 2_246_822_519) % np.uint64(2**32)
    return np.asarray((mixed ^ (mixed >> np.uint64(13))) / 2.0**31 - 1.0)


class _Sensitive(nn.Module):
    """A module whose (n, K) output is moved."""

    def __init__(self, inner: nn.Module, relative: float) -> None:
        super().__init__()
        self.inner, self.relative = inner, relative
        self.train(inner.training)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The output with other last digits."""
        out: torch.Tensor = self.inner(*inputs)
        factor = 1.0 + self.relative * shifts(len(out), out[0].numel()).reshape(out.shape)
        return (out.double() * torch.as_tensor(factor, device=out.device)).to(out.dtype)


def batch_sensitive(predict: Any, relative: float = 1e-7) -> Any:
    """The same model with an output that is moved by ``relative`` at most, as the call's number of rows and each place say.

    Args:
        predict: a torch module, or a callable from (n, \\*shape) rows to (n, K) answers, rounded to float32.
        relative: of each number of the output.
    """
    if isinstance(predict, nn.Module):
        return _Sensitive(predict, relative)
    function: Callable[[np.ndarray], Any] = predict

    def answer(rows: np.ndarray) -> np.ndarray:
        out = np.asarray(function(rows))
        moved = out.astype(np.float64) * (1.0 + relative * shifts(len(out), out[0].size).reshape(out.shape))
        return moved.astype(np.float32).astype(out.dtype)

    return answer
