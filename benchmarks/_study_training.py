"""The study's networks, and how they are trained: plainly, on adversarial examples, with a penalty on the Fisher trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from benchmarks._study_data import Split
from fimaudit.bounds.families import DenseNet, ResNet, VisionTransformer, vgg
from fimaudit.errors import UsageError
from fimaudit.training import fisher_penalty

__all__ = [
    "ARCHITECTURES",
    "PUBLISHED",
    "PUBLISHED_SIDE",
    "TRAININGS",
    "Recipe",
    "build",
    "carlini_wagner_examples",
    "pgd_examples",
    "trained",
]

#: Networks for (channels, size, size) images or, MLP alone, for tables.
ARCHITECTURES = ("VGG", "ResNet", "DenseNet", "ViT", "MLP")
TRAININGS = ("plain", "pgd", "cw", "fisher")
#: The paper's own networks, from torchvision's definitions, and the side of their images.
PUBLISHED, PUBLISHED_SIDE = ("vgg16", "resnet18", "densenet121", "vit_b_16"), 224


@dataclass(frozen=True)
class Recipe:
    """How to train on one data set.

    Attributes:
        epochs: over the training images.
        eps: radius of the adversarial examples, in the units that the networks are fed.
        steps: of PGD and of Carlini-Wagner.
        weight: of the Fisher trace.
        rate: Adam's at first; it falls along a cosine to a twentieth.
        warm: epochs of plain training before the others begin.
        ramp: epochs after that over which eps and weight grow to their full size.
        largest: the gradient's norm is clipped to this, ``None`` for no limit.
        norm: of the ball of PGD, ``l2`` or ``linf``.
    """

    epochs: int
    eps: float
    steps: int
    weight: float
    rate: float = 2e-3
    warm: int = 0
    ramp: int = 0
    largest: float | None = None
    norm: str = "l2"

    def fitted_to(self, architecture: str) -> Recipe:
        """The same for an architecture: a transformer takes three times as long and comes to the others slowly.

        On adversarial examples or a penalty of full size it does not leave, or falls back to, the constant answer; so a
        third is plain, over the next third eps and weight grow, and no step is long.
        """
        if architecture != "ViT":
            return self
        part = self.epochs
        return replace(self, epochs=3 * part, warm=part, ramp=part, rate=self.rate / 2, largest=1.0)


def build(architecture: str, split: Split) -> nn.Module:
    """An untrained network for the data set's inputs and classes.

    Raises:
        UsageError: a published network, and torchvision cannot be loaded.
    """
    shape, classes = split.x.shape[1:], split.classes
    if architecture in PUBLISHED:
        return _published(architecture, classes)
    if architecture == "MLP":
        width = 64 if split.image else 32
        features = int(np.prod(shape))
        hidden = [nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, classes))
    channels, size = shape[0], shape[1]
    made: dict[str, Callable[[], nn.Module]] = {
        "VGG": lambda: vgg([[8], [16]] if size < 48 else [[8], [16], [16]], [32], classes, channels=channels, size=size),
        "ResNet": lambda: ResNet([1, 1], 12, classes, channels=channels, large=True),
        "DenseNet": lambda: DenseNet([2, 2], 8, classes, channels=channels, large=True),
        "ViT": lambda: VisionTransformer(size, size // 4, 32, 2, 2, classes, channels=channels),
    }
    return made[architecture]()


def _published(name: str, classes: int) -> nn.Module:
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as exc:  # the second where it was built for another torch
        fix = f"pip install torchvision, in the version that goes with torch {torch.__version__}"
        raise UsageError(
            f"expected torchvision for the published networks (--full), and it cannot be loaded; {fix}"
        ) from exc
    made: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    return made


def trained(architecture: str, training: str, split: Split, recipe: Recipe, seed: int, device: str = "cpu") -> nn.Module:
    """The network after training, in evaluation mode; the same for the same arguments on the same machine.

    Classes weigh the same in the loss however many images they have.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build(architecture, split).to(device)
        optimiser = torch.optim.Adam(network.parameters(), recipe.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs, recipe.rate / 20)
        x, y = torch.tensor(split.x), torch.tensor(split.y)
        counts = torch.bincount(y, minlength=split.classes).clamp_min(1)
        loss_of = nn.CrossEntropyLoss((len(y) / split.classes / counts).float().to(device))
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(recipe.epochs):
            kind = training if epoch >= recipe.warm else "plain"
            part = min(1.0, (epoch - recipe.warm + 1) / (recipe.ramp + 1))
            now = replace(recipe, eps=part * recipe.eps, weight=part * recipe.weight)
            for rows in torch.randperm(len(x), generator=generator).split(64):
                if len(rows) < 2:  # batch norm needs several rows
                    continue
                batch, labels = x[rows].to(device), y[rows].to(device)
                if kind == "pgd":
                    batch = pgd_examples(network, batch, labels, split, now)
                elif kind == "cw":
                    batch = carlini_wagner_examples(network, batch, labels, split, now)
                network.train()
                loss = loss_of(network(batch), labels)
                if kind == "fisher":
                    loss = loss + now.weight * fisher_penalty(network, batch)
                optimiser.zero_grad()
                loss.backward()
                if recipe.largest is not None:
                    nn.utils.clip_grad_norm_(network.parameters(), recipe.largest)
                optimiser.step()
            schedule.step()
    return network.eval()


def pgd_examples(network: nn.Module, x: torch.Tensor, y: torch.Tensor, split: Split, recipe: Recipe) -> torch.Tensor:
    """Projected gradient ascent of the cross-entropy within a ball (Madry et al., arXiv 1706.06083)."""
    network.eval()
    moved = torch.zeros_like(x)
    step = 2.5 * recipe.eps / recipe.steps
    for _ in range(recipe.steps):
        point = (x + moved).requires_grad_(True)
        (up,) = torch.autograd.grad(nn.functional.cross_entropy(network(point), y, reduction="sum"), point)
        if recipe.norm == "linf":
            moved = (moved + step * up.sign()).clamp(-recipe.eps, recipe.eps)
        else:
            moved = moved + step * up / _norm(up)
            moved = moved * (recipe.eps / _norm(moved)).clamp(max=1.0)
        moved = _within(x + moved, split) - x
    return (x + moved).detach()


def carlini_wagner_examples(
    network: nn.Module, x: torch.Tensor, y: torch.Tensor, split: Split, recipe: Recipe
) -> torch.Tensor:
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
    return x.clamp(*(torch.as_tensor(edge, dtype=x.dtype, device=x.device) for edge in (split.lower, split.upper)))
