"""Derivatives beside answers: models whose autograd is not that of their function are found, honest ones are not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from zoo import zoo_network

from fimaudit import audit
from fimaudit.data.dataset import as_data, open_subject
from fimaudit.domain import InputDomain
from fimaudit.errors import ModelFailure, TargetError
from fimaudit.models.meter import Meter
from fimaudit.models.opening import open_classifier
from fimaudit.whitebox.measure import measure
from fimaudit.whitebox.secant_check import MOST_ROWS, check_secants

pytestmark = pytest.mark.usefixtures("one_torch_thread")

INPUTS = 24
RNG = np.random.default_rng(0)


class _Backward(torch.autograd.Function):
    """Rounded to ``levels`` (0: as it is) forwards, and backwards times a factor."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, levels: float, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return torch.round(x * levels) / levels if levels else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0] * ctx.factor, None, None


def through(levels: float = 0.0, factor: float = 1.0) -> Callable[[torch.Tensor], torch.Tensor]:
    def part(h: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _Backward.apply(h, levels, factor)  # type: ignore[no-untyped-call]
        return out

    return part


def half_detached(x: torch.Tensor) -> torch.Tensor:
    cut = x.shape[1] // 2
    return torch.cat([x[:, :cut], x[:, cut:].detach()], 1)


def without_gradient(h: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        frozen = h.clone()
    return frozen + 0.1 * h


class Net(nn.Module):
    """One hidden layer, with a part before it and one behind it."""

    def __init__(
        self,
        features: int = 40,
        act: Callable[[torch.Tensor], torch.Tensor] = torch.tanh,
        front: Callable[[torch.Tensor], torch.Tensor] | None = None,
        middle: Callable[[torch.Tensor], torch.Tensor] | None = None,
        gain: float = 1.0,
        classes: int = 5,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(features, 32), nn.Linear(32, classes)
        self.act, self.front, self.middle, self.gain = act, front, middle, gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(self.a(x if self.front is None else self.front(x)))
        out: torch.Tensor = self.b(h if self.middle is None else self.middle(h)) * self.gain
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.out = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.cell(x)[0][:, -1])
        return out


class Pooled(nn.Module):
    """Convolution, ReLU and max-pooling: at a flat background all values of a window are tied."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.out = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.Linear(8 * 36, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(functional.max_pool2d(functional.relu(self.conv(x)), 2).flatten(1)) * 3
        return out


def rows(features: int = 40, dtype: str = "float32") -> np.ndarray:
    return RNG.random((INPUTS, features)).astype(dtype)


def on_background() -> np.ndarray:
    x = np.zeros((INPUTS, 1, 12, 12), np.float32)
    x[:, :, 4:8, 4:8] = RNG.random((INPUTS, 1, 4, 4))
    return x


@dataclass(frozen=True)
class Case:
    """A model, its inputs and their domain."""

    model: Callable[[], nn.Module]
    x: Callable[[], np.ndarray]
    domain: InputDomain = field(default_factory=InputDomain)


UNIT = InputDomain(0.0, 1.0)
HONEST = {
    "tanh": Case(Net, rows, UNIT),
    "relu": Case(lambda: Net(act=torch.relu), rows),
    "gelu": Case(lambda: Net(act=functional.gelu), rows),
    "two classes": Case(lambda: Net(classes=2), rows),
    "many classes": Case(lambda: Net(classes=60), rows),
    "sharp": Case(lambda: Net(gain=30.0), rows),
    "float64": Case(lambda: Net(act=torch.relu).double(), lambda: rows(dtype="float64")),
    "half precision": Case(lambda: Net().half(), lambda: rows(dtype="float16")),
    "bfloat16": Case(lambda: Net().bfloat16(), rows),
    "far from the origin": Case(lambda: Net(front=lambda x: x - 1000), lambda: rows() + 1000),
    "features of all sizes": Case(
        lambda: Net(front=lambda x: x / torch.logspace(-3, 4, 40)),
        lambda: (rows() * np.logspace(-3, 4, 40)).astype(np.float32),
    ),
    "ties of max-pooling": Case(Pooled, on_background, UNIT),
    "ties at the edge of a clamp": Case(lambda: Net(front=lambda x: x.clamp(0, 1)), lambda: rows().round()),
    "recurrent": Case(Recurrent, lambda: RNG.normal(size=(INPUTS, 6, 8)).astype(np.float32)),
    "residual": Case(
        functools.partial(zoo_network, "resnet", 10), lambda: RNG.random((INPUTS, 3, 16, 16)).astype(np.float32)
    ),
    "transformer": Case(
        functools.partial(zoo_network, "vit", 10), lambda: RNG.random((INPUTS, 3, 16, 16)).astype(np.float32)
    ),
}
WRONG = {
    "gradient reversal": Case(lambda: Net(middle=through(factor=-0.1)), rows, UNIT),
    "a scaled backward": Case(lambda: Net(front=through(factor=1.2)), rows),
    "gradient reversal in half precision": Case(
        lambda: Net(middle=through(factor=-0.1)).half(), lambda: rows(dtype="float16")
    ),
    "straight through 16 levels": Case(lambda: Net(front=through(15.0)), rows),
    "straight through 256 levels, hidden": Case(lambda: Net(middle=through(127.0)), rows),
    "half of the input detached": Case(lambda: Net(front=half_detached), rows),
    "half of the hidden units detached": Case(lambda: Net(middle=half_detached), rows),
    "nearly all without gradient": Case(lambda: Net(middle=without_gradient), rows),
    "rounded to bfloat16 inside": Case(lambda: Net(middle=lambda h: h.bfloat16().float()), rows),
}
ZERO = {
    "rounded": Case(lambda: Net(front=lambda x: torch.round(x * 15) / 15), rows),
    "signs": Case(lambda: Net(middle=torch.sign), rows),
}


def checked(case: Case) -> list[Any]:
    module, x = case.model().eval(), case.x()
    model = open_classifier(module, "softmax", device="cpu")
    subject = open_subject(as_data(x, None, None, None), model.info, case.domain, ())
    found = measure(model, subject.x.astype(model.info.dtype))
    meter = Meter(model)
    checks = check_secants(meter, subject.x, found, subject.space, seed=0, indices=range(len(x)))
    assert meter.usage.rows == sum(one.rows for one in checks)
    assert all(one.rows + one.passes <= MOST_ROWS for one in checks)
    return checks


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_model_raises_no_alarm(name: str) -> None:
    assert [one.reason for one in checked(HONEST[name]) if one.reason] == []


def fifty_layers(seed: int) -> nn.Module:
    """Fifty layers of ReLU, which bend within ever shorter steps."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for features in (20, *[64] * 49):
        layers += [nn.Linear(features, 64), nn.ReLU()]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.Linear(64, 5))


def test_a_network_that_bends_within_short_steps_raises_hardly_an_alarm() -> None:
    alarms = 0
    for seed in range(4):
        network = functools.partial(fifty_layers, seed)
        case = Case(network, lambda: np.random.default_rng(0).normal(size=(INPUTS, 20)).astype(np.float32))
        alarms += sum(one.reason is not None for one in checked(case))
    assert alarms <= 1  # 3 where one point is enough for an alarm


@pytest.mark.parametrize("name", WRONG)
def test_derivatives_of_another_function_are_found(name: str) -> None:
    least = 0.8 if name == "rounded to bfloat16 inside" else 0.9  # the noise of rounding agrees now and then
    assert sum(one.reason is not None for one in checked(WRONG[name])) >= least * INPUTS


def sketched(case: Case, mode: Any) -> Any:
    return audit(case.model().eval(), case.x()[:6], link="softmax", mode=mode, domain=case.domain, queries=40)


@pytest.mark.parametrize("name", [*WRONG, *ZERO])
def test_auto_measures_them_from_probabilities_and_says_so(name: str) -> None:
    report = sketched((WRONG | ZERO)[name], "auto")
    assert report.settings["mode"] == "black-box"
    assert any("measured black-box although the model is differentiable" in sentence for sentence in report.warnings)
    assert not any(one.method.startswith("derivatives") for one in report.inputs)


@pytest.mark.parametrize("name", WRONG)
def test_white_box_fails_them_with_the_reason(name: str) -> None:
    try:
        reasons = [str(one.reason) for one in sketched(WRONG[name], "white-box").inputs if one.status == "failed"]
        assert len(reasons) >= 5  # a rounding hides from a few directions now and then
    except ModelFailure as failure:  # all of them
        reasons = [str(failure)]
    assert all("derivatives are not those of the answers" in r and "black-box" in r for r in reasons)


@pytest.mark.parametrize("name", ZERO)
def test_derivatives_that_are_exactly_zero_are_no_measurement(name: str) -> None:
    for one in sketched(ZERO[name], "white-box").inputs:
        assert one.status == "below_detection"
        assert one.spectral_norm.upper is None
        assert one.margin_radius.lower is None


class Dropping(nn.Module):
    """Dropout that stays on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(self.net(x), 0.2, training=True)


def test_a_random_model_has_no_derivative() -> None:
    with pytest.raises(TargetError, match="not deterministic"):
        audit(Dropping().eval(), rows()[:4], link="softmax", mode="white-box")
    report = audit(Dropping().eval(), rows()[:4], link="softmax", queries=40)
    assert report.settings["mode"] == "black-box"
    assert any("one draw among many" in s for s in report.warnings)


class PartlyDetached(nn.Module):
    """Inputs on one side of a threshold go through without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, :1] > 0.5, self.net(x), self.net(x.detach()))


def test_single_inputs_are_measured_from_probabilities() -> None:
    x = rows()[:10]
    x[:, 0] = np.where(np.arange(10) % 4 == 1, 0.25, 0.75)
    report = audit(PartlyDetached().eval(), x, link="softmax", queries=60)
    honest = audit(Net().eval(), x, link="softmax", queries=60)
    methods = [one.method.startswith("derivatives") for one in report.inputs]
    assert methods == [i % 4 != 1 for i in range(10)]
    assert any("of the inputs measured from probabilities" in sentence for sentence in report.warnings)
    for one, truth in zip(report.inputs, honest.inputs, strict=True):
        assert one.spectral_norm.lower * 0.999 <= truth.spectral_norm.value <= one.spectral_norm.upper * 1.001  # type: ignore[operator]


class RootAtZero(nn.Module):
    """A square root whose derivative at 0 is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) + (x[:, :1] ** 2).sqrt() * torch.arange(5.0)


def test_a_derivative_that_is_not_finite_fails_one_input() -> None:
    x = rows()[:6]
    x[2, 0] = 0.0
    report = audit(RootAtZero().eval(), x, link="softmax", mode="white-box")
    assert [one.status for one in report.inputs] == ["failed" if i == 2 else "ok" for i in range(6)]
    assert "not finite" in str(report.inputs[2].reason)


def test_rows_of_the_comparison_are_counted() -> None:
    report = audit(Net().eval(), rows()[:6], link="softmax", mode="white-box")
    assert report.summary.queries == report.model["preflight"]["rows"] + sum(one.queries for one in report.inputs)
