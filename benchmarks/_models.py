"""Two small networks on real data that several benchmarks share: a CNN on digits, an MLP on breast cancer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import nn

__all__ = ["Trained", "breast_cancer", "digits", "overfit_tanh", "train"]


@dataclass(frozen=True)
class Trained:
    """A trained network with inputs that it did not see.

    Attributes:
        name: of the row in a table.
        network: logits from (n, *shape), in evaluation mode.
        x: (n, *shape) inputs, float32.
        y: (n,) labels.
        lower, upper: bounds of the inputs.
    """

    name: str
    network: nn.Module
    x: np.ndarray
    y: np.ndarray
    lower: float | None
    upper: float | None


def digits(inputs: int, seed: int = 0, width: int = 8) -> Trained:
    """The digits of scikit-learn, 8 x 8 scaled up to 28 x 28, pixels in [0, 1]; dropout before the last layer."""
    images, labels = load_digits(return_X_y=True)
    small = torch.tensor(images.reshape(-1, 1, 8, 8) / 16.0, dtype=torch.float32)
    x = nn.functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, width, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(50 * width, 10),
    )
    test = train(network, x, labels, epochs=6)[:inputs]
    return Trained("digits", network, x.numpy()[test], labels[test].astype(np.int64), 0.0, 1.0)


@lru_cache(maxsize=1)
def overfit_tanh() -> nn.Module:
    """On the same digits: tanh layers trained long after every label fits, so that they saturate."""
    images, labels = load_digits(return_X_y=True)
    small = torch.tensor(images.reshape(-1, 1, 8, 8) / 16.0, dtype=torch.float32)
    x = nn.functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)]
    network = nn.Sequential(*layers)
    train(network, 4 * x, labels, epochs=60)
    return nn.Sequential(Times(4.0), network).eval()


class Times(nn.Module):
    """A number times the input."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def breast_cancer(inputs: int, seed: int = 0, width: int = 32) -> Trained:
    """The breast cancer table of scikit-learn, standardised."""
    table, labels = load_breast_cancer(return_X_y=True)
    x = torch.tensor((table - table.mean(axis=0)) / table.std(axis=0), dtype=torch.float32)
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(30, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 2)
    )
    test = train(network, x, labels, epochs=6)[:inputs]
    return Trained("breast_cancer", network, x.numpy()[test], labels[test].astype(np.int64), None, None)


def train(network: nn.Module, x: torch.Tensor, labels: np.ndarray, epochs: int) -> np.ndarray:
    """Train on half; return the positions of the other half, in random order."""
    y = torch.tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(x))
    fit, test = order[: len(x) // 2], order[len(x) // 2 :]
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for batch in torch.split(fit[torch.randperm(len(fit))], 32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimiser.step()
    network.eval()
    return test.numpy()
