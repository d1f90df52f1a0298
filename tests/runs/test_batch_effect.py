"""Models whose answer to a row depends on the other rows of its call are asked row by row; last digits do not count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from batch_sensitive import batch_sensitive
from torch import nn

from fimaudit import audit
from fimaudit.models.classifier import Lease, ModelInfo
from fimaudit.models.leases import CountingLease
from fimaudit.models.meter import Meter
from fimaudit.models.opening import open_classifier
from fimaudit.perturbations.rows import PlainRows
from fimaudit.runs.preflight import Preflight, look

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FEATURES, CLASSES, INPUTS = 30, 4, 14


class Net(nn.Module):
    """A hidden layer; ``forward`` of the kinds below lets rows influence each other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(FEATURES, 24), nn.Linear(24, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.b(torch.tanh(self.a(x))) * 3
        return out


class MinMax(Net):
    """Rescaled by the extremes of the whole call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward((x - x.min()) / (x.max() - x.min()) * 2 - 1)


class CallStatistics(Net):
    """Centred by the mean of the call, as batch norm without running statistics; nothing changes for one row alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - 0.5 * x.mean(0, keepdim=True))


class EarlyExit(Net):
    """Leaves early where every row of the call is easy."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.a(x))
        early: torch.Tensor = self.b(h) * 3
        if (x[:, :5].mean(1) > 0.28).all():
            return early
        return super().forward(x * 0.3)


class Capacity(Net):
    """Half of the call's rows, the most eager ones, go through an expert; a row alone always does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        eager = x[:, 0].argsort(descending=True)[: -(-len(x) // 2)]
        expert = torch.zeros(len(x), 1)
        expert[eager] = 1.0
        return out + expert * super().forward(-x)


class Ranked(Net):
    """One feature counts by its rank within the call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rank = x[:, 0].argsort().argsort().float() / len(x)
        return super().forward(x) + rank[:, None] * torch.arange(float(CLASSES))


class Sorted(Net):
    """Answers come back in another order than the rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[x[:, 0].argsort()]


class Padded(Net):
    """The longest row of the call says how far all are padded, and the mean counts the padding."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        longest = int((x > 0.3).float().mul(torch.arange(1.0, FEATURES + 1)).max())
        return super().forward(x * (FEATURES / max(longest, 1)))


DEPENDENT: list[type[Net]] = [MinMax, CallStatistics, EarlyExit, Capacity, Ranked, Sorted, Padded]


def inputs() -> np.ndarray:
    rng = np.random.default_rng(3)
    x = rng.random((INPUTS, FEATURES)) * rng.uniform(0.2, 1, (INPUTS, 1))
    x[np.arange(INPUTS), rng.integers(5, FEATURES, INPUTS)] += 0.4
    return np.asarray(x, np.float32)


def alone(module: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([torch.softmax(module(torch.tensor(one[None])), 1).numpy() for one in x])


def answering(module: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    def answer(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(torch.softmax(module(torch.tensor(batch, dtype=torch.float32)), 1).numpy())

    return answer


class Endpoint:
    """A network classifier in this process: requests of at most eight rows, of one part each."""

    def __init__(self, module: nn.Module) -> None:
        self._answer = answering(module)
        self.info = ModelInfo("endpoint", "test", (FEATURES,), "float32", CLASSES)
        self.sent: list[int] = []

    def ask(self, batch: np.ndarray, lease: Lease, sizes: Sequence[int] = ()) -> np.ndarray:
        out = []
        for part in np.split(batch, np.cumsum(sizes or [len(batch)])[:-1]):
            for start in range(0, len(part), 8):
                rows = part[start : start + 8]
                ticket = lease.reserve(len(rows), rows.tobytes())
                out.append(self._answer(rows).astype(np.float64))
                lease.commit(ticket, len(rows), out[-1], "ok", rows.nbytes)
                self.sent.append(len(rows))
        return np.concatenate(out)

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        return self.ask(batch, CountingLease())

    def close(self) -> None:
        pass


def looked(model: Any, x: np.ndarray, **options: Any) -> tuple[Preflight, Meter]:

    opened = open_classifier(model, options.pop("link", "auto"))
    meter = Meter(opened)
    return look(meter, x, opened.info.dtype), meter


@pytest.mark.parametrize("kind", DEPENDENT)
@pytest.mark.parametrize("door", ["torch", "function", "endpoint"])
def test_answers_that_depend_on_their_batch_are_asked_row_by_row(kind: type[Net], door: str) -> None:
    module, x = kind().eval(), inputs()
    model = {"torch": module, "function": answering(module), "endpoint": Endpoint(module)}[door]
    found, meter = looked(model, x, link="softmax" if door == "torch" else "auto")
    assert found.row_by_row
    assert not found.random
    assert meter.batch == 1
    assert found.rows <= 40

    answers = meter.ask([PlainRows(x.astype(meter.model.info.dtype))])[0]
    assert np.abs(answers - alone(module, x)).max() < 1e-6
    if isinstance(model, Endpoint):
        assert model.sent[-INPUTS:] == [1] * INPUTS


@pytest.mark.parametrize("kind", [MinMax, EarlyExit, Capacity])
@pytest.mark.parametrize("mode", ["auto", "black-box"])
def test_numbers_are_those_of_rows_alone(kind: type[Net], mode: Any) -> None:
    module, x = kind().eval(), inputs()
    report = audit(module, x, link="softmax", mode=mode, queries=40)
    truth = alone(module, x)
    for one, p in zip(report.inputs, truth, strict=True):
        assert one.predicted_class == int(p.argmax())
        assert one.probability == pytest.approx(p.max(), abs=1e-5)
    assert any("each row is asked alone" in sentence for sentence in report.warnings)
    assert report.model["preflight"]["row_by_row"]


def test_the_white_box_obeys_a_batch_of_one() -> None:
    module, x = MinMax().eval(), inputs()
    report = audit(module, x, link="softmax", batch=1, mode="white-box")
    singly = [audit(module, one[None], link="softmax", mode="white-box").inputs[0] for one in x[:3]]
    for one, other in zip(report.inputs[:3], singly, strict=True):
        assert one.spectral_norm.value == pytest.approx(other.spectral_norm.value, rel=1e-4)


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Linear(FEATURES, 64), nn.GELU()]
        for _ in range(16):
            layers += [nn.Linear(64, 64), nn.GELU()]
        self.net = nn.Sequential(*layers, nn.Linear(64, CLASSES))
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)
        return out


HONEST: dict[str, Callable[[], Any]] = {
    "net": Net,
    "deep": Deep,
    "last digits": lambda: batch_sensitive(Net(), 1e-6),
    "more last digits": lambda: batch_sensitive(Deep(), 3e-6),
}


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("decimals", [None, 3])
def test_last_digits_are_no_batch_effect(name: str, decimals: int | None) -> None:
    """A network whose sums depend on the call, rounded or not, is deterministic, and asked in calls as before."""
    module, x = HONEST[name]().eval(), inputs()
    exact = answering(module)
    model = exact if decimals is None else lambda batch: rounded(exact(batch), decimals)
    report = audit(model, x, queries=60)
    assert not report.model["preflight"]["row_by_row"]
    assert not any("not deterministic" in sentence for sentence in report.warnings)


def rounded(p: np.ndarray, decimals: int) -> np.ndarray:
    p = np.round(p.astype(np.float64), decimals)
    p[np.arange(len(p)), p.argmax(1)] += 1 - p.sum(1)
    return p


def test_a_random_model_is_not_said_to_have_a_batch_effect() -> None:
    rng = np.random.default_rng(0)
    exact = answering(Net().eval())

    def noisy(batch: np.ndarray) -> np.ndarray:
        z = np.log(exact(batch)) + 0.05 * rng.standard_normal((len(batch), CLASSES))
        return np.asarray(np.exp(z) / np.exp(z).sum(1, keepdims=True))

    found, meter = looked(noisy, inputs())
    assert found.random
    assert not found.row_by_row
    assert meter.batch is None


def test_it_is_remembered_when_a_run_is_gone_on_with(tmp_path: Any) -> None:
    module, x = MinMax().eval(), inputs()
    whole = audit(module, x, link="softmax", mode="black-box", queries=40, out=tmp_path / "whole")
    cut = audit(module, x, link="softmax", mode="black-box", queries=40, out=tmp_path / "cut", budget=400)
    assert cut.data["measured"] < INPUTS
    again = audit(module, x, link="softmax", mode="black-box", queries=40, out=tmp_path / "cut", resume=True)
    assert [one.spectral_norm for one in again.inputs] == [one.spectral_norm for one in whole.inputs]
    assert again.summary.requests == whole.summary.requests
