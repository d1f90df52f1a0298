"""The nearest counterexamples that a long search with derivatives finds, to compare radii with."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from benchmarks._ddn import FIRST, ddn

__all__ = ["nearest_counterexamples"]

#: Steps of a search, and by how much each changes the length: it is found to about as much.
STEPS, GAMMA = 500, 0.01
#: Other inputs of a class that a search starts at.
NEIGHBOURS = 2


class Toward(nn.Module):
    """Two outputs, the largest of the other classes and one class: only that one counts as another decision."""

    def __init__(self, network: nn.Module, target: int) -> None:
        super().__init__()
        self.network, self.target = network, target

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 2) outputs."""
        scores = self.network(x)
        others = torch.arange(scores.shape[1]) != self.target
        return torch.stack([scores[:, others].amax(1), scores[:, self.target]], dim=1)


def nearest_counterexamples(network: nn.Module, x: np.ndarray) -> np.ndarray:
    """Smallest l2 length found, within [0, 1], at which the decision changes, for each of (n, *shape) inputs.

    DDN toward any class, then toward each in turn: from the input, with a first ball as long as what was found, and from the
    nearest other inputs of that class. Toward any class it ends in the basin that it starts in, which is not always the
    nearest one; and where a network is flat around its inputs, gradients there point nowhere: a search that starts beyond
    the boundary comes back to a nearer part of it.
    """
    with torch.no_grad():
        scores = network(torch.tensor(x))
    decided = scores.argmax(1).numpy()
    flat = x.reshape(len(x), -1)
    apart = np.linalg.norm(flat[:, None] - flat, axis=2)
    best = ddn(network, x, 0.0, 1.0)
    first = np.where(np.isfinite(best), best, FIRST)
    for target in range(scores.shape[1]):
        toward, members = Toward(network, target), np.flatnonzero(decided == target)
        of = np.flatnonzero(decided != target)
        starts: list[np.ndarray | None] = [None]
        for place in range(min(NEIGHBOURS, len(members))):
            nearest = members[np.argsort(apart[np.ix_(of, members)], axis=1)[:, place]]
            starts.append(x[nearest] - x[of])
        for away in starts if len(of) else []:
            found = ddn(toward, x[of], 0.0, 1.0, steps=STEPS, gamma=GAMMA, away=away, first=first[of])
            best[of] = np.minimum(best[of], found)
    return best
