"""Decoupled direction and norm (DDN), an attack written here from its paper to check the library's attacks against.

Source: Rony et al., CVPR 2019, arXiv 1811.09600.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

__all__ = ["FIRST", "ddn"]

#: Length of the first ball, in input units.
FIRST = 0.5


def ddn(
    network: nn.Module,
    x: np.ndarray,
    lower: float | np.ndarray | None,
    upper: float | np.ndarray | None,
    steps: int = 300,
    gamma: float = 0.05,
    starts: int = 1,
    seed: int = 0,
    away: np.ndarray | None = None,
    first: float | np.ndarray = FIRST,
) -> np.ndarray:
    """Smallest l2 length at which the decision changes, for each of (n, *shape) inputs; ``inf`` where it never did.

    From the input itself with a first ball of the length ``first``, or displaced by ``away``, and, beyond the first, from
    random displacements: they find basins that gradients at the input do not point to.
    """
    best = np.full(len(x), np.inf)
    for start in range(starts):
        moved = torch.zeros(x.shape) if away is None else torch.tensor(away)
        if start:
            moved = torch.randn(x.shape, generator=torch.Generator().manual_seed(1000 * seed + start))
            moved *= FIRST / moved.flatten(1).norm(dim=1).view(-1, *(1,) * (x.ndim - 1))
        best = np.minimum(best, _descend(network, torch.tensor(x), moved, _edge(lower), _edge(upper), steps, gamma, first))
    return best


def _edge(bound: float | np.ndarray | None) -> torch.Tensor | None:
    return None if bound is None else torch.as_tensor(bound, dtype=torch.float32)


def _descend(
    network: nn.Module,
    origin: torch.Tensor,
    moved: torch.Tensor,
    lower: torch.Tensor | None,
    upper: torch.Tensor | None,
    steps: int,
    gamma: float,
    first: float | np.ndarray,
) -> np.ndarray:
    x = origin
    shape = (-1, *(1,) * (x.ndim - 1))
    with torch.no_grad():
        decision = network(origin).argmax(1)
    length = moved.flatten(1).norm(dim=1)
    length = torch.where(length > 0, length, torch.as_tensor(first, dtype=torch.float32))
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
        if lower is not None and upper is not None:
            moved = (origin + moved).clamp(lower, upper) - origin
    return np.asarray(best.numpy(), dtype=float)
