"""The four families as small torch modules with the structure of the published ones: VGG, ResNet, DenseNet, pre-norm
vision transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["DenseNet", "ResNet", "VisionTransformer", "vgg"]


def vgg(
    stages: Sequence[Sequence[int]], dense: Sequence[int], classes: int, channels: int = 3, size: int = 32, norm: bool = True
) -> nn.Sequential:
    """3 x 3 convolutions in stages, each ended by a 2 x 2 max-pool, then dense layers.

    >>> vgg([[4], [8]], [16], 10, channels=1, size=8)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    layers: list[nn.Module] = []
    for stage in stages:
        for width in stage:
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] if norm else []
            layers.append(nn.ReLU())
            channels = width
        layers.append(nn.MaxPool2d(2))
    inputs = channels * (size // 2 ** len(stages)) ** 2
    layers.append(nn.Flatten())
    for width in dense:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


class _Residual(nn.Module):
    """Two 3 x 3 layers, or a bottleneck of 1 x 1, 3 x 3 and 1 x 1."""

    def __init__(self, inputs: int, outputs: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        middle = outputs // 4 if bottleneck else outputs
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        widths = (inputs, *[middle] * (len(kernels) - 1), outputs)
        layers: list[nn.Module] = []
        for i, kernel in enumerate(kernels):
            step = stride if i == len(kernels) - 2 else 1  # the 3 x 3 of a bottleneck, the first of two
            layers += [
                nn.Conv2d(widths[i], widths[i + 1], kernel, step, kernel // 2, bias=False),
                nn.BatchNorm2d(widths[i + 1]),
                nn.ReLU(),
            ]
        self.branch = nn.Sequential(*layers[:-1])
        plain = inputs == outputs and stride == 1
        self.shortcut: nn.Module = nn.Identity()
        if not plain:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.shortcut(x) + self.branch(x))


def _stem(channels: int, width: int, large: bool) -> list[nn.Module]:
    kernel, stride = (7, 2) if large else (3, 1)
    return [nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)]


class _Convolutional(nn.Module):
    """Stem, blocks, global average, dense layer."""

    stem: nn.Module
    blocks: nn.Module
    head: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))
        return logits


class ResNet(_Convolutional):
    """Stem, stages of residual blocks, global average, dense layer.

    >>> ResNet([1, 1], 4, 10, channels=1)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        blocks: Sequence[int],
        width: int,
        classes: int,
        channels: int = 3,
        bottleneck: bool = False,
        large: bool = False,
    ) -> None:
        super().__init__()
        stem = [*_stem(channels, width, large), nn.BatchNorm2d(width), nn.ReLU()]
        stem += [nn.MaxPool2d(3, 2, 1)] if large else []
        self.stem = nn.Sequential(*stem)
        layers: list[nn.Module] = []
        inputs, outputs = width, width * (4 if bottleneck else 1)
        for stage, count in enumerate(blocks):
            for block in range(count):
                layers.append(_Residual(inputs, outputs, 2 if stage and not block else 1, bottleneck))
                inputs = outputs
            outputs *= 2
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)


class _Dense(nn.Module):
    """Norm, ReLU and convolution (with a 1 x 1 bottleneck where asked), concatenated to the input."""

    def __init__(self, inputs: int, growth: int, bottleneck: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm2d(inputs), nn.ReLU()]
        if bottleneck:
            layers += [nn.Conv2d(inputs, 4 * growth, 1, bias=False), nn.BatchNorm2d(4 * growth), nn.ReLU()]
            inputs = 4 * growth
        self.branch = nn.Sequential(*layers, nn.Conv2d(inputs, growth, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], dim=1)


class DenseNet(_Convolutional):
    """Stem, dense blocks with transitions that halve channels and size between them, global average, dense layer.

    >>> DenseNet([2, 2], 4, 10, channels=1)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        blocks: Sequence[int],
        growth: int,
        classes: int,
        channels: int = 3,
        bottleneck: bool = False,
        large: bool = False,
    ) -> None:
        super().__init__()
        width = 2 * growth
        stem = _stem(channels, width, large)
        stem += [nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)] if large else []
        self.stem = nn.Sequential(*stem)
        layers: list[nn.Module] = []
        for stage, count in enumerate(blocks):
            if stage:
                layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
                width //= 2
            for _ in range(count):
                layers.append(_Dense(width, growth, bottleneck))
                width += growth
        self.blocks = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, classes)


class _Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.output = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width, bias=bias)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        parts = self.project(self.norm1(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.output(mixed)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class VisionTransformer(nn.Module):
    """Patch embedding, class token, learned positions, pre-norm blocks, last norm, dense layer on the class token or
    the mean.

    >>> VisionTransformer(8, 2, 16, 2, 2, 10, channels=1)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        size: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        classes: int,
        channels: int = 3,
        pool: Literal["token", "mean"] = "token",
        bias: bool = True,
    ) -> None:
        super().__init__()
        tokens = (size // patch) ** 2 + (pool == "token")
        self.pool = pool
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width) / math.sqrt(width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.blocks = nn.Sequential(*[_Block(width, heads, 4 * width, bias) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        if self.pool == "token":
            x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        x = self.norm(self.blocks(x + self.positions))
        logits: Tensor = self.head(x[:, 0] if self.pool == "token" else x.mean(dim=1))
        return logits
