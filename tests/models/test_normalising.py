"""The affine step before a network: the audit is of pixels, to the numbers of a network that has it inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fimaudit import Normalize, audit
from fimaudit.errors import TargetError, UsageError
from fimaudit.models.normalising import read_normalize

X = np.random.default_rng(0).random((4, 3, 5, 5), dtype=np.float32)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class Inside(nn.Module):
    """The step as a layer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> Any:
        mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (MEAN, STD))
        return self.network((x - mean) / std)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(75, 3)).eval()


@pytest.mark.parametrize("mode", ["white-box", "black-box"])
def test_the_same_as_a_network_with_the_step_inside(mode: Any) -> None:
    truth = audit(Inside(network()), X, link="softmax", mode=mode, lower=0, upper=1)
    for given in ({"preprocess": Normalize(MEAN, STD)}, {"mean": "0.4,0.5,0.6", "std": list(STD)}):
        report = audit(network(), X, link="softmax", mode=mode, lower=0, upper=1, **given)
        for a, b in zip(truth.inputs, report.inputs, strict=True):
            assert a.spectral_norm.value == pytest.approx(b.spectral_norm.value, rel=1e-3)


def test_a_compiled_module_is_the_module() -> None:
    plain = audit(network(), X, link="softmax")
    compiled = audit(torch.compile(network(), backend="eager"), X, link="softmax")
    assert compiled.inputs == plain.inputs


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mean": 0.5}, "mean= and std= together"),
        ({"mean": "a", "std": "b"}, "as numbers"),
        ({"mean": [0.1], "std": [0.0]}, "std above 0"),
        ({"mean": [0.1, 0.2], "std": [1.0]}, "as many numbers"),
        ({"preprocess": nn.Identity()}, r"expected preprocess with mean and std .* got Identity"),
    ],
)
def test_refusals(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_normalize(given.get("preprocess"), given.get("mean"), given.get("std"))


def test_estimators_have_the_step_inside() -> None:
    from sklearn.linear_model import LogisticRegression

    x = X.reshape(4, -1)
    with pytest.raises(TargetError, match="feeds inputs as they are"):
        audit(LogisticRegression().fit(x, [0, 1, 0, 1]), x, mean=0.5, std=0.2)
