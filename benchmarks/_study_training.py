"""The study's networks, and how they are trained: plainly, on adversarial examples, with a penalty on the Fisher trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from benchmarks._study_data import Split
from fimaudit.bounds.families import DenseNet, ResNet, VisionTransformer, vgg
from fimaudit.training import fisher_penalty

__all__ = ["ARCHITECTURES", "TRAININGS", "Recipe", "build", "trained"]

#: Networks for (channels, size, size) images or, MLP alone, for tables.
ARCHITECTURES = ("VGG", "ResNet", "DenseNet", "ViT", "MLP")
TRAININGS = ("plain", "pgd", "cw", "fisher")


@dataclass(frozen=True)
class Recipe:
    """How to train on one data set.

    Attributes:
        epochs: over the training half.
        eps: l2 radius of the PGD examples, in the units that the networks are fed.
        steps: of PGD and of Carlini-Wagner.
        weight: of the Fisher trace.
        rate: Adam's.
        warm: epochs of plain training before the others begin.
    """

    epochs: int
    eps: float
    steps: int
    weight: float
    rate: float = 2e-3
    warm: int = 0

    def fitted_to(self, architecture: str) -> Recipe:
        """The same for an architecture: a transformer takes three times as long, the first third of it plainly.

        On adversarial examples from the start it does not leave the constant answer.
        """
        if architecture != "ViT":
            return self
        return replace(self, epochs=3 * self.epochs, warm=self.epochs, rate=self.rate / 2)


def build(architecture: str, split: Split) -> nn.Module:
    """An untrained network for the data set's inputs and classes."""
    shape, classes = split.x.shape[1:], split.classes
    if architecture == "MLP":
        width = 64 if split.image else 32
        features = int(np.prod(shape))
        hidden = [nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, classes))
    channels, size = shape[0], shape[1]
    made: dict[str, Callable[[], nn.Module]] = {
        "VGG": lambda: vgg([[8], [16]], [32], classes, channels=channels, size=size),
        "ResNet": lambda: ResNet([1, 1], 12, classes, channels=channels, large=True),
        "DenseNet": lambda: DenseNet([2, 2], 8, classes, channels=channels, large=True),
        "ViT": lambda: VisionTransformer(size, size // 4, 32, 2, 2, classes, channels=channels),
    }
    return made[architecture]()


def trained(architecture: str, training: str, split: Split, recipe: Recipe, seed: int) -> nn.Module:
    """The network after training, in evaluation mode; the same for the same arguments on the same machine."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build(architecture, split)
        optimiser = torch.optim.Adam(network.parameters(), recipe.rate)
        x, y = torch.tensor(split.x), torch.tensor(split.y)
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(recipe.epochs):
            kind = training if epoch >= recipe.warm else "plain"
            for rows in torch.randperm(len(x), generator=generator).split(64):
                if len(rows) < 2:  # batch norm needs company
                    continue
                batch, labels = x[rows], y[rows]
                if kind == "pgd":
                    batch = _pgd(network, batch, labels, split, recipe)
                elif kind == "cw":
                    batch = _carlini_wagner(network, batch, labels, split, recipe)
                network.train()
                loss = nn.functional.cross_entropy(network(batch), labels)
                if kind == "fisher":
                    loss = loss + recipe.weight * fisher_penalty(network, batch, generator=generator)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return network.eval()


def _pgd(network: nn.Module, x: torch.Tensor, y: torch.Tensor, split: Split, recipe: Recipe) -> torch.Tensor:
    """Projected gradient ascent of the cross-entropy within an l2 ball (Madry et al., arXiv 1706.06083)."""
    network.eval()
    moved = torch.zeros_like(x)
    for _ in range(recipe.steps):
        point = (x + moved).requires_grad_(True)
        (up,) = torch.autograd.grad(nn.functional.cross_entropy(network(point), y, reduction="sum"), point)
        moved = moved + 2.5 * recipe.eps / recipe.steps * up / _norm(up)
        moved = moved * (recipe.eps / _norm(moved)).clamp(max=1.0)
        moved = _within(x + moved, split) - x
    return (x + moved).detach()


def _carlini_wagner(network: nn.Module, x: torch.Tensor, y: torch.Tensor, split: Split, recipe: Recipe) -> torch.Tensor:
    """Descent of |delta|^2 + c max(margin, 0), Carlini and Wagner's loss (arXiv 1608.04644), c at the scale of eps."""
    network.eval()
    moved = torch.zeros_like(x)
    hit = nn.functional.one_hot(y, split.classes).bool()
    for _ in range(recipe.steps):
        point = (x + moved).requires_grad_(True)
        logits = network(point)
        margin = logits[hit] - logits.masked_fill(hit, -torch.inf).amax(dim=1)
        (down,) = torch.autograd.grad(margin.clamp_min(0).sum(), point)
        # One step of the margin's gradient, of a length that crosses the ball in the given steps, and the pull of |delta|^2.
        moved = 0.95 * moved - recipe.eps / recipe.steps * down / _norm(down)
        moved = _within(x + moved, split) - x
    return (x + moved).detach()


def _norm(rows: torch.Tensor) -> torch.Tensor:
    return rows.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, *(1,) * (rows.ndim - 1))


def _within(x: torch.Tensor, split: Split) -> torch.Tensor:
    if split.lower is None or split.upper is None:
        return x
    return x.clamp(torch.as_tensor(split.lower, dtype=x.dtype), torch.as_tensor(split.upper, dtype=x.dtype))
