"""Bounds from the weights: how tight the layers' norms are, and bound, measured value, ratio and seconds for a zoo.

    python benchmarks/bounds.py [--json FILE] [--quick] [--only resnet]

JSON: *tightness* (norm over the dense matrix's norm: median and maximum a group of random layers) and *zoo* (for each
network L_z, the bound L_z^2 / 2 on lambda, the largest measured lambda, their ratio, the same for the local bound,
seconds). ResNet-50, DenseNet-121, VGG-16 and ViT-B/16 have random weights, or those of torchvision where it is
installed and its weights are already on disk. ``--quick`` leaves the large ones out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: a file in it shares its name with a module of Python's

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fimaudit.bounds import lipschitz_bound
from fimaudit.bounds.families import DenseNet, ResNet, VisionTransformer, vgg
from fimaudit.bounds.norms.convolution import conv_norm
from fimaudit.bounds.norms.matrix import spectral_norm_upper

VGG16 = [[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3]
Case = tuple[str, Callable[[], nn.Module], tuple[int, ...]]


def dense_norm(function: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]) -> float:
    basis = torch.eye(int(np.prod(shape)), dtype=torch.float64).reshape(-1, *shape)
    return float(torch.linalg.matrix_norm(function(basis).flatten(1), 2))


def conv_ratio(rng: np.random.Generator, kernel: int, size: int, stride: int, circular: bool) -> float:
    channels = (int(rng.integers(1, 5)), int(rng.integers(1, 5)))
    weight = rng.standard_normal((*channels, kernel, kernel))
    weight = np.abs(weight) if rng.random() < 0.3 else weight
    around, mode = [kernel // 2] * 4, "circular" if circular else "constant"
    truth = dense_norm(
        lambda x: functional.conv2d(functional.pad(x, around, mode=mode), torch.as_tensor(weight), stride=stride),
        (channels[1], size, size),
    )
    pads = [(kernel // 2, kernel // 2)] * 2
    return conv_norm(weight, (size, size), stride=(stride, stride), padding=pads, circular=circular) / truth


def tightness(draws: int = 40) -> Iterator[tuple[str, list[float]]]:
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal(tuple(int(n) for n in rng.integers(1, 200, 2))) for _ in range(draws)]
    yield "dense", [spectral_norm_upper(m) / float(np.linalg.norm(m, 2)) for m in matrices]
    for kernel in (3, 5):
        sizes = [int(n) for n in rng.integers(8, 15, draws)]
        yield f"circular, k={kernel}", [conv_ratio(rng, kernel, n, 1, True) for n in sizes]
        yield f"zero-padded, k={kernel}", [conv_ratio(rng, kernel, n, 1, False) for n in sizes]
        yield f"zero-padded, k={kernel}, stride 2", [conv_ratio(rng, kernel, n, 2, False) for n in sizes]
    from fimaudit.bounds.norms import convolution as module

    kept = module.SMALL_KERNEL_WORK, module.LARGE_KERNEL_WORK
    module.SMALL_KERNEL_WORK = module.LARGE_KERNEL_WORK = 0.0
    for kernel in (3, 5):
        for stride in (1, 2):
            name = f"zero-padded, k={kernel}, stride {stride}, large-layer path"
            yield name, [conv_ratio(rng, kernel, n, stride, False) for n in sizes]
    module.SMALL_KERNEL_WORK, module.LARGE_KERNEL_WORK = kept


def setup(network: nn.Module, batch: torch.Tensor) -> nn.Module:
    """Batch norms take the statistics of a batch, so that random weights do not explode."""
    network.train()
    with torch.no_grad():
        for _ in range(10):
            network(batch)
    return network.eval()


def measured(network: nn.Module, x: torch.Tensor, steps: int) -> tuple[float, float]:
    """lambda at one input by power steps of F = J^T (diag p - p p^T) J, and p_max."""
    point = x.detach().requires_grad_(True)
    z = network(point)[0]
    p = z.softmax(0).detach()
    dummy = torch.zeros_like(z, requires_grad=True)
    (linear,) = torch.autograd.grad(z, point, grad_outputs=dummy, create_graph=True)
    v, size = torch.randn_like(x), 0.0
    for _ in range(steps):
        v = v / v.norm()
        (pushed,) = torch.autograd.grad(linear, dummy, grad_outputs=v, retain_graph=True)
        (v,) = torch.autograd.grad(z, point, grad_outputs=p * pushed - p * (p @ pushed), retain_graph=True)
        size = float(v.norm())
    return size, float(p.max())


def zoo(quick: bool) -> Iterator[Case]:
    yield "VGG, 32x32", lambda: vgg([[16, 16], [32, 32]], [64], 10), (3, 32, 32)
    yield "ResNet, 32x32", lambda: ResNet([2, 2, 2], 16, 10), (3, 32, 32)
    yield "DenseNet, 32x32", lambda: DenseNet([4, 4, 4], 12, 10), (3, 32, 32)
    yield "ViT, 32x32", lambda: VisionTransformer(32, 4, 64, 4, 4, 10), (3, 32, 32)
    if quick:
        return
    large = (3, 224, 224)
    yield "ResNet-50", lambda: ResNet([3, 4, 6, 3], 64, 1000, bottleneck=True, large=True), large
    yield "DenseNet-121", lambda: DenseNet([6, 12, 24, 16], 32, 1000, bottleneck=True, large=True), large
    yield "ViT-B/16", lambda: VisionTransformer(224, 16, 768, 12, 12, 1000), large
    yield "VGG-16", lambda: vgg(VGG16, [4096, 4096], 1000, size=224, norm=False), large
    if find_spec("torchvision"):
        from torchvision import models

        for name in ("resnet18", "resnet50", "densenet121", "vgg16", "vit_b_16"):
            yield f"torchvision {name}", lambda name=name: _torchvision(models, name), large  # type: ignore[misc]


def _torchvision(models: Any, name: str) -> nn.Module:
    weights = models.get_model_weights(name).DEFAULT
    on_disk = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    made: nn.Module = models.get_model(name, weights=weights if on_disk.exists() else None)
    return made


def measure_network(name: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> dict[str, Any]:
    torch.manual_seed(0)
    large = shape[-1] > 100
    network = make() if name.startswith("torchvision") else setup(make(), torch.rand(4 if large else 32, *shape))
    network.eval().requires_grad_(False)
    started = time.process_time()
    bound = lipschitz_bound(network, input_shape=shape)
    busy = time.process_time() - started
    seen = []
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for _ in range(1 if large else 5):
            seen.append(measured(network, torch.rand(1, *shape), 5 if large else 15))
    top, p_max = max(seen)
    local = bound.lipschitz**2 * min(0.5, p_max, 2 * (1 - p_max))
    return {
        "network": name,
        "lipschitz": bound.lipschitz,
        "bound": bound.spectral_norm_bound,
        "measured": top,
        "ratio": bound.spectral_norm_bound / top,
        "local_ratio": local / top,
        "seconds": bound.seconds,
        "cpu_seconds": busy,
        "heaviest": bound.heaviest.name if bound.heaviest else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help="part of the name of the networks to measure")
    parser.add_argument("--quick", action="store_true", help="leave out the networks for 224 x 224 images")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"tightness": {}, "zoo": []}
    print(f"{'layer norm / dense matrix':48} {'median':>9} {'maximum':>9}")
    for name, ratios in tightness():
        figures["tightness"][name] = {"median": float(np.median(ratios)), "max": max(ratios), "min": min(ratios)}
        print(f"{name:48} {np.median(ratios):9.4f} {max(ratios):9.4f}", flush=True)
    print(f"\n{'network':22} {'L_z':>10} {'L_z^2/2':>10} {'measured':>10} {'ratio':>10} {'seconds':>8} {'cpu s':>8}")
    for name, make, shape in zoo(arguments.quick):
        if arguments.only and arguments.only.lower() not in name.lower():
            continue
        start = time.perf_counter()
        row = measure_network(name, make, shape)
        figures["zoo"].append(row | {"seconds_in_all": time.perf_counter() - start})
        numbers = " ".join(f"{row[key]:10.3g}" for key in ("lipschitz", "bound", "measured", "ratio"))
        print(f"{name:22} {numbers} {row['seconds']:8.1f} {row['cpu_seconds']:8.1f}", flush=True)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
