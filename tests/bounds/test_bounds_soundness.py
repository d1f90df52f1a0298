"""The one property that may never fail: the bound is at least every Jacobian norm that a network shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from fimaudit.bounds import lipschitz_bound

Draw = Callable[[Any], Any]
ACTIVATIONS = (
    nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.CELU, nn.Mish, nn.Hardswish,
    nn.Hardsigmoid,
    nn.Softplus, nn.Softsign, nn.ReLU6, nn.Hardtanh, nn.PReLU, nn.LogSigmoid, nn.Tanhshrink, nn.Identity, nn.Dropout,
)  # fmt: skip


class Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


class Concat(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Gate(nn.Module):
    """Squeeze and excite on a normalised map: a product of two bounded tensors."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.squeeze = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return y * torch.sigmoid(self.squeeze(functional.adaptive_avg_pool2d(y, 1)))


class Attend(nn.Module):
    """Layer norm and multi-head attention over the positions of a map, in the three ways that people write it."""

    def __init__(self, channels: int, heads: int, style: str, causal: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.heads, self.style, self.causal = heads, style, causal
        self.module = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.project = nn.Linear(channels, 3 * channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        if self.style == "module":
            out = self.module(tokens, tokens, tokens, need_weights=False)[0]
        else:
            parts = self.project(tokens).reshape(n, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
            q, k, v = parts.unbind(0)
            if self.style == "fused":
                out = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
            else:
                scores = q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5
                if self.causal:
                    scores = scores + torch.full((h * w, h * w), -math.inf, dtype=x.dtype).triu(1)
                out = scores.softmax(dim=-1) @ v
            out = out.transpose(1, 2).reshape(n, h * w, c)
        return x + out.transpose(1, 2).reshape(n, c, h, w)


def draw_conv(draw: Draw, channels: int, size: tuple[int, int], same: bool = False) -> nn.Module:
    axes = (0, 1)
    groups = draw(st.sampled_from([g for g in (1, 1, 2, channels) if channels % g == 0]))
    out = channels if same else groups * draw(st.integers(1, 3))
    kernel = tuple(draw(st.sampled_from([1, 3] if same else [1, 2, 3, 5])) for _ in axes)
    dilation = tuple(draw(st.integers(1, 2)) for _ in axes)
    mode = draw(st.sampled_from(["zeros", "zeros", "circular", "reflect", "replicate"]))
    if same:
        stride, padding = (1, 1), tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    else:
        stride, padding = tuple(draw(st.integers(1, 3)) for _ in axes), tuple(draw(st.integers(0, 3)) for _ in axes)
    if mode != "zeros":
        padding = tuple(min(p, n - 1) for p, n in zip(padding, size, strict=True))
        if same and any(2 * p != d * (k - 1) for p, d, k in zip(padding, dilation, kernel, strict=True)):
            kernel, padding = (1, 1), (0, 0)
    if any(n + 2 * p < d * (k - 1) + 1 for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)):
        kernel = (1, 1)
    return nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups, draw(st.booleans()), mode)


def draw_layer(draw: Draw, channels: int, size: tuple[int, int]) -> nn.Module:
    kinds = ["conv", "conv", "act", "norm", "pool", "residual", "concat", "attention", "gate", "transposed", "resample"]
    kind = draw(st.sampled_from(kinds))
    if kind == "conv":
        return draw_conv(draw, channels, size)
    if kind == "act":
        return draw(st.sampled_from(ACTIVATIONS))()
    if kind == "norm":
        choices: list[Callable[[], nn.Module]] = [
            lambda: nn.BatchNorm2d(channels),
            lambda: nn.GroupNorm(1, channels),
            lambda: nn.LayerNorm([channels, *size]),
        ]
        if math.prod(size) > 1:
            choices.append(lambda: nn.InstanceNorm2d(channels, affine=True))
        return draw(st.sampled_from(choices))()
    if kind == "pool":
        kernel = tuple(draw(st.integers(1, min(3, n))) for n in size)
        stride = tuple(draw(st.integers(1, 3)) for _ in size)
        padding, ceil = tuple(draw(st.integers(0, k // 2)) for k in kernel), draw(st.booleans())
        style = draw(st.sampled_from(["max", "average", "uncounted", "adaptive max", "adaptive average"]))
        if style.startswith("adaptive"):
            target = tuple(draw(st.integers(1, n)) for n in size)
            return nn.AdaptiveMaxPool2d(target) if style == "adaptive max" else nn.AdaptiveAvgPool2d(target)
        if style == "max":
            return nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
        return nn.AvgPool2d(kernel, stride, padding, ceil, style == "average")
    if kind == "residual":
        act = draw(st.sampled_from(ACTIVATIONS))()
        return Residual(nn.Sequential(draw_conv(draw, channels, size, same=True), act, nn.BatchNorm2d(channels)))
    if kind == "concat":
        return Concat(nn.Identity(), nn.Sequential(nn.ReLU(), draw_conv(draw, channels, size, same=True)))
    if kind == "attention":
        heads = draw(st.sampled_from([h for h in (1, 2) if channels % h == 0]))
        return Attend(channels, heads, draw(st.sampled_from(["module", "fused", "explicit"])), draw(st.booleans()))
    if kind == "gate":
        return Gate(channels)
    if kind == "transposed":
        stride = draw(st.integers(1, 2))
        return nn.ConvTranspose2d(
            channels, draw(st.integers(1, 2)), draw(st.integers(stride, 3)), stride, draw(st.integers(0, 1))
        )
    return nn.Upsample(scale_factor=2) if max(size) <= 3 else nn.ZeroPad2d((0, 1, 1, -1))


@st.composite
def networks(draw: Draw) -> tuple[nn.Module, tuple[int, ...]]:
    """A random network with random weights and statistics, and its input's shape."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(3, 6)), draw(st.integers(3, 6)))
    layers: list[nn.Module] = []
    current = torch.zeros(1, *shape)
    for _ in range(draw(st.integers(1, 5))):
        channels, size = current.shape[1], (current.shape[2], current.shape[3])
        layer = draw_layer(draw, channels, size).eval()
        try:
            with torch.no_grad():
                made = layer(current)
        except (RuntimeError, ValueError):  # a norm over one element, a kernel that does not fit
            continue
        if made.numel() == 0 or made.shape[1] > 12 or made.numel() > 400:
            continue
        layers.append(layer)
        current = made
    classes = draw(st.integers(1, 4))
    layers += [nn.Flatten(), nn.Linear(current.numel(), classes)]
    network = nn.Sequential(*layers).double().eval()
    gain = draw(st.sampled_from([0.5, 1.0, 2.0]))
    with torch.no_grad():
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            if name.endswith("running_var"):
                value.uniform_(0.2, 2.0)
            elif value.is_floating_point():
                value.add_(0.3 * torch.randn_like(value)).mul_(gain)
    return network, shape


def jacobians(network: nn.Module, x: torch.Tensor, create_graph: bool = False) -> torch.Tensor:
    z = network(x)
    rows = [
        torch.autograd.grad(z[:, k].sum(), x, retain_graph=True, create_graph=create_graph)[0] for k in range(z.shape[1])
    ]
    return torch.stack([row.flatten(1) for row in rows], dim=1)


def measured_norms(network: nn.Module, shape: tuple[int, ...], steps: int = 4) -> tuple[float, float]:
    """The largest ||J_z|| and sqrt(2 lambda) over random inputs of many sizes, and over those moved up the gradient."""
    scale = 10.0 ** torch.linspace(-3, 2, 12, dtype=torch.float64)
    x = (torch.randn(12, *shape, dtype=torch.float64) * scale.view(-1, *[1] * len(shape))).requires_grad_(True)
    norm = sensitivity = 0.0
    for step in range(steps + 1):
        jacobian = jacobians(network, x, create_graph=step < steps)
        with torch.no_grad():
            norm = max(norm, float(torch.linalg.matrix_norm(jacobian, 2).max()))
            z = network(x)
            p = torch.softmax(z if z.shape[1] > 1 else torch.cat([z / 2, -z / 2], dim=1), dim=1)
            logits = jacobian if z.shape[1] > 1 else torch.cat([jacobian / 2, -jacobian / 2], dim=1)
            root = torch.diag_embed(p.sqrt()) - p.sqrt()[:, :, None] * p[:, None, :]  # root^T root = diag(p) - p p^T
            top = torch.linalg.matrix_norm(root @ logits, 2).max()  # its square is lambda
            sensitivity = max(sensitivity, math.sqrt(2) * float(top))
        total = jacobian.square().sum()
        if step == steps or not total.requires_grad:
            break
        try:
            (up,) = torch.autograd.grad(total, x, allow_unused=True)
        except RuntimeError as exc:
            if "not implemented" not in str(exc):
                raise
            break  # torch has no second derivative of some piecewise linear functions
        if up is None or not up.isfinite().all():
            break
        length = up.flatten(1).norm(dim=1).clamp(min=1e-300).view(-1, *[1] * len(shape))
        with torch.no_grad():
            x = x + 0.3 * scale.view(-1, *[1] * len(shape)) * up / length
        x.requires_grad_(True)
    return norm, sensitivity


def drawn(count: int) -> settings:
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),  # shrinking would export hundreds of networks more
        suppress_health_check=list(HealthCheck),
    )


@drawn(60)
@given(networks())
def test_bound_is_never_below_a_measured_norm(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    never_below(*case)


@pytest.mark.coverage
@drawn(1000)
@given(networks())
def test_bound_is_never_below_the_measured_norm_of_a_thousand_networks(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    never_below(*case)


def never_below(network: nn.Module, shape: tuple[int, ...]) -> None:
    bound = lipschitz_bound(network, input_shape=shape)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        norm, sensitivity = measured_norms(network, shape)
    one_logit = math.sqrt(2) if network[-1].out_features == 1 else 1.0
    assert bound.scope == "global"
    assert bound.lipschitz >= norm / one_logit
    assert bound.lipschitz >= sensitivity
    if 0.0 < bound.lipschitz != 1.0:
        assert sum(layer.share for layer in bound.layers) == pytest.approx(1.0)


def test_float32_networks_do_not_slip_through_the_rounding() -> None:
    torch.manual_seed(0)
    for width in (2, 8, 64, 200):
        layer = nn.Linear(width, width, bias=False)
        seen = float(torch.linalg.matrix_norm(layer.weight.detach(), 2))
        assert seen <= lipschitz_bound(layer).lipschitz <= 1.0015 * seen
