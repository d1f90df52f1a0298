"""Kinks at an input are flagged where derivatives are taken, and bends beside it are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fimaudit import audit
from fimaudit.whitebox.kinks import DIRECTIONS, LENGTHS
from fimaudit.whitebox.secant_check import MOST_ROWS


class Net(nn.Module):
    """One hidden layer behind a part that bends, or not."""

    def __init__(self, front: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.front, self.a, self.b = getattr(torch, front), nn.Linear(40, 32), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.b(torch.tanh(self.a(self.front(x))))
        return out


def half_zero() -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)
    x[:, ::2] = 0.0
    return x


@pytest.mark.parametrize(("front", "kinked"), [("abs", 6), ("relu", 6), ("sin", 0), ("square", 0)])
def test_slopes_that_differ_to_either_side_are_flagged(front: str, kinked: int) -> None:
    report = audit(Net(front).eval(), half_zero(), link="softmax", mode="white-box", scale="raw")
    assert sum("kinked" in one.flags for one in report.inputs) == kinked
    for one in report.inputs:
        assert one.kind == ("finite_scale" if kinked else "local")
        assert (one.reason is not None) == bool(kinked)


def test_limits_hold_the_slope_that_lies_between_the_two_sides() -> None:
    """ReLU at 0: autograd takes the slope 0 of one side, a central difference takes one half."""
    x = half_zero()
    derived = audit(Net("relu").eval(), x, link="softmax", mode="white-box", scale="raw")
    between = audit(Net("relu").eval(), x, link="softmax", mode="black-box", scale="raw", queries=400)
    for one, other in zip(derived.inputs, between.inputs, strict=True):
        assert one.spectral_norm.lower is not None
        assert other.spectral_norm.value is not None
        assert one.spectral_norm.lower <= other.spectral_norm.value * 1.1
        assert one.spectral_norm.upper is None or other.spectral_norm.value * 0.9 <= one.spectral_norm.upper


def test_bends_at_a_bound_have_one_side_only_and_rows_are_counted() -> None:
    x = half_zero()
    within = audit(Net("relu").eval(), np.abs(x), link="softmax", mode="white-box", scale="raw", lower=0.0)
    assert not any(one.flags for one in within.inputs)
    assert within.inputs[0].queries <= 5 + 1 + MOST_ROWS + len(LENGTHS) * (2 * DIRECTIONS + 1)
    assert within.summary.queries >= sum(one.queries for one in within.inputs)
