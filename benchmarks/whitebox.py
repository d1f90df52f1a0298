"""White box against the published way and torch's dense Jacobian: same model, same inputs, same threads, interleaved.

    python benchmarks/whitebox.py [--json FILE] [--repeats 5] [--crossover]

Columns: seconds an input, the same in forward passes (no gradients, same batch size as ours), lambda over the exact one
(median and farthest). Each time is the minimum over the repeats, after one warm-up.

The published way is written from its description (arXiv 2606.04767): one input at a time, K backward passes with gradients
on every parameter, Q of shape d x K with columns sqrt(p_k) grad log p_k, then the maximum of 100 random Rayleigh quotients
of Q^T Q; and its power iteration on the same Q.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The networks come from tests/; this folder leaves the path, because a file in it shares its name with a module of Python's.
sys.path[0] = str(Path(__file__).resolve().parent.parent / "tests")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from zoo import ResNet, calibrated  # noqa: E402

from fimaudit.models.opening import open_classifier  # noqa: E402
from fimaudit.whitebox.measure import WhiteBox, exact_reference, measure  # noqa: E402

#: Batches of ours, and inputs of the ways that take one at a time.
BATCH, SINGLE = 16, 2


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 with a shortcut: the block of a ResNet-50."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        self.inner = nn.Sequential(
            nn.Conv2d(before, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        same = stride == 1 and before == after
        short = [nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)]
        self.short = nn.Identity() if same else nn.Sequential(*short)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.inner(x) + self.short(x))


class ResNet50(nn.Module):
    """A network of ResNet-50's size: 25.6 million parameters, 224 x 224 inputs, 1000 classes."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        layers.append(nn.MaxPool2d(3, 2, 1))
        before = 64
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                layers.append(Bottleneck(before, 64 * 2**stage, 2 if stage and block == 0 else 1))
                before = 256 * 2**stage
        self.body, self.head = nn.Sequential(*layers), nn.Linear(before, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(x).mean((2, 3)))
        return out


def published_rows(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Q^T, (K, d), by K backward passes that also accumulate the gradients of the parameters."""
    x = x[None].clone().requires_grad_(True)
    logs = network(x).log_softmax(1)[0]
    rows = []
    for log_p in logs:
        x.grad = None
        log_p.backward(retain_graph=True)
        assert x.grad is not None
        rows.append(x.grad.flatten() * torch.exp(log_p.detach() / 2))
    network.zero_grad()
    return torch.stack(rows)


def published_rayleigh(network: nn.Module, x: torch.Tensor) -> float:
    """Maximum of 100 random Rayleigh quotients."""
    q = published_rows(network, x)
    v = torch.randn(100, len(q), device=q.device)
    v /= v.norm(dim=1, keepdim=True)
    return float((v @ q).square().sum(1).max())


def published_power(network: nn.Module, x: torch.Tensor, steps: int = 100) -> float:
    """Its power iteration on Q^T Q."""
    q = published_rows(network, x)
    v = torch.randn(len(q), device=q.device)
    for _ in range(steps):
        v = q @ (q.mT @ (v / v.norm()))
    return float(v.norm())


def dense_jacobian(network: nn.Module, x: torch.Tensor) -> float:
    """torch's own Jacobian of the log-probabilities, then the top singular value."""
    rows = torch.autograd.functional.jacobian(lambda v: network(v[None])[0].log_softmax(0), x).flatten(1)
    with torch.no_grad():
        p = network(x[None])[0].softmax(0)
    return float(torch.linalg.eigvalsh((rows * p.sqrt()[:, None]) @ (rows * p.sqrt()[:, None]).mT)[-1])


def compare(
    network: nn.Module, x: torch.Tensor, *, tolerance: float, repeats: int, only_ours: bool = False
) -> dict[str, Any]:
    """Seconds an input and lambda of every way, interleaved."""
    device = x.device
    network.to(device)
    array = x.cpu().numpy()
    model: Any = open_classifier(network, "softmax", device=str(device))
    rows = model.derivative_rows(array[0].nbytes)

    def ours(**options: Any) -> Callable[[], list[float]]:
        def run() -> list[float]:
            found: list[WhiteBox] = measure(model, array, tolerance=tolerance, **options)
            return [one.spectral_norm for one in found]

        return run

    def forward() -> list[float]:
        with torch.no_grad():
            for start in range(0, len(x), rows):
                network(x[start : start + rows])
        return []

    def one_by_one(way: Callable[[nn.Module, torch.Tensor], float]) -> Callable[[], list[float]]:
        return lambda: [way(network, single) for single in x[:SINGLE]]

    ways: dict[str, tuple[Callable[[], list[float]], int]] = {
        "forward pass": (forward, len(x)),
        "ours, everything": (ours(method="lanczos"), len(x)),
        "ours, norm alone": (ours(method="lanczos", norm_only=True), len(x)),
        "ours, K passes": (ours(method="gram"), len(x)),
        "published, 100 quotients": (one_by_one(published_rayleigh), SINGLE),
        "published, power": (one_by_one(published_power), SINGLE),
        "torch dense Jacobian": (one_by_one(dense_jacobian), SINGLE),
    }
    if only_ours:
        ways = {name: ways[name] for name in ("forward pass", "ours, everything", "ours, norm alone")}
    seconds = dict.fromkeys(ways, np.inf)
    values: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):
        for name, (run, inputs) in ways.items():
            _wait(device)
            began = time.perf_counter()
            values[name] = run()
            _wait(device)
            if repeat:
                seconds[name] = min(seconds[name], (time.perf_counter() - began) / inputs)
    exact = [one.spectral_norm for one in exact_reference(model, array[: 2 if only_ours else len(x)])]
    print(f"{'':26}{'s/input':>10}{'forwards':>10}{'median':>10}{'farthest':>10}")
    for name, took in seconds.items():
        ratios = [v / e for v, e in zip(values[name], exact, strict=False)]
        farthest = max(ratios, key=lambda r: abs(r - 1)) if ratios else float("nan")
        median = float(np.median(ratios)) if ratios else float("nan")
        print(f"{name:26}{took:10.4f}{took / seconds['forward pass']:10.1f}{median:10.5f}{farthest:10.5f}")
    worst = max(abs(v / e - 1) for v, e in zip(values["ours, everything"], exact, strict=False))
    return {"seconds": seconds, "worst": worst}


def crossover(device: torch.device, repeats: int) -> None:
    """Time of both methods over the number of classes: where they cross is ``whitebox.CROSSOVER``."""
    print(f"{'classes':>8}{'K passes':>10}{'Lanczos':>10}  forward passes")
    for classes in (8, 16, 32, 48, 64, 96, 128):
        network, x = _small(classes, device)
        model: Any = open_classifier(network, "softmax", device=str(device))
        array = x.cpu().numpy()
        took = {"forward": np.inf, "gram": np.inf, "lanczos": np.inf}
        for repeat in range(repeats + 1):
            for name in took:
                _wait(device)
                began = time.perf_counter()
                if name == "forward":
                    with torch.no_grad():
                        network(x)
                else:
                    measure(model, array, method=name)  # type: ignore[arg-type]
                _wait(device)
                if repeat:
                    took[name] = min(took[name], time.perf_counter() - began)
        print(f"{classes:8}{took['gram'] / took['forward']:10.1f}{took['lanczos'] / took['forward']:10.1f}")


def share_of_forward(network: nn.Module, device: torch.device) -> None:
    """Black-box lambda of 256 inputs at 200 queries, and the share of its time that the model's forward pass takes."""
    from fimaudit.models.classifier import DeviceClassifier
    from fimaudit.perturbations.random_signs import generator, packed_signs

    model: Any = open_classifier(network, "softmax", device=str(device))
    assert isinstance(model, DeviceClassifier)
    inputs = np.random.default_rng(0).random((256, 3, 224, 224), dtype=np.float32)
    d, step = inputs[0].size, np.full(inputs[0].shape, 0.01 / np.sqrt(inputs[0].size))
    rows = torch.rand(200, 3, 224, 224, device=device)

    def bare() -> None:
        with torch.no_grad():
            for _ in inputs:
                network(rows)

    def asked() -> None:
        for i, x in enumerate(inputs):
            bits = packed_signs(generator(0, i), 199, d)
            p = np.concatenate([model.probabilities(x[None]), model.displaced(x, bits, step, -np.inf, np.inf)])
            secants = (np.sqrt(p[1:]) - np.sqrt(p[0])) * (2 / step.flat[0])
            np.linalg.eigvalsh(secants @ secants.T)

    best = {}
    for name, run in (("bare", bare), ("asked", asked)):
        run()
        _wait(device)
        began = time.perf_counter()
        run()
        _wait(device)
        best[name] = time.perf_counter() - began
    print(f"256 inputs, 200 queries: {best['asked']:.1f} s, {best['bare'] / best['asked']:.0%} of it in the forward pass")


def _small(classes: int, device: torch.device) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    network = calibrated(ResNet(classes, width=16, blocks=3), torch.rand(64, 3, 32, 32))
    return network.to(device), torch.rand(BATCH, 3, 32, 32).to(device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--crossover", action="store_true", help="only time both methods over the number of classes")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(f"device: {name}")
    if options.crossover:
        crossover(device, options.repeats)
        return
    print("\nK = 100, residual network of 32 x 32 inputs, relative residual 1e-4")
    hundred = compare(*_small(100, device), tolerance=1e-4, repeats=options.repeats)
    print("\nK = 1000, the same network, relative residual 1e-3")
    thousand = compare(*_small(1000, device), tolerance=1e-3, repeats=options.repeats, only_ours=True)
    if device.type == "cuda":
        print("\nK = 1000, ResNet-50's size, 224 x 224 inputs, relative residual 1e-3")
        torch.manual_seed(0)
        large = calibrated(ResNet50().to(device), torch.rand(32, 3, 224, 224, device=device))
        compare(large, torch.rand(BATCH, 3, 224, 224, device=device), tolerance=1e-3, repeats=options.repeats)
        share_of_forward(large, device)
    seconds = hundred["seconds"]
    figures = {
        "speedup_published": seconds["published, 100 quotients"] / seconds["ours, everything"],
        "lambda_relative_difference": hundred["worst"],
        "forward_equivalents": thousand["seconds"]["ours, everything"] / thousand["seconds"]["forward pass"],
        "device": name,
    }
    print("\n" + json.dumps(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
