"""Packed sign bits unpacked where the model runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["displaced_on_device", "unpacked_bits"]


def unpacked_bits(packed: NDArray[np.uint8], shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """(m, ceil(d / 8)) bits, most significant first, to (m, \\*shape) booleans; d the size of ``shape``."""
    bits: Any = torch.tensor(packed, device=device)
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=device)
    size = int(np.prod(shape))
    chosen: torch.Tensor = ((bits[:, :, None] >> shifts) & 1).view(len(packed), -1)[:, :size].bool()
    return chosen.reshape(len(packed), *shape)


def displaced_on_device(packed: NDArray[np.uint8], low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Rows that take ``high`` where the sign bit is 1 and ``low`` where it is 0: (m, \\*shape), on the tensors' device."""
    return torch.where(unpacked_bits(packed, tuple(low.shape), low.device), high, low)
