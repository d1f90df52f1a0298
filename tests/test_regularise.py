"""The Fisher penalty: its value against the exact trace and lambda, its derivative, and what it does in training."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from fimaudit.errors import UsageError
from fimaudit.training import _pulled_back, _rooted, fisher_penalty


def exact_fisher(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """F(x) of one input (1, \\*shape), by the definition over labels."""
    rows = torch.autograd.functional.jacobian(lambda v: model(v)[0].log_softmax(0), x).reshape(-1, x.numel())
    p = model(x)[0].softmax(0).detach()
    return (rows.T * p) @ rows


def network(seed: int = 0, classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, classes)).double()


def test_trace_averaged_over_all_sign_vectors_is_the_exact_trace() -> None:
    model, x = network(), torch.randn(1, 6, dtype=torch.float64)
    point = x.clone().requires_grad_(True)
    logits = model(point)
    p = logits.softmax(1)
    values = []
    for signs in itertools.product((-1.0, 1.0), repeat=4):
        w = _rooted(p, torch.tensor([signs], dtype=torch.float64))
        values.append(_pulled_back(logits, w, point, create_graph=True).square().sum().item())
    assert sum(values) / len(values) == pytest.approx(torch.trace(exact_fisher(model, x)).item(), rel=1e-12)


def test_penalty_is_the_mean_trace_over_the_batch() -> None:
    model, x = network(), torch.randn(5, 6, dtype=torch.float64)
    truth = sum(torch.trace(exact_fisher(model, row[None])).item() for row in x) / len(x)
    draws = [fisher_penalty(model, x, generator=torch.Generator().manual_seed(i)).item() for i in range(400)]
    spread = torch.tensor(draws).std().item() / len(draws) ** 0.5
    assert abs(sum(draws) / len(draws) - truth) <= 4 * spread


def test_power_step_reaches_lambda_from_below() -> None:
    model = network(1)
    for i in range(10):
        x = torch.randn(1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
        truth = torch.linalg.eigvalsh(exact_fisher(model, x))[-1].item()
        generator = torch.Generator().manual_seed(i)
        values = [fisher_penalty(model, x, kind="spectral_norm", generator=generator).item() for _ in range(20)]
        assert max(values) <= truth * (1 + 1e-9)
        assert max(values) >= 0.9 * truth


def test_two_classes_give_lambda_exactly_and_one_logit_is_the_same_model() -> None:
    model, x = network(2, classes=1), torch.randn(1, 6, dtype=torch.float64)
    pair = lambda v: torch.cat([torch.zeros_like(model(v)), model(v)], dim=1)  # noqa: E731
    truth = torch.linalg.eigvalsh(exact_fisher(pair, x))[-1].item()
    generator = torch.Generator().manual_seed(0)
    assert fisher_penalty(model, x, kind="spectral_norm", generator=generator).item() == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("kind", ["trace", "spectral_norm"])
def test_derivative_matches_finite_differences(kind: str) -> None:
    model, x = network(3), torch.randn(2, 6, dtype=torch.float64)
    weight = model[0].weight

    def value() -> torch.Tensor:
        return fisher_penalty(model, x, kind=kind, generator=torch.Generator().manual_seed(7))  # type: ignore[arg-type]

    (slope,) = torch.autograd.grad(value(), weight)
    if (
        kind == "spectral_norm"
    ):  # u is held fixed, so the slope is exact only where u is the eigenvector: check its sign and size
        with torch.no_grad():
            weight -= 1e-3 * slope
        before = value().item()
        with torch.no_grad():
            weight += 1e-3 * slope
        assert before < value().item()
        return
    direction = torch.randn_like(weight)
    with torch.no_grad():
        weight += 1e-5 * direction
        above = value().item()
        weight -= 2e-5 * direction
        below = value().item()
    assert (slope * direction).sum().item() == pytest.approx((above - below) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("kind", ["trace", "spectral_norm"])
def test_penalty_goes_through_convolutions_norms_and_attention(kind: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
            self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
            self.head = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = torch.relu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
            return self.head(self.layer(tokens).mean(dim=1))

    model = Net()
    x = torch.randn(3, 1, 5, 5)
    loss = fisher_penalty(model, x, kind=kind)  # type: ignore[arg-type]
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p is not model.head.bias)
    assert x.grad is None


def test_saturated_answers_stay_finite() -> None:
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.mul_(1e4)
    loss = fisher_penalty(model, torch.ones(4, 2))
    loss.backward()
    assert loss.isfinite()
    assert model.weight.grad is not None
    assert model.weight.grad.isfinite().all()


def test_training_with_the_penalty_lowers_the_trace() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 6)
    y = (x[:, 0] > 0).long()
    traces = []
    for weight in (0.0, 0.3):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
        optimiser = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(60):
            loss = nn.functional.cross_entropy(model(x), y)
            if weight:
                loss = loss + weight * fisher_penalty(model, x)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        traces.append(fisher_penalty(model, x, draws=20).item())
    assert traces[1] < 0.7 * traces[0]


def test_wrong_use_is_refused() -> None:
    x = torch.zeros(2, 6)
    with pytest.raises(UsageError, match="'trace' or 'spectral_norm'"):
        fisher_penalty(network(), x.double(), kind="norm")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least one draw"):
        fisher_penalty(network(), x.double(), draws=0)
    with pytest.raises(UsageError, match="expected logits of shape"):
        fisher_penalty(nn.Flatten(0), x)
