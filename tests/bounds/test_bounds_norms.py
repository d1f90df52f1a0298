"""Certified norms of single layers against their dense matrices: never below, and how far above."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import special
from torch.nn import functional

from fimaudit.bounds.norms.activations import ACTIVATIONS, parametrised
from fimaudit.bounds.norms.convolution import conv_norm
from fimaudit.bounds.norms.matrix import largest_norm, spectral_norm_upper
from fimaudit.bounds.norms.pooling import adaptive_windows, average_pool_norm, max_pool_norm, sliding_windows

RNG = np.random.default_rng


def dense_norm(function, shape: tuple[int, ...]) -> float:  # type: ignore[no-untyped-def]
    basis = torch.eye(int(np.prod(shape)), dtype=torch.float64).reshape(-1, *shape)
    return float(torch.linalg.matrix_norm(function(basis).flatten(1), 2))


@pytest.mark.parametrize(
    "matrix",
    [
        RNG(0).standard_normal((40, 60)),
        RNG(1).standard_normal((120, 5)),
        np.linalg.qr(RNG(2).standard_normal((90, 90)))[0],
        np.eye(200),
        np.ones((7, 9)),
        np.diag(np.r_[1.0, np.full(60, 0.9999)]),
        np.outer(np.arange(5.0), np.ones(4)),
        1e-180 * np.eye(3),
        1e200 * np.ones((3, 4)),
        np.array([[-2.5]]),
    ],
)
def test_dense_norm_is_never_below_and_within_a_percent(matrix: np.ndarray) -> None:  # type: ignore[type-arg]
    truth = np.linalg.norm(matrix, 2)
    assert truth <= spectral_norm_upper(matrix) <= 1.002 * truth


def test_dense_norm_of_zero_and_of_nonsense() -> None:
    assert spectral_norm_upper(np.zeros((3, 4))) == 0.0
    assert spectral_norm_upper(np.zeros((0, 4))) == 0.0
    with pytest.raises(ValueError, match="finite weights"):
        spectral_norm_upper([[np.nan]])
    with pytest.raises(ValueError, match="expected a matrix"):
        spectral_norm_upper([1.0])


def test_largest_norm_of_a_stream_does_not_add_up_its_tolerance() -> None:
    batches = [RNG(i).standard_normal((20, 6, 8)) for i in range(30)]
    truth = max(np.linalg.norm(matrix, 2) for batch in batches for matrix in batch)
    assert truth <= largest_norm(batches) * (1 + 1e-12) <= 1.0011 * truth


def random_conv(seed: int, circular: bool) -> tuple:  # type: ignore[type-arg]
    rng = RNG(seed)
    axes, groups = int(rng.integers(1, 3)), int(rng.choice([1, 1, 2, 3]))
    numbers = lambda low, high: tuple(int(n) for n in rng.integers(low, high, axes))  # noqa: E731
    kernel, stride, dilation, size = numbers(1, 6), numbers(1, 4), numbers(1, 3), numbers(4, 12 if axes == 2 else 40)
    padding = [(int(a), int(b)) for a, b in rng.integers(0, 5, (axes, 2))]
    if circular:
        padding = [(min(a, n), min(b, n)) for (a, b), n in zip(padding, size, strict=True)]
    channels = groups * int(rng.integers(1, 4))
    weight = rng.standard_normal((groups * int(rng.integers(1, 4)), channels // groups, *kernel))
    return np.abs(weight) if seed % 3 == 0 else weight, size, stride, padding, dilation, groups, channels


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("spelled_out", [True, False])
def test_conv_norm_is_never_below_the_dense_matrix(circular: bool, spelled_out: bool) -> None:
    path: dict[str, Any] = {} if spelled_out else {"work": 0.0, "grid": 20}  # the one that large layers take
    for seed in range(100):
        weight, size, stride, padding, dilation, groups, channels = random_conv(seed, circular)
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(n + sum(p) < r for n, p, r in zip(size, padding, reach, strict=True)):
            continue
        around = [n for pair in padding[::-1] for n in pair]
        conv = (functional.conv1d, functional.conv2d)[len(size) - 1]

        def apply(x: torch.Tensor) -> torch.Tensor:
            padded = functional.pad(x, around, mode="circular" if circular else "constant")  # noqa: B023
            return conv(padded, torch.as_tensor(weight), None, stride, 0, dilation, groups)  # noqa: B023

        truth = dense_norm(apply, (channels, *size))
        keys = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        assert truth <= conv_norm(weight, size, circular=circular, **keys, **path), seed


@pytest.mark.parametrize(("kernel", "limit"), [(3, 1.10), (5, 1.25)])
@pytest.mark.parametrize("size", [8, 12])
@pytest.mark.parametrize("positive", [False, True])
def test_zero_padded_conv_is_tight(kernel: int, limit: float, size: int, positive: bool) -> None:
    for seed in range(5):
        weight = RNG(seed).standard_normal((4, 3, kernel, kernel))
        weight = np.abs(weight) if positive else weight
        p = kernel // 2
        truth = dense_norm(lambda x: functional.conv2d(x, torch.as_tensor(weight), padding=p), (3, size, size))  # noqa: B023
        assert truth <= conv_norm(weight, (size, size), padding=[(p, p)] * 2) <= min(limit, 1.01) * truth


def test_the_compressed_bound_that_large_layers_take_is_tight_too() -> None:
    for seed in range(5):
        weight = RNG(seed).standard_normal((4, 3, 3, 3))
        truth = dense_norm(lambda x: functional.conv2d(x, torch.as_tensor(weight), padding=1), (3, 8, 8))  # noqa: B023
        assert truth <= conv_norm(weight, (8, 8), padding=[(1, 1)] * 2, work=0.0) <= 1.10 * truth


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (70, 5)])
def test_circular_conv_is_within_a_percent(size: tuple[int, int]) -> None:
    weight = RNG(0).standard_normal((3, 2, 3, 3))
    around = [1, 1, 1, 1]
    truth = dense_norm(
        lambda x: functional.conv2d(functional.pad(x, around, mode="circular"), torch.as_tensor(weight)), (2, *size)
    )
    assert truth <= conv_norm(weight, size, padding=[(1, 1)] * 2, circular=True) <= 1.01 * truth


def test_plain_fft_on_the_map_would_under_bound() -> None:
    """Why the period is n + p: THEORY's warning, held by an example."""
    under = 0
    for seed in range(60):
        weight = RNG(seed).standard_normal((1, 1, 3))
        truth = dense_norm(lambda x: functional.conv1d(x, torch.as_tensor(weight), padding=1), (1, 5))  # noqa: B023
        under += truth > np.abs(np.fft.fft(weight[0, 0], 5)).max() * (1 + 1e-9)
        assert truth <= conv_norm(weight, (5,), padding=[(1, 1)])
    assert under > 0


def test_conv_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        conv_norm(np.ones((1, 1, 3, 3)), (8,))
    with pytest.raises(ValueError, match="does not fit 2 inputs"):
        conv_norm(np.ones((1, 1, 3)), (2,))


@pytest.mark.parametrize("seed", range(30))
def test_pool_norms(seed: int) -> None:
    rng = RNG(seed)
    n, k, s = int(rng.integers(4, 9)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    p, ceil, counted = int(rng.integers(0, k // 2 + 1)), bool(rng.integers(2)), bool(rng.integers(2))
    pooled = functional.avg_pool1d(torch.zeros(1, 1, n), k, s, p, ceil, counted)
    windows = [sliding_windows(n, pooled.shape[-1], k, s, p)]
    truth = dense_norm(lambda x: functional.avg_pool1d(x, k, s, p, ceil, counted), (1, n))
    assert average_pool_norm(windows, [n], [n + p] if counted else None) == pytest.approx(truth, rel=1e-12)
    o = int(rng.integers(1, n + 1))
    truth = dense_norm(lambda x: functional.adaptive_avg_pool1d(x, o), (1, n))
    assert average_pool_norm([adaptive_windows(n, o)], [n], None) == pytest.approx(truth, rel=1e-12)
    x = torch.randn(400, 1, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_(True)
    rows = [
        torch.autograd.grad(y.sum(), x, retain_graph=True)[0][:, 0] for y in functional.max_pool1d(x, k, s, p).unbind(-1)
    ]
    seen = float(torch.linalg.matrix_norm(torch.stack(rows, 1), 2).max())
    outputs = len(rows)
    bound = max_pool_norm([sliding_windows(n, outputs, k, s, p)], [n])
    assert seen <= bound * (1 + 1e-12)
    assert bound <= np.sqrt(-(-k // s)) + 1e-12


FUNCTIONS = {
    "arctan": np.arctan, "cos": np.cos, "sin": np.sin, "erf": special.erf, "abs": np.abs,
    "gelu": lambda x: x * special.ndtr(x),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1), "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "log_sigmoid": special.log_expit, "mish": lambda x: x * np.tanh(np.logaddexp(0, x)), "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "sigmoid": special.expit, "silu": lambda x: x * special.expit(x), "softplus": lambda x: np.logaddexp(0, x),
    "softsign": lambda x: x / (1 + np.abs(x)), "tanh": np.tanh, "tanhshrink": lambda x: x - np.tanh(x),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_constants_of_activations(name: str) -> None:
    x = np.linspace(-12, 12, 400_001)
    y = FUNCTIONS[name](x)
    slope = np.abs(np.diff(y) / np.diff(x)).max()
    known = ACTIVATIONS[name]
    assert slope <= known.slope * (1 + 1e-9)
    assert slope >= 0.999 * known.slope
    assert np.abs(y).max() <= known.cap
    assert np.abs(FUNCTIONS[name](np.zeros(1)))[0] <= known.at_zero


def test_constants_of_functions_with_parameters() -> None:
    x = np.linspace(-8, 8, 100_001)
    gelu_tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    assert np.abs(np.diff(gelu_tanh) / np.diff(x)).max() <= ACTIVATIONS["gelu"].slope
    for slope in (0.5, 2.0, 7.0):  # the gate's slope does not move the supremum
        y = x * special.expit(slope * x)
        assert np.abs(np.diff(y) / np.diff(x)).max() <= ACTIVATIONS["silu"].slope
    assert parametrised("leaky_relu", 0.1).slope == 1.0
    assert parametrised("leaky_relu", -3.0).slope == 3.0
    assert parametrised("elu", 2.0, 1.5, 1.0).slope == 3.0
    assert parametrised("clamp", -1.0, 2.0).cap == 2.0
    assert parametrised("softplus", 2.0).slope == 1.0
    with pytest.raises(KeyError):
        parametrised("nothing")
