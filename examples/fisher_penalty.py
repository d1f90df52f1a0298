"""Training with ``fisher_penalty``: the spectral norm goes down, the adversarial distance up, the accuracy stays.

    python examples/fisher_penalty.py [--epochs 20] [--weight 0.3]

A small convolutional network on scikit-learn's digits, with and without the penalty on tr F. Adversarial distance:
the smallest l2 norm on a ladder at which projected gradient descent changes the decision, median over test inputs.
The mean and the 95th percentile of lambda go down; its median can go up, because a network without the penalty
saturates, and lambda is nearly 0 where an answer is certain, however close the next decision lies.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from fimaudit.training import fisher_penalty

LADDER = np.geomspace(0.1, 3.2, 21)


def digits() -> tuple[torch.Tensor, ...]:
    """Images (n, 1, 8, 8) in [0, 1] and labels, training and test."""
    data = load_digits()
    x = (data.images[:, None] / 16).astype(np.float32)
    parts = train_test_split(x, data.target, test_size=400, random_state=0, stratify=data.target)
    return tuple(torch.as_tensor(part) for part in parts)


def train(x: torch.Tensor, y: torch.Tensor, epochs: int, weight: float) -> nn.Module:
    """The same start, the same batches; ``weight`` times the penalty is added to the loss."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GELU(), nn.Flatten(),
        nn.Linear(512, 10),
    )  # fmt: skip
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            loss = nn.functional.cross_entropy(network(x[rows]), y[rows])
            if weight:
                loss = loss + weight * fisher_penalty(network, x[rows], generator=generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval()


def spectral_norms(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Exact lambda of each input from the Jacobian of the logits."""
    point = x.clone().requires_grad_(True)
    z = network(point)
    rows = [torch.autograd.grad(z[:, k].sum(), point, retain_graph=True)[0].flatten(1) for k in range(z.shape[1])]
    p = z.softmax(1).detach()
    root = torch.diag_embed(p.sqrt()) - p.sqrt()[:, :, None] * p[:, None, :]
    return torch.linalg.matrix_norm(root @ torch.stack(rows, dim=1), 2).square()


def adversarial_distance(network: nn.Module, x: torch.Tensor, steps: int = 12) -> torch.Tensor:
    """Smallest radius of the ladder at which l2 projected gradient descent changes the decision of each input."""
    decision = network(x).argmax(1)
    found = torch.full((len(x),), float(LADDER[-1]) * 2)
    for radius in LADDER[::-1]:
        moved = torch.zeros_like(x)
        changed = torch.zeros(len(x), dtype=torch.bool)
        for _ in range(steps):
            point = (x + moved).requires_grad_(True)
            loss = nn.functional.cross_entropy(network(point), decision, reduction="sum")
            (up,) = torch.autograd.grad(loss, point)
            moved = moved + 0.4 * radius * up / up.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            moved = moved * (radius / moved.flatten(1).norm(dim=1).clamp_min(1e-12)).clamp(max=1.0).view(-1, 1, 1, 1)
            changed |= network(x + moved).argmax(1) != decision
        found[changed] = float(radius)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--weight", type=float, default=0.3, help="of the penalty")
    parser.add_argument("--attacked", type=int, default=150, help="test inputs for the adversarial distance")
    arguments = parser.parse_args()
    x, test_x, y, test_y = digits()
    print(f"{'training':16} {'accuracy':>8} {'mean lambda':>11} {'p95 lambda':>11} {'adversarial distance':>21}")
    for weight in (0.0, arguments.weight):
        network = train(x, y, arguments.epochs, weight)
        accuracy = (network(test_x).argmax(1) == test_y).float().mean().item()
        values = spectral_norms(network, test_x)
        distance = adversarial_distance(network, test_x[: arguments.attacked]).median().item()
        mean, high = values.mean().item(), values.quantile(0.95).item()
        label = "fisher_penalty" if weight else "plain"
        print(f"{label:16} {accuracy:8.1%} {mean:11.3g} {high:11.3g} {distance:21.3g}", flush=True)


if __name__ == "__main__":
    main()
