"""Black-box spectral norms of a torch network, and the share of the time that its forward pass takes.

    python benchmarks/blackbox.py [--inputs 256] [--size 224] [--classes 1000] [--queries 200] [--device cuda] [--json FILE]

A ResNet-50-shaped network with random weights (bottleneck blocks 3, 4, 6, 3). On a GPU the directions are unpacked on the
device. Without one, the default is smaller. JSON: *device*, *inputs*, *seconds_an_input*, *forward_share* (time of as many
rows through the network alone, already on its device, over the audit's time; same run, the audit's batch size).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # benchmarks/http.py would hide the standard library's http

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from fimaudit import audit, open_classifier  # noqa: E402
from fimaudit.models.meter import Meter  # noqa: E402


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = inputs == outputs and stride == 1
        self.short = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Body plus shortcut."""
        return torch.relu(self.body(x) + self.short(x))


def resnet50(classes: int) -> nn.Module:
    """The shape of ResNet-50, random weights."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(count):
            layers.append(Bottleneck(inputs, width, stride if i == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)).eval()


def forward_seconds(network: nn.Module, shape: tuple[int, ...], rows: int, batch: int, device: str) -> float:
    """Time of ``rows`` rows through the network alone."""
    x = torch.rand((batch, *shape), device=device)

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    with torch.no_grad():
        network(x)
        wait()
        start = time.perf_counter()
        for first in range(0, rows, batch):
            network(x[: min(batch, rows - first)])
        wait()
    return time.perf_counter() - start


def main() -> None:
    """Print the figures."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=256 if gpu else 1)
    parser.add_argument("--size", type=int, default=224 if gpu else 64)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    network = resnet50(options.classes).to(options.device)
    shape = (3, options.size, options.size)
    x = np.random.default_rng(0).random((options.inputs, *shape), dtype=np.float32)
    classifier = open_classifier(network, link="softmax", device=options.device)
    audit(classifier, x[:1], queries=20, mode="black-box")  # warm up
    start = time.perf_counter()
    report = audit(classifier, x, queries=options.queries, mode="black-box")
    seconds = time.perf_counter() - start
    batch = Meter(classifier).batch_rows(x[0].nbytes)
    alone = forward_seconds(network, shape, report.summary.queries, batch, options.device)
    figures = {
        "device": options.device,
        "inputs": options.inputs,
        "rows": report.summary.queries,
        "batch": batch,
        "seconds_an_input": seconds / options.inputs,
        "forward_share": alone / seconds,
    }
    for name, value in figures.items():
        print(f"{name:18} {value:.4g}" if isinstance(value, float) else f"{name:18} {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
