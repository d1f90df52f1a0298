"""Attention's bound against dense Jacobians: the derivation is tested before anything relies on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fimaudit.bounds.norms.attention import (
    Head,
    self_attention_lipschitz,
    separate_attention_gains,
)

SIZES = [(2, 1, 2), (3, 2, 4), (5, 3, 4), (8, 2, 6)]


def random_heads(seed: int, heads: int, width: int, head_width: int, gain: float) -> list[Head]:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: gain * rng.standard_normal(shape)  # noqa: E731
    return [
        Head(draw(head_width, width), draw(head_width, width), draw(head_width, width), draw(head_width))
        for _ in range(heads)
    ]


def attend(x: torch.Tensor, heads: list[Head], scale: float, mask: torch.Tensor | None = None) -> torch.Tensor:
    out = []
    for head in heads:
        q, k, v = (x @ torch.as_tensor(part).T for part in (head.query, head.key, head.value))
        scores = scale * (q + torch.as_tensor(head.query_bias)) @ k.T
        out.append((scores if mask is None else scores + mask).softmax(-1) @ v)
    return torch.cat(out, dim=-1)


def tokens_within(seed: int, tokens: int, width: int, radius: float) -> torch.Tensor:
    """Tokens on the sphere, some of them equal or opposite: where attention is most sensitive."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, width, dtype=torch.float64, generator=generator)
    if seed % 3 == 1:
        x[1:] = x[0] * torch.where(torch.arange(1, tokens) % 2 == 0, 1.0, -1.0)[:, None] + 1e-2 * x[1:]
    return radius * x / x.norm(dim=1, keepdim=True)


def worst_ratio(heads: list[Head], tokens: int, radius: float, scale: float, mask: torch.Tensor | None = None) -> float:
    """Largest dense Jacobian norm over drawn and gradient-ascended tokens, over the bound."""
    width = heads[0].query.shape[1]
    bound = self_attention_lipschitz(heads, radius, tokens, tokens, scale, mask is not None)
    worst = 0.0
    for seed in range(6):
        x = tokens_within(seed, tokens, width, radius).requires_grad_(True)
        for _ in range(6):
            jacobian = torch.autograd.functional.jacobian(lambda t: attend(t, heads, scale, mask), x, create_graph=True)
            norm = torch.linalg.matrix_norm(jacobian.reshape(-1, x.numel()), 2)
            worst = max(worst, norm.item() / bound)
            (up,) = torch.autograd.grad(norm, x)
            with torch.no_grad():
                x = x + 0.3 * radius * up / (up.norm() + 1e-300)
                x = x * (radius / x.norm(dim=1, keepdim=True)).clamp(max=1.0)
            x.requires_grad_(True)
    return worst


@pytest.mark.parametrize(("tokens", "heads", "width"), SIZES)
@pytest.mark.parametrize("gain", [0.2, 1.0])
def test_self_attention_bound_holds(tokens: int, heads: int, width: int, gain: float) -> None:
    made = random_heads(tokens, heads, width, 2, gain)
    assert 0.0 < worst_ratio(made, tokens, math.sqrt(width), 0.7) <= 1.0


def test_causal_mask_is_covered() -> None:
    mask = torch.full((5, 5), -math.inf, dtype=torch.float64).triu(1)
    assert worst_ratio(random_heads(0, 2, 4, 2, 0.7), 5, 2.0, 0.7, mask) <= 1.0


def test_bound_is_nearly_reached_where_all_attend_to_one_token() -> None:
    """q = 0 and equal values: the value term alone, sqrt(C) ||V|| with C = 1; and n queries on one token reach sqrt(n)."""
    eye = np.eye(3)
    uniform = [Head(0 * eye, eye, eye, np.zeros(3))]
    x = torch.zeros(4, 3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda t: attend(t, uniform, 1.0), x).reshape(12, 12)
    assert torch.linalg.matrix_norm(jacobian, 2).item() == pytest.approx(1.0)
    assert self_attention_lipschitz(uniform, 1.0, 4, 4, 1.0) == pytest.approx(1.0, rel=2e-3)
    pointed = [Head(0 * eye, 50 * eye, eye, np.array([1.0, 0, 0]))]
    x[0, 0] = 1.0
    jacobian = torch.autograd.functional.jacobian(lambda t: attend(t, pointed, 1.0), x).reshape(12, 12)
    assert torch.linalg.matrix_norm(jacobian, 2).item() == pytest.approx(2.0, rel=1e-6)


def published_lipschitz(head: Head, radius: float, tokens: int, scale: float) -> float:
    """The published bound sqrt(3) ||V|| sqrt(||A||^2 r^4 (4n + 1) + n), for comparison only; biases are not covered.

    Source: Castin, Ablin & Peyre, How Smooth Is Attention?, ICML 2024, arXiv 2312.14820.
    """
    form = np.linalg.norm(scale * head.key.T @ head.query, 2)
    return math.sqrt(3 * (form**2 * radius**4 * (4 * tokens + 1) + tokens)) * float(np.linalg.norm(head.value, 2))


@pytest.mark.parametrize("seed", range(10))
def test_published_formula_holds_and_is_never_below_ours(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens, width = int(rng.integers(2, 9)), int(rng.integers(2, 6))
    head = random_heads(seed, 1, width, width, float(rng.choice([0.1, 0.5, 2.0])))[0]
    head = Head(head.query, head.key, head.value, np.zeros(width))
    radius = float(rng.uniform(0.5, 3.0))
    published = published_lipschitz(head, radius, tokens, 0.5)
    ours = self_attention_lipschitz([head], radius, tokens, tokens, 0.5)
    assert ours <= published * (1 + 1e-4)
    x = tokens_within(seed, tokens, width, radius)
    jacobian = torch.autograd.functional.jacobian(lambda t: attend(t, [head], 0.5), x)
    assert torch.linalg.matrix_norm(jacobian.reshape(-1, x.numel()), 2).item() <= ours


@pytest.mark.parametrize("seed", range(8))
def test_separate_gains_hold_for_each_argument(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries, keys = 3, 5
    radii = (1.5, 2.0, 0.7)
    parts = [
        radius * torch.nn.functional.normalize(torch.randn(n, 4, dtype=torch.float64, generator=generator), dim=1)
        for n, radius in zip((queries, keys, keys), radii, strict=True)
    ]
    gains = separate_attention_gains(radii, queries, keys, 0.8)

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (0.8 * q @ k.T).softmax(-1) @ v

    for jacobian, part, gain in zip(torch.autograd.functional.jacobian(attention, tuple(parts)), parts, gains, strict=True):
        assert torch.linalg.matrix_norm(jacobian.reshape(-1, part.numel()), 2).item() <= gain
