"""Models of many kinds with inputs, and what is exact at each input where there is a local value at all.

A regime is made by a function of ``REGIMES`` from a ``Workshop``; everything is trained here, in seconds.
"""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy import stats
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_digits, load_wine, make_moons
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from torch import nn
from torch.nn import functional

from fimaudit.domain import InputDomain

__all__ = ["REGIMES", "SEED", "Local", "Regime", "Workshop"]

Array = np.ndarray
#: ``smooth``: one derivative, which must be found; ``kinked``: one almost everywhere, inputs may be refused; ``hidden``: a
#: smooth model behind small jumps, inputs may be refused, numbers that claim to be local are those of the smooth model;
#: ``none``: no derivative, or none that says anything.
Sort = Literal["smooth", "kinked", "hidden", "none"]
SEED = 0
#: Central differences of estimators, as a share of the feature's spread.
STEP = 1e-5


@dataclass(frozen=True)
class Local:
    """What is exact at one input.

    Attributes:
        log_p: (K,) log-probabilities, float64.
        slopes: (K, d) their gradients, in 1 / unit of the input.
        visible: (K,) classes that the answers show one by one; the others count as one.
    """

    log_p: Array
    slopes: Array
    visible: Array


@dataclass(frozen=True)
class Regime:
    """A deployed model with inputs.

    Attributes:
        sort: what there is to measure.
        model: what is audited.
        x: (n, \\*shape) inputs.
        others: (m, \\*shape) further inputs, to which the way may lead over a change of decision.
        local: exact values at one input of shape \\*shape; ``None`` where there are none.
        domain: of the inputs.
        options: further options of the audit; it is black box where they do not say otherwise.
    """

    sort: Sort
    model: Any
    x: Array
    others: Array
    local: Callable[[Array], Local] | None
    domain: InputDomain
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Workshop:
    """How many inputs a regime has, and the folder in which trained networks and files are kept."""

    inputs: int
    folder: Path

    def trained(self, name: str, network: nn.Module, data: Data, epochs: int = 8, rate: float = 3e-3) -> nn.Module:
        """The network trained on the first half of the data, kept under its name."""
        kept = self.folder / f"{name}.pt"
        if kept.exists():
            network.load_state_dict(torch.load(kept, weights_only=True))
            return network.eval()
        x, y = torch.from_numpy(data.fit), torch.from_numpy(data.labels)
        optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-2)
        network.train()
        for _ in range(epochs):
            for batch in torch.split(torch.randperm(len(x)), 32):
                optimiser.zero_grad()
                functional.cross_entropy(network(x[batch]), y[batch]).backward()
                optimiser.step()
        torch.save(network.state_dict(), kept)
        return network.eval()


@dataclass(frozen=True)
class Data:
    """Half to fit, half to ask; float32."""

    fit: Array
    labels: Array
    ask: Array
    domain: InputDomain = field(default_factory=InputDomain)

    def shaped(self, *shape: int) -> Data:
        """Inputs of another shape."""
        return Data(self.fit.reshape(-1, *shape), self.labels, self.ask.reshape(-1, *shape), self.domain)

    def mapped(self, change: Callable[[Array], Array]) -> Data:
        """Inputs changed, without bounds."""
        return Data(change(self.fit).astype(np.float32), self.labels, change(self.ask).astype(np.float32))


def halves(x: Array, y: Array, **domain: Any) -> Data:
    """Shuffle and cut in two."""
    order = np.random.default_rng(SEED).permutation(len(x))
    half = len(x) // 2
    x = x.astype(np.float32)[order]
    return Data(x[:half], y.astype(np.int64)[order][:half], x[half:], InputDomain(**domain))


def digits(flat: bool = False) -> Data:
    """scikit-learn's digits, 64 pixels in [0, 1]: as they are, with backgrounds of exact ties, or moved off them."""
    x, y = load_digits(return_X_y=True)
    if flat:
        return halves(x / 16.0, y, lower=0.0, upper=1.0)
    noise = np.random.default_rng(SEED).uniform(-0.03, 0.03, x.shape)
    return halves(0.1 + 0.8 * x / 16.0 + noise, y, lower=0.0, upper=1.0)


def table(load: Callable[..., Any], features: int | None = None) -> Data:
    """A table of scikit-learn, standardised."""
    x, y = load(return_X_y=True)
    x = x[:, :features]
    return halves((x - x.mean(axis=0)) / x.std(axis=0), y)


# Exact values.


def autograd(network: nn.Module, change: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Callable[[Array], Local]:
    """Of a network of logits (one logit: its sigmoid), in float64; ``change`` comes before it."""
    exact = copy.deepcopy(network).double().eval()

    def local(x: Array) -> Local:
        point = torch.from_numpy(x[None].astype(np.float64)).requires_grad_()
        logits = exact(point if change is None else change(point))
        if logits.shape[1] == 1:
            logits = torch.hstack([torch.zeros_like(logits), logits])
        logs = logits.log_softmax(1)[0]
        slopes = torch.stack([torch.autograd.grad(one, point, retain_graph=True)[0].flatten() for one in logs])
        return Local(logs.detach().numpy(), slopes.numpy(), np.ones(len(logs), dtype=bool))

    return local


def differences(answer: Callable[[Array], Array], spread: Array) -> Callable[[Array], Local]:
    """Of a function of float64 rows, by central differences of every feature."""

    def local(x: Array) -> Local:
        own = x.astype(np.float64).ravel()
        steps = np.diag(STEP * np.broadcast_to(spread, own.shape))
        rows = np.concatenate([own[None], own + steps, own - steps])
        logs = np.log(np.maximum(answer(rows), 1e-300))
        up, down = logs[1 : len(own) + 1], logs[len(own) + 1 :]
        slopes = ((up - down) / (2 * np.diag(steps))[:, None]).T
        return Local(logs[0], slopes, np.ones(logs.shape[1], dtype=bool))

    return local


# Networks.


class Sequence(nn.Module):
    """LSTM over the rows of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(8, 32, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(x)[0][:, -1])


class Transformer(nn.Module):
    """A vision transformer: patches of 2 x 2, two layers of attention with GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 2, stride=2)
        self.place = nn.Parameter(0.1 * torch.randn(16, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.patches(x).flatten(2).transpose(1, 2) + self.place).mean(1))


class Residual(nn.Module):
    """Two residual blocks of convolutions with batch norm and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        blocks = [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
        self.blocks = nn.ModuleList([nn.Sequential(*copy.deepcopy(blocks)) for _ in range(2)])
        self.head = nn.Linear(8 * 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.stem(x)
        for block in self.blocks:
            out = torch.relu(out + block(out))
        return self.head(out.flatten(1))


class Deep(nn.Module):
    """Twenty layers, each added to what comes before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 32)
        layer = [nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU()]
        self.layers = nn.ModuleList(nn.Sequential(*copy.deepcopy(layer)) for _ in range(18))
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.first(x)
        for layer in self.layers:
            out = out + layer(out)
        return self.head(out)


class Mixture(nn.Module):
    """Four experts, their logits weighted by a gate, or the logits of the one that the gate prefers."""

    def __init__(self, hard: bool) -> None:
        super().__init__()
        self.hard = hard
        self.gate = nn.Linear(64, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(64, 24), nn.GELU(), nn.Linear(24, 10)) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.gate(x).softmax(1)
        if self.hard:  # the weight stays as a factor, so that the gate learns
            weights = weights * functional.one_hot(weights.argmax(1), 4)
        return (weights[:, :, None] * torch.stack([expert(x) for expert in self.experts], 1)).sum(1)


class Branches(nn.Module):
    """Two branches added up; ``way`` keeps the input's values on the way to the second, if not its derivatives."""

    def __init__(self, way: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.clone) -> None:
        super().__init__()
        self.way = way
        self.near = mlp(64, 10, nn.GELU, 24)
        self.far = mlp(64, 10, nn.GELU, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.near(x) + self.far(self.way(x))


class Rounded(nn.Module):
    """Inputs rounded to levels before the network; derivatives pass straight through, or are zero."""

    def __init__(self, network: nn.Module, levels: int, straight: bool) -> None:
        super().__init__()
        self.network, self.levels, self.straight = network, levels, straight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rounded = torch.round(x * (self.levels - 1)) / (self.levels - 1)
        return self.network(x + (rounded - x).detach() if self.straight else rounded)


class Head(nn.Module):
    """The network's logits times a factor, of inputs ``(x - offset) * gain``."""

    def __init__(self, network: nn.Module, factor: float = 1.0, gain: float = 1.0, offset: float = 0.0) -> None:
        super().__init__()
        self.network, self.factor, self.gain, self.offset = network, factor, gain, offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * self.network((x - self.offset) * self.gain)


def mlp(features: int, classes: int, activation: type[nn.Module], width: int = 32) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(features, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, classes)
    )


def convolutions(pool: type[nn.Module]) -> nn.Sequential:
    """Two convolutions with pooling, of 8 x 8 pictures."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), pool(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)
    )


# Regimes of networks, asked as they are.

REGIMES: dict[str, Callable[[Workshop], Regime]] = {}


def regime(make: Callable[[Workshop], Regime]) -> Callable[[Workshop], Regime]:
    """Put it among ``REGIMES`` under its name."""

    def seeded(shop: Workshop) -> Regime:
        torch.manual_seed(SEED)
        return make(shop)

    REGIMES[make.__name__] = seeded
    return seeded


def asked(shop: Workshop, data: Data, sort: Sort, model: Any, local: Any, **options: Any) -> Regime:
    """A regime over the half of the data that is asked."""
    return Regime(sort, model, data.ask[: shop.inputs], data.ask[shop.inputs :][:600], local, data.domain, options)


def network(shop: Workshop, data: Data, net: nn.Module, sort: Sort = "smooth", **options: Any) -> Regime:
    """A regime of a torch network of logits."""
    return asked(shop, data, sort, net, autograd(net), link="softmax", **options)


def function(shop: Workshop, data: Data, sort: Sort, answer: Callable[[Array], Array], local: Any, **options: Any) -> Regime:
    """A regime of a function of float32 rows."""
    return asked(shop, data, sort, answer, local, link="identity", **{"dtype": "float32", **options})


def plain(net: nn.Module) -> Callable[[Array], Array]:
    """Probabilities in float32, as a server gives them."""

    def answer(rows: Array) -> Array:
        with torch.no_grad():
            return net(torch.from_numpy(np.ascontiguousarray(rows))).softmax(1).numpy()

    return answer


def digits_mlp(shop: Workshop) -> nn.Module:
    """The network that many wrappers are put around."""
    return shop.trained("digits_mlp", mlp(64, 10, nn.GELU), digits())


@regime
def cnn(shop: Workshop) -> Regime:
    data = digits().shaped(1, 8, 8)
    return network(shop, data, shop.trained("cnn", convolutions(nn.AvgPool2d), data))


@regime
def cnn_max_pool(shop: Workshop) -> Regime:
    data = digits().shaped(1, 8, 8)
    return network(shop, data, shop.trained("cnn_max_pool", convolutions(nn.MaxPool2d), data))


@regime
def cnn_flat_background(shop: Workshop) -> Regime:
    data = digits(flat=True).shaped(1, 8, 8)
    return network(shop, data, shop.trained("cnn_flat", convolutions(nn.MaxPool2d), data), "kinked")


@regime
def vision_transformer(shop: Workshop) -> Regime:
    data = digits().shaped(1, 8, 8)
    return network(shop, data, shop.trained("transformer", Transformer(), data))


@regime
def lstm(shop: Workshop) -> Regime:
    data = digits().shaped(8, 8)
    return network(shop, data, shop.trained("lstm", Sequence(), data))


@regime
def residual(shop: Workshop) -> Regime:
    data = digits().shaped(1, 8, 8)
    return network(shop, data, shop.trained("residual", Residual(), data))


@regime
def mixture_soft(shop: Workshop) -> Regime:
    return network(shop, digits(), shop.trained("mixture_soft", Mixture(hard=False), digits()))


@regime
def mixture_hard(shop: Workshop) -> Regime:
    return network(shop, digits(), shop.trained("mixture_hard", Mixture(hard=True), digits()), "kinked")


class EarlyExit(nn.Module):
    """Where a small model is sure enough it answers, else a larger one."""

    def __init__(self, small: nn.Module, large: nn.Module) -> None:
        super().__init__()
        self.small, self.large = small, large

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.small(x)
        return torch.where(first.softmax(1).amax(1, keepdim=True) > 0.9, first, self.large(x))


@regime
def early_exit(shop: Workshop) -> Regime:
    small = shop.trained("linear", nn.Sequential(nn.Linear(64, 10)), digits(), epochs=20)
    return network(shop, digits(), EarlyExit(small, digits_mlp(shop)), "kinked")


@regime
def deep_mlp(shop: Workshop) -> Regime:
    return network(shop, digits(), shop.trained("deep", Deep(), digits()))


@regime
def relu_table(shop: Workshop) -> Regime:
    data = table(load_breast_cancer)
    return network(shop, data, shop.trained("relu_table", mlp(30, 2, nn.ReLU), data))


@regime
def tanh_table(shop: Workshop) -> Regime:
    data = table(load_wine)
    return network(shop, data, shop.trained("tanh_table", mlp(13, 3, nn.Tanh), data, epochs=20))


@regime
def sigmoid_table(shop: Workshop) -> Regime:
    data = table(load_breast_cancer)
    net = shop.trained("sigmoid_table", mlp(30, 2, nn.Sigmoid), data, epochs=40, rate=1e-2)
    return network(shop, data, Head(net, 4.0))


@regime
def one_feature(shop: Workshop) -> Regime:
    data = table(load_breast_cancer, 1)
    return network(shop, data, shop.trained("one_feature", mlp(1, 2, nn.Tanh), data))


@regime
def two_features(shop: Workshop) -> Regime:
    data = halves(*make_moons(800, noise=0.2, random_state=SEED))
    return network(shop, data, shop.trained("two_features", mlp(2, 2, nn.Tanh), data, epochs=20))


@regime
def thousand_classes(shop: Workshop) -> Regime:
    rng = np.random.default_rng(SEED)
    centres = 1.2 * rng.standard_normal((1000, 64))
    labels = np.tile(np.arange(1000), 4)
    data = halves(centres[labels] + rng.standard_normal((4000, 64)), labels)
    return network(shop, data, shop.trained("thousand", mlp(64, 1000, nn.GELU, 64), data, epochs=15))


def photos(shop: Workshop) -> Data:
    """Digits as pictures of 3 x 224 x 224: 150,528 features."""
    x, y = load_digits(return_X_y=True)
    small = torch.tensor(x[:400].reshape(-1, 1, 8, 8) / 20.0 + 0.1, dtype=torch.float32)
    large = functional.interpolate(small, size=(224, 224), mode="bilinear", align_corners=False).expand(-1, 3, 224, 224)
    data = halves(large.numpy(), y[:400], lower=0.0, upper=1.0)
    return Data(data.fit, data.labels, data.ask[: shop.inputs + 40], data.domain)


def photo_network(shop: Workshop, data: Data) -> nn.Module:
    """Two convolutions, the first of them over patches."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 16, stride=16), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10)
    )
    return shop.trained("photo", net, data)


@regime
def photo(shop: Workshop) -> Regime:
    data = photos(shop)
    return network(shop, data, photo_network(shop, data))


@regime
def photo_8_bit(shop: Workshop) -> Regime:
    """Pixels rounded to bytes inside."""
    data = photos(shop)
    return asked(shop, data, "none", Rounded(photo_network(shop, data), 256, False), None, link="softmax")


@regime
def saturated(shop: Workshop) -> Regime:
    return network(shop, digits(), Head(digits_mlp(shop), 10.0))


@regime
def near_uniform(shop: Workshop) -> Regime:
    return network(shop, digits(), Head(digits_mlp(shop), 1e-3))


@regime
def scale_1e_minus_6(shop: Workshop) -> Regime:
    net, data = digits_mlp(shop), digits().mapped(lambda x: x * 1e-6)
    return network(shop, data, Head(net, gain=1e6))


@regime
def scale_1e_6(shop: Workshop) -> Regime:
    net, data = digits_mlp(shop), digits().mapped(lambda x: x * 1e6)
    return network(shop, data, Head(net, gain=1e-6))


@regime
def offset_1000(shop: Workshop) -> Regime:
    net, data = digits_mlp(shop), digits().mapped(lambda x: x + 1000)
    return network(shop, data, Head(net, offset=1000.0))


# Estimators.


def estimator(shop: Workshop, data: Data, model: Any, sort: Sort, **options: Any) -> Regime:
    """A regime of a scikit-learn estimator, fitted in the units of the data."""
    model.fit(data.fit.astype(np.float64), data.labels)
    local = None if sort == "none" else differences(model.predict_proba, data.fit.astype(np.float64).std(axis=0) + 1e-3)
    return asked(shop, data, sort, model, local, **options)


@regime
def logistic(shop: Workshop) -> Regime:
    return estimator(shop, table(load_wine), LogisticRegression(), "smooth")


@regime
def mixed_scales(shop: Workshop) -> Regime:
    """Columns whose spreads run from 0.003 to 600, measured in standard deviations."""
    x, y = load_breast_cancer(return_X_y=True)
    data, scale = halves(x, y), x.std(axis=0)
    net = shop.trained("mixed", mlp(30, 2, nn.Tanh), halves((x - x.mean(axis=0)) / scale, y))
    first = nn.Linear(30, 30)
    with torch.no_grad():
        first.weight.copy_(torch.diag(torch.tensor(1 / scale)))
        first.bias.copy_(torch.tensor(-x.mean(axis=0) / scale))
    data = Data(data.fit, data.labels, data.ask, InputDomain(scale=scale))
    return network(shop, data, nn.Sequential(first, net))


@regime
def naive_bayes(shop: Workshop) -> Regime:
    return estimator(shop, table(load_wine), GaussianNB(), "smooth")


@regime
def gaussian_process(shop: Workshop) -> Regime:
    data = table(load_breast_cancer, 10)
    few = Data(data.fit[:120], data.labels[:120], data.ask, data.domain)
    return estimator(shop, few, GaussianProcessClassifier(random_state=SEED), "smooth")


@regime
def svc(shop: Workshop) -> Regime:
    return estimator(shop, table(load_breast_cancer), CalibratedClassifierCV(SVC(), ensemble=False, cv=3), "smooth")


@regime
def svc_votes(shop: Workshop) -> Regime:
    """Several classes: pairwise votes, which jump."""
    return estimator(shop, digits(), CalibratedClassifierCV(SVC(), ensemble=False, cv=3), "kinked")


@regime
def isotonic(shop: Workshop) -> Regime:
    """Calibrated by a step-wise linear curve: kinks and level stretches."""
    model = CalibratedClassifierCV(LogisticRegression(), method="isotonic", ensemble=False, cv=3)
    return estimator(shop, table(load_breast_cancer), model, "kinked")


@regime
def neighbours(shop: Workshop) -> Regime:
    return estimator(shop, digits(), KNeighborsClassifier(7), "none")


@regime
def neighbours_by_distance(shop: Workshop) -> Regime:
    """Smooth as long as the neighbours stay the same ones."""
    return estimator(shop, digits(), KNeighborsClassifier(7, weights="distance"), "kinked")


@regime
def forest(shop: Workshop) -> Regime:
    return estimator(shop, table(load_breast_cancer), RandomForestClassifier(100, random_state=SEED), "none")


@regime
def boosting(shop: Workshop) -> Regime:
    return estimator(shop, table(load_wine), GradientBoostingClassifier(random_state=SEED), "none")


@regime
def boosting_behind_a_function(shop: Workshop) -> Regime:
    """Of which nothing is known but the answers."""
    data = table(load_breast_cancer)
    model = HistGradientBoostingClassifier(random_state=SEED).fit(data.fit, data.labels)
    return function(shop, data, "none", model.predict_proba, None)


# Numbers of few bits.


def half_precision(shop: Workshop, kind: torch.dtype) -> Regime:
    """The network in few bits, fed with float32 and answering in float32."""
    data = digits()
    low = copy.deepcopy(digits_mlp(shop)).to(kind)

    def held(x: Array) -> Array:
        return torch.from_numpy(x).to(kind).float().numpy()

    def answer(rows: Array) -> Array:
        with torch.no_grad():
            return low(torch.from_numpy(rows).to(kind)).float().softmax(1).numpy()

    data = Data(held(data.fit), data.labels, held(data.ask), data.domain)
    return function(shop, data, "hidden", answer, autograd(low))


@regime
def float16(shop: Workshop) -> Regime:
    return half_precision(shop, torch.float16)


@regime
def bfloat16(shop: Workshop) -> Regime:
    return half_precision(shop, torch.bfloat16)


@regime
def float16_answers(shop: Workshop) -> Regime:
    net = digits_mlp(shop)
    return function(shop, digits(), "hidden", lambda rows: plain(net)(rows).astype(np.float16), autograd(net))


def decimals(shop: Workshop, data: Data, net: nn.Module, places: int) -> Regime:
    """Rounded answers: classes of less than ten quanta are seen together only."""
    exact = autograd(net)

    def local(x: Array) -> Local:
        found = exact(x)
        return Local(found.log_p, found.slopes, np.exp(found.log_p) >= 10.0 ** (1 - places))

    return function(shop, data, "hidden", lambda rows: np.round(plain(net)(rows).astype(np.float64), places), local)


@regime
def answers_of_3_decimals(shop: Workshop) -> Regime:
    data = table(load_wine)
    return decimals(shop, data, shop.trained("tanh_table", mlp(13, 3, nn.Tanh), data, epochs=20), 3)


@regime
def answers_of_2_decimals(shop: Workshop) -> Regime:
    return decimals(shop, digits(), Head(digits_mlp(shop), 0.3), 2)


def onnx_mlp(net: nn.Module, path: Path, weights: str = "float32") -> None:
    """The ReLU network as an ONNX file of logits; weights as they are, or in int8 with a scale each column."""
    from onnx import TensorProto, helper, numpy_helper, save

    nodes, held, before = [], [], "x"
    for k, layer in enumerate(net):
        after = f"h{k}"
        if isinstance(layer, nn.Linear):
            matrix = layer.weight.detach().numpy().T.copy()
            bias = layer.bias.detach().numpy()
            held.append(numpy_helper.from_array(bias, f"b{k}"))
            if weights == "int8":
                scale = (np.abs(matrix).max(axis=0) / 127).astype(np.float32)
                held.append(numpy_helper.from_array(np.round(matrix / scale).astype(np.int8), f"q{k}"))
                held.append(numpy_helper.from_array(scale, f"s{k}"))
                held.append(numpy_helper.from_array(np.zeros(len(scale), np.int8), f"z{k}"))
                nodes.append(helper.make_node("DequantizeLinear", [f"q{k}", f"s{k}", f"z{k}"], [f"w{k}"], axis=1))
            else:
                held.append(numpy_helper.from_array(matrix, f"w{k}"))
            nodes.append(helper.make_node("MatMul", [before, f"w{k}"], [f"m{k}"]))
            nodes.append(helper.make_node("Add", [f"m{k}", f"b{k}"], [after]))
        else:
            nodes.append(helper.make_node("Relu", [before], [after]))
        before = after
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 64), (before, 10))]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], held)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def onnx_network(shop: Workshop) -> nn.Module:
    """What the files hold: ReLU, so that every tool knows it."""
    return shop.trained("onnx", mlp(64, 10, nn.ReLU), digits())


@regime
def onnx_float(shop: Workshop) -> Regime:
    net, path = onnx_network(shop), shop.folder / "float.onnx"
    onnx_mlp(net, path)
    return asked(shop, digits(), "smooth", str(path), autograd(net), link="softmax")


@regime
def onnx_int8(shop: Workshop) -> Regime:
    """Weights and activations in int8 (QDQ)."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Rows(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(np.split(digits().fit[:400], 4))

        def get_next(self) -> Any:
            batch = next(self.batches, None)
            return None if batch is None else {"x": batch}

    plain_file, path = shop.folder / "int8_source.onnx", shop.folder / "int8.onnx"
    onnx_mlp(onnx_network(shop), plain_file)
    quantize_static(plain_file, path, Rows(), quant_format=QuantFormat.QDQ)
    return asked(shop, digits(), "none", str(path), None, link="softmax")


@regime
def onnx_int8_dynamic(shop: Workshop) -> Regime:
    """Activations in int8, their range found at each call."""
    from onnxruntime.quantization import quantize_dynamic

    plain_file, path = shop.folder / "dynamic_source.onnx", shop.folder / "dynamic.onnx"
    onnx_mlp(onnx_network(shop), plain_file)
    quantize_dynamic(plain_file, path)
    return asked(shop, digits(), "none", str(path), None, link="softmax")


@regime
def onnx_int8_weights(shop: Workshop) -> Regime:
    """Only the weights in int8: smooth as the file says, whatever a runtime makes of it."""
    net, path = onnx_network(shop), shop.folder / "weights.onnx"
    onnx_mlp(net, path, "int8")
    exact = copy.deepcopy(net)
    for layer in exact.modules():
        if isinstance(layer, nn.Linear):
            scale = (layer.weight.detach().abs().amax(1, keepdim=True) / 127).float()
            layer.weight.data = torch.round(layer.weight.detach() / scale) * scale
    return asked(shop, digits(), "hidden", str(path), autograd(exact), link="softmax")


# What stands before the model.


def before(shop: Workshop, change: Callable[[Array], Array], data: Data | None = None) -> Regime:
    """A change of the inputs that has no derivative."""
    answer = plain(digits_mlp(shop))
    return function(shop, data or digits(), "none", lambda rows: answer(change(rows).astype(np.float32)), None)


@regime
def rounded_to_8(shop: Workshop) -> Regime:
    return before(shop, lambda rows: np.round(rows * 7) / 7)


@regime
def rounded_to_256(shop: Workshop) -> Regime:
    return before(shop, lambda rows: np.round(rows * 255) / 255)


@regime
def jpeg(shop: Workshop) -> Regime:
    from PIL import Image

    def packed(row: Array) -> Array:
        file = io.BytesIO()
        Image.fromarray(np.round(255 * np.clip(row.reshape(8, 8), 0, 1)).astype(np.uint8)).save(file, "JPEG", quality=75)
        return np.asarray(Image.open(file), dtype=np.float32).ravel() / 255

    return before(shop, lambda rows: np.stack([packed(row) for row in rows]))


def filtered(pictures: torch.Tensor) -> torch.Tensor:
    """Median of each 3 x 3 neighbourhood."""
    padded = functional.pad(pictures.reshape(-1, 1, 8, 8), (1, 1, 1, 1), mode="replicate")
    return functional.unfold(padded, 3).median(1).values


@regime
def median_filter(shop: Workshop) -> Regime:
    net = digits_mlp(shop)
    answer = plain(net)
    return function(
        shop, digits(), "kinked", lambda rows: answer(filtered(torch.from_numpy(rows)).numpy()), autograd(net, filtered)
    )


@regime
def clipped(shop: Workshop) -> Regime:
    """Pixels beyond 0.3 and 0.7 are cut inside."""
    net = digits_mlp(shop)
    answer = plain(net)
    return function(
        shop, digits(), "smooth", lambda rows: answer(np.clip(rows, 0.3, 0.7)), autograd(net, lambda x: x.clamp(0.3, 0.7))
    )


# What comes after it, and derivatives that are not those of the function.


def from_bytes(rows: Array, classes: int) -> Array:
    """Standard normal numbers, (n, classes), that depend on every bit of the row, and on nothing else."""
    seeds = [int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little") for row in rows]
    return np.stack([np.random.Generator(np.random.PCG64(seed)).standard_normal(classes) for seed in seeds])


def hash_noise(shop: Workshop, size: float, sort: Sort) -> Regime:
    """Noise on the scores that a hash of the row seeds."""
    net = digits_mlp(shop)

    def answer(rows: Array) -> Array:
        with torch.no_grad():
            logits = net(torch.from_numpy(rows)).double() + size * torch.from_numpy(from_bytes(rows, 10))
        return logits.softmax(1).numpy()

    return function(shop, digits(), sort, answer, None if sort == "none" else autograd(net))


@regime
def hash_noise_0_1(shop: Workshop) -> Regime:
    return hash_noise(shop, 0.1, "none")


@regime
def hash_noise_0_0001(shop: Workshop) -> Regime:
    return hash_noise(shop, 1e-4, "hidden")


def hash_routing(shop: Workshop, share: float) -> Regime:
    """A share of the rows, chosen by a hash, is answered by another version."""
    old, new = plain(digits_mlp(shop)), plain(shop.trained("version_2", mlp(64, 10, nn.ReLU), digits()))

    def answer(rows: Array) -> Array:
        routed = from_bytes(rows, 1)[:, 0] > stats.norm.isf(share)
        return np.where(routed[:, None], new(rows), old(rows))

    return function(shop, digits(), "none", answer, None)


@regime
def hash_routing_10(shop: Workshop) -> Regime:
    return hash_routing(shop, 0.1)


@regime
def hash_routing_3(shop: Workshop) -> Regime:
    return hash_routing(shop, 0.03)


@regime
def one_hot(shop: Workshop) -> Regime:
    net = digits_mlp(shop)
    return function(shop, digits(), "none", lambda rows: np.eye(10, dtype=np.float32)[plain(net)(rows).argmax(1)], None)


@regime
def rounded_module(shop: Workshop) -> Regime:
    """Derivatives on offer are zero."""
    return asked(shop, digits(), "none", Rounded(digits_mlp(shop), 8, False), None, link="softmax", mode="auto")


@regime
def straight_through(shop: Workshop) -> Regime:
    """Derivatives on offer are those of a model without the rounding."""
    return asked(shop, digits(), "none", Rounded(digits_mlp(shop), 8, True), None, link="softmax", mode="auto")


def wrong_derivatives(shop: Workshop, way: Callable[[torch.Tensor], torch.Tensor]) -> Regime:
    """Derivatives on offer are not those of the second branch."""
    whole = shop.trained("two_branches", Branches(), digits())
    part = Branches(way)
    part.load_state_dict(whole.state_dict())
    return asked(shop, digits(), "smooth", part.eval(), autograd(whole), link="softmax", mode="auto")


@regime
def detached_branch(shop: Workshop) -> Regime:
    return wrong_derivatives(shop, torch.Tensor.detach)


@regime
def reversed_branch(shop: Workshop) -> Regime:
    return wrong_derivatives(shop, lambda x: 2 * x.detach() - x)


@regime
def quantised_module(shop: Workshop) -> Regime:
    """Torch's own int8, whose range is found at each call: answers depend on the rows beside them."""
    low = torch.ao.quantization.quantize_dynamic(copy.deepcopy(digits_mlp(shop)), {nn.Linear}, dtype=torch.qint8)
    return asked(shop, digits(), "none", low, None, link="softmax", mode="auto")


@regime
def batch_effect(shop: Workshop) -> Regime:
    """A twentieth of the mean of the call's rows is taken off each: alone, a row is only made smaller."""
    net = digits_mlp(shop)
    answer = plain(net)
    return function(
        shop, digits(), "hidden", lambda rows: answer(rows - 0.05 * rows.mean(0)), autograd(net, lambda x: 0.95 * x)
    )
