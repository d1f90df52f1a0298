"""Small networks of the four styles that the paper compares, with batch norm, concatenation and attention."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

__all__ = ["STYLES", "DenseNet", "ResNet", "VisionTransformer", "calibrated", "vgg", "zoo_network"]


def vgg(classes: int, width: int = 8) -> nn.Module:
    """Convolutions with batch norm, max pooling, two dense layers; inputs (3, 16, 16)."""
    layers: list[nn.Module] = []
    before = 3
    for channels in (width, 2 * width):
        for _ in range(2):
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
            before = channels
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(before * 16, 4 * width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4 * width, classes)]
    return nn.Sequential(*layers, *head)


class ResidualBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.short = nn.Sequential()
        if stride != 1 or before != after:
            self.short = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(inner)) + self.short(x))


class ResNet(nn.Module):
    """Stem, stages of residual blocks that halve the map and double the width, global average, one dense layer."""

    def __init__(self, classes: int, width: int = 8, blocks: int = 1, stages: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        layers, before = [], width
        for stage in range(stages):
            for block in range(blocks):
                layers.append(ResidualBlock(before, width * 2**stage, 2 if stage and block == 0 else 1))
                before = width * 2**stage
        self.stages = nn.Sequential(*layers)
        self.head = nn.Linear(before, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.stages(self.stem(x)).mean((2, 3)))
        return out


class DenseNet(nn.Module):
    """Dense blocks (each layer sees all before it, concatenated), an average-pooling transition between them."""

    def __init__(self, classes: int, growth: int = 6, layers: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, growth, 3, padding=1)
        channels, self.blocks = growth, nn.ModuleList()
        for _ in range(2):
            block = nn.ModuleList()
            for _ in range(layers):
                norm = nn.BatchNorm2d(channels)
                block.append(nn.Sequential(norm, nn.ReLU(), nn.Conv2d(channels, growth, 3, padding=1, bias=False)))
                channels += growth
            self.blocks.append(block)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            for layer in block:  # type: ignore[attr-defined]
                x = torch.cat([x, layer(x)], dim=1)
            x = functional.avg_pool2d(x, 2)
        out: torch.Tensor = self.head(functional.relu(self.norm(x)).mean((2, 3)))
        return out


class VisionTransformer(nn.Module):
    """Patches, a class token, pre-norm transformer layers with fused attention, one dense layer; inputs (3, 16, 16)."""

    def __init__(self, classes: int, width: int = 24, depth: int = 2, heads: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width) * 0.2)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1) + self.position
        out: torch.Tensor = self.head(self.norm(self.layers(tokens))[:, 0])
        return out


STYLES = {"vgg": vgg, "resnet": ResNet, "densenet": DenseNet, "vit": VisionTransformer}


def zoo_network(style: str, classes: int = 10, *, sharpness: float = 6.0, seed: int = 0) -> nn.Module:
    """A network of one style for (3, 16, 16) inputs, in eval mode, that looks trained."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return calibrated(STYLES[style](classes), torch.rand(64, 3, 16, 16), sharpness)


def calibrated(network: nn.Module, batch: torch.Tensor, sharpness: float = 6.0) -> nn.Module:
    """``network`` with batch statistics of ``batch`` and logits of mean 0 and standard deviation ``sharpness`` a class."""
    network.train()
    with torch.no_grad():
        for _ in range(20):
            network(batch)
        network.eval()
        logits = network(batch)
        head = [part for part in network.modules() if isinstance(part, nn.Linear)][-1]
        head.bias.sub_(logits.mean(0))
        scale = sharpness / (logits - logits.mean(0)).std()
        head.weight.mul_(scale)
        head.bias.mul_(scale)
    return network
