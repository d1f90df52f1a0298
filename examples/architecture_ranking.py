"""What the architecture says about sensitivity, beside what is measured: VGG, ResNet, DenseNet and Transformer on digits.

    python examples/architecture_ranking.py [--epochs 25]

Each family is trained twice: plainly, and with a penalty on the logs of its layers' spectral norms. The table shows
test accuracy, the Lipschitz bound L_z of the logits, the median over test inputs of the local bound c(p) L_z^2 and of
the measured spectral norm lambda of the Fisher information, and their ratio; then the rank correlation. The order of
upper bounds is not the order of true
sensitivities: that is what the two columns are for.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from fimaudit.bounds import lipschitz_bound
from fimaudit.bounds.families import DenseNet, ResNet, VisionTransformer, vgg

FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "VGG": lambda: vgg([[12, 12], [24]], [32], 10, channels=1, size=8),
    "ResNet": lambda: ResNet([1, 1], 12, 10, channels=1),
    "DenseNet": lambda: DenseNet([3, 3], 8, 10, channels=1),
    "Transformer": lambda: VisionTransformer(8, 2, 24, 2, 2, 10, channels=1, pool="mean"),
}


def digits() -> tuple[torch.Tensor, ...]:
    """Images (n, 1, 8, 8) in [0, 1] and labels, training and test."""
    data = load_digits()
    x = (data.images[:, None] / 16).astype(np.float32)
    parts = train_test_split(x, data.target, test_size=400, random_state=0, stratify=data.target)
    return tuple(torch.as_tensor(part) for part in parts)


def spectral_penalty(network: nn.Module) -> torch.Tensor:
    """Sum of the logs of the weights' spectral norms, channels against all else: what L_z is a product of."""
    weights = [parameter.flatten(1) for parameter in network.parameters() if parameter.ndim in (2, 4)]
    return torch.stack([torch.linalg.matrix_norm(weight, 2).log() for weight in weights]).sum()


def train(network: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, weight: float) -> nn.Module:
    """Adam on cross-entropy plus ``weight`` times the spectral penalty."""
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        network.train()
        for rows in torch.randperm(len(x), generator=generator).split(64):
            loss = nn.functional.cross_entropy(network(x[rows]), y[rows])
            if weight:
                loss = loss + weight * spectral_penalty(network)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval()


def spectral_norms(network: nn.Module, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Exact lambda of each input from the Jacobian of the logits, and the probabilities."""
    point = x.clone().requires_grad_(True)
    z = network(point)
    rows = [torch.autograd.grad(z[:, k].sum(), point, retain_graph=True)[0].flatten(1) for k in range(z.shape[1])]
    jacobian, p = torch.stack(rows, dim=1).double(), z.softmax(1).detach().double()
    root = torch.diag_embed(p.sqrt()) - p.sqrt()[:, :, None] * p[:, None, :]
    return torch.linalg.matrix_norm(root @ jacobian, 2).square().numpy(), p.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--weight", type=float, default=0.02, help="of the spectral penalty")
    parser.add_argument("--train", type=int, default=None, metavar="N", help="train on the first N digits only")
    arguments = parser.parse_args()
    x, test_x, y, test_y = digits()
    x, y = x[: arguments.train], y[: arguments.train]
    print(f"{'network':24} {'accuracy':>8} {'L_z':>10} {'local bound':>12} {'measured':>10} {'ratio':>10}")
    local, measured = [], []
    for name, make in FAMILIES.items():
        for weight in (0.0, arguments.weight):
            torch.manual_seed(0)
            network = train(make(), x, y, arguments.epochs, weight)
            accuracy = (network(test_x).argmax(1) == test_y).float().mean().item()
            bound = lipschitz_bound(network, input_shape=(1, 8, 8))
            values, p = spectral_norms(network, test_x)
            local.append(float(np.median(bound.local_spectral_norm_bound(p))))
            measured.append(float(np.median(values)))
            label = f"{name}, regularised" if weight else name
            numbers = f"{bound.lipschitz:10.3g} {local[-1]:12.3g} {measured[-1]:10.3g} {local[-1] / measured[-1]:10.3g}"
            print(f"{label:24} {accuracy:8.1%} {numbers}", flush=True)
    print(f"rank correlation of local bound and measured value: {spearmanr(local, measured).statistic:.2f}")
    shrunk = sum(after < before for before, after in zip(local[::2], local[1::2], strict=True))
    print(f"the penalty lowered the bound of {shrunk} of {len(FAMILIES)} networks")


if __name__ == "__main__":
    main()
