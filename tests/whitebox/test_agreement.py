"""Black box and white box on the same networks: the intervals cover the exact values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from zoo import STYLES, zoo_network

import fimaudit
from fimaudit.models.opening import open_classifier
from fimaudit.whitebox.measure import exact_reference

pytestmark = pytest.mark.usefixtures("one_torch_thread")

INPUTS = 30


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Any, Any]]:
    """(black-box result, exact result) for inputs of every style; other directions for each style."""
    found = []
    for number, style in enumerate(STYLES):
        x = np.random.default_rng(number).uniform(0.2, 0.8, (INPUTS, 3, 16, 16)).astype(np.float32)
        model = open_classifier(zoo_network(style, seed=number), "softmax", device="cpu")
        report = fimaudit.audit(model, x, mode="black-box", lower=0.0, upper=1.0, seed=10 * number)
        found += list(zip(report.inputs, exact_reference(model, x), strict=True))
    return found


@pytest.mark.parametrize("name", ["spectral_norm", "peak_spectral_norm", "margin_radius"])
def test_intervals_cover_the_exact_value(pairs: list[tuple[Any, Any]], name: str) -> None:
    covered = []
    for sampled, exact in pairs:
        interval, truth = getattr(sampled, name), getattr(exact, name)
        assert sampled.status == "ok"
        covered.append(interval.lower <= truth <= interval.upper)
    assert np.mean(covered) >= 0.94, f"{np.mean(covered):.3f} of {len(covered)}"


def test_values_are_near(pairs: list[tuple[Any, Any]]) -> None:
    errors = [abs(sampled.spectral_norm.value / exact.spectral_norm - 1) for sampled, exact in pairs]
    assert np.median(errors) <= 0.1
    assert sum(sampled.predicted_class == int(np.argmax(exact.probabilities)) for sampled, exact in pairs) == len(pairs)


def tanh_network(seed: int, classes: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(40, 64), torch.nn.Tanh(), torch.nn.Linear(64, classes)).eval()


@pytest.mark.parametrize("classes", [10, 40])  # all gradients in one matrix; an iteration
@pytest.mark.parametrize("seed", range(4))
def test_contrasts_name_the_same_classes_in_the_same_order(seed: int, classes: int) -> None:
    """Seen before there was one rule: 13 of 40 inputs reversed."""
    model, x = tanh_network(seed, classes), np.random.default_rng(seed).standard_normal((30, 40)).astype(np.float32)
    exact = fimaudit.audit(model, x, link="softmax", mode="white-box").inputs
    measured = fimaudit.audit(model, x, link="softmax", mode="black-box").inputs
    differing = sum(one.contrast != other.contrast for one, other in zip(exact, measured, strict=True))
    assert differing <= 1  # two classes may change by the same amount, to within the error
    few = fimaudit.audit(model, x, link="softmax", mode="black-box", queries=30).inputs
    same = [
        (one.contrast, other.contrast)
        for one, other in zip(exact, few, strict=True)
        if one.contrast
        and other.contrast
        and {one.contrast.from_, one.contrast.to} == {other.contrast.from_, other.contrast.to}
    ]
    assert all(one == other for one, other in same), "sampling noise may change a pair, but never its order"


def test_classes_that_are_tied_have_no_peak() -> None:
    """Seen: a peak of 1e26 with limits a thousandth apart, from derivatives and from answers."""
    x = np.zeros((1, 5), dtype=np.float32)
    for mode in ("white-box", "black-box"):
        (found,) = fimaudit.audit(torch.nn.Linear(5, 4, bias=False).eval(), x, link="softmax", mode=mode, scale="raw").inputs
        assert found.peak_spectral_norm.value is None
        assert found.peak_spectral_norm.upper is None
        assert found.margin_radius.value < 1e-6
        assert found.spectral_norm.value > 0
