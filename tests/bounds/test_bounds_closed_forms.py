"""The closed forms of the four families against the recursion over the graph, layer norms taken from the weights by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from fimaudit.bounds import lipschitz_bound
from fimaudit.bounds.closed_forms import (
    attention_sublayer_lipschitz,
    densenet_lipschitz,
    gaussian_layer_norm,
    mlp_sublayer_lipschitz,
    resnet_lipschitz,
    transformer_lipschitz,
    uniform_growth,
    vgg_lipschitz,
)
from fimaudit.bounds.families import DenseNet, ResNet, VisionTransformer, vgg
from fimaudit.bounds.norms.convolution import conv_norm
from fimaudit.bounds.norms.matrix import spectral_norm_upper

SIZE = 8


def disturbed(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            if name.endswith("running_var"):
                value.uniform_(0.3, 2.0)
            elif value.is_floating_point():
                value.add_(0.1 * torch.randn_like(value))
    return network.eval()


def gain(norm: nn.BatchNorm2d) -> np.ndarray:  # type: ignore[type-arg]
    return (norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()).detach().numpy()


def conv(layer: nn.Conv2d, size: int, norm: nn.BatchNorm2d | None = None) -> float:
    weight = layer.weight.detach().double().numpy()
    if norm is not None:
        weight = weight * gain(norm)[:, None, None, None]
    pads = [(p, p) for p in layer.padding]
    return conv_norm(weight, (size, size), stride=layer.stride, padding=pads)


def dense(layer: nn.Linear) -> float:
    return spectral_norm_upper(layer.weight.detach().double().numpy())


def vgg_form() -> tuple[nn.Module, float]:
    net = disturbed(vgg([[4, 5], [6]], [9], 10, channels=1, size=SIZE))
    convs = [(i, SIZE // (1 if i < 6 else 2)) for i, part in enumerate(net) if isinstance(part, nn.Conv2d)]
    norms = [conv(net[i], size, net[i + 1]) for i, size in convs] + [dense(p) for p in net if isinstance(p, nn.Linear)]
    return net, vgg_lipschitz(norms, pool=1.0, pools=2)


def resnet_form() -> tuple[nn.Module, float]:
    net = disturbed(ResNet([2, 1], 4, 10, channels=1))
    blocks, size = [], SIZE
    for block in net.blocks:
        first, second = block.branch[0], block.branch[3]
        after = size // first.stride[0]
        branch = (conv(first, size, block.branch[1]), conv(second, after, block.branch[4]))
        plain = isinstance(block.shortcut, nn.Identity)
        blocks.append((branch, 1.0 if plain else conv(block.shortcut[0], size, block.shortcut[1])))
        size = after
    return net, resnet_lipschitz(conv(net.stem[0], SIZE, net.stem[1]), blocks, dense(net.head) / size)


def densenet_form() -> tuple[nn.Module, float]:
    net = disturbed(DenseNet([2, 2], 3, 10, channels=1))
    with torch.no_grad():  # right after the stem: folded into it, this norm would make the recursion the tighter one
        net.blocks[0].branch[0].weight.fill_(1.2)
        net.blocks[0].branch[0].running_var.fill_(0.9)
    blocks: list[list[float]] = [[]]
    transitions, size = [], SIZE
    parts = list(net.blocks)
    for i, part in enumerate(parts):
        if type(part).__name__ == "_Dense":
            norm, _, layer = part.branch
            blocks[-1].append(float(np.abs(gain(norm)).max()) * conv(layer, size))
        elif isinstance(part, nn.Conv2d):
            transitions.append(float(np.abs(gain(parts[i - 2])).max()) * conv(part, size) / 2)  # average over 2 x 2
            blocks.append([])
            size //= 2
    head = float(np.abs(gain(parts[-2])).max()) * dense(net.head) / size
    return net, densenet_lipschitz(conv(net.stem[0], SIZE), blocks, transitions, head)


def transformer_form() -> tuple[nn.Module, float]:
    width, tokens = 6, 16
    net = disturbed(VisionTransformer(SIZE, 2, width, 2, 1, 10, channels=1, pool="mean", bias=False))
    centre = np.eye(width) - 1.0 / width
    blocks = []
    for block in net.blocks:
        with torch.no_grad():
            block.norm1.bias.zero_()  # the closed form has no bias on the queries
        matrix = block.project.weight.detach().double().numpy() * block.norm1.weight.detach().double().numpy()
        q, k, v = (part @ centre for part in np.split(matrix, 3))
        form = spectral_norm_upper(k.T @ q) / math.sqrt(width)
        attention = attention_sublayer_lipschitz(width, tokens, form, spectral_norm_upper(v), dense(block.output))
        first = block.mlp[0].weight.detach().double().numpy() * block.norm2.weight.detach().double().numpy()
        blocks.append((attention, mlp_sublayer_lipschitz(spectral_norm_upper(first), dense(block.mlp[2]))))
    last = net.norm.weight.detach().abs().max().item() / math.sqrt(net.norm.eps)
    return net, transformer_lipschitz(conv(net.embed, SIZE), blocks, last / math.sqrt(tokens) * dense(net.head))


@pytest.mark.parametrize("make", [vgg_form, resnet_form, densenet_form, transformer_form])
def test_recursion_gives_the_closed_form(make: Callable[[], tuple[nn.Module, float]]) -> None:
    torch.manual_seed(0)
    network, closed = make()
    bound = lipschitz_bound(network, input_shape=(1, SIZE, SIZE))
    assert bound.lipschitz == pytest.approx(closed, rel=5e-4)


def test_equal_layers_grow_as_the_closed_forms_of_depth() -> None:
    s, depth = 0.8, 6
    assert uniform_growth("vgg", depth, s) == pytest.approx(vgg_lipschitz([s] * depth))
    assert uniform_growth("resnet", depth, s) == pytest.approx(resnet_lipschitz(1.0, [((s, s), 1.0)] * 3, 1.0))
    assert uniform_growth("densenet", depth, s) == pytest.approx(densenet_lipschitz(1.0, [[s] * depth], [], 1.0))
    assert uniform_growth("transformer", depth, s) == pytest.approx(transformer_lipschitz(1.0, [(s, s)] * 3, 1.0))
    with pytest.raises(ValueError, match="expected one of vgg"):
        uniform_growth("mixer", 2, 1.0)


def test_width_enters_through_the_ratio_of_widths() -> None:
    rng = np.random.default_rng(0)
    for inputs, outputs in ((200, 200), (400, 100)):
        seen = np.linalg.norm(rng.standard_normal((outputs, inputs)) * math.sqrt(2 / inputs), 2)
        assert seen == pytest.approx(gaussian_layer_norm(inputs, outputs), rel=0.05)
