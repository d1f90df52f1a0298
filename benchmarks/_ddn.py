"""Decoupled direction and norm (DDN), an attack written here from its paper to check the library's attacks against.

Source: Rony et al., CVPR 2019, arXiv 1811.09600.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

__all__ = ["ddn"]


def ddn(
    network: nn.Module, x: np.ndarray, lower: float | None, upper: float | None, steps: int = 300, gamma: float = 0.05
) -> np.ndarray:
    """Smallest l2 length at which the decision changes, for each of (n, *shape) inputs; ``inf`` where it never did."""
    origin = torch.tensor(x)
    shape = (-1, *(1,) * (x.ndim - 1))
    with torch.no_grad():
        decision = network(origin).argmax(1)
    moved = torch.zeros_like(origin)
    length = torch.full((len(x),), 0.5)
    best = torch.full((len(x),), torch.inf)
    for step in range(steps):
        point = (origin + moved).requires_grad_(True)
        logits = network(point)
        changed = logits.argmax(1) != decision
        size = moved.flatten(1).norm(dim=1)
        best = torch.where(changed & (size < best), size, best)
        (up,) = torch.autograd.grad(nn.functional.cross_entropy(logits, decision, reduction="sum"), point)
        alpha = 0.01 + 0.5 * (1 + np.cos(np.pi * step / steps)) * 0.99
        up = up / up.flatten(1).norm(dim=1).clamp_min(1e-30).view(shape)
        length = torch.where(changed, (1 - gamma) * torch.minimum(length, size.clamp_min(1e-12)), (1 + gamma) * length)
        moved = moved + alpha * length.view(shape) * up  # the paper steps by alpha; here in units of the ball
        moved = moved * (length / moved.flatten(1).norm(dim=1).clamp_min(1e-30)).view(shape)
        if lower is not None or upper is not None:
            moved = (origin + moved).clamp(lower, upper) - origin
    return np.asarray(best.numpy(), dtype=float)
