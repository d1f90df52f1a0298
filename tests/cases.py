"""The registry of small models whose truth is exact: analytic Jacobians in float64, no framework.

Each case is a model, its inputs and its domain; tests cross the cases with the algorithms (STYLE 17).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.margin import Margin, margin_limits

Array = NDArray[np.float64]


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def log_softmax(z: Array) -> Array:
    z = z - z.max(axis=-1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=-1, keepdims=True)))


@dataclass(frozen=True)
class SoftmaxModel:
    """z = V tanh(U x + c) + b, or z = V x + b where U is left out; answers softmax(z)."""

    V: Array
    b: Array
    U: Array | None = None
    c: Array | None = None
    answers: str = "float64"

    def __call__(self, batch: NDArray[np.floating]) -> NDArray[np.floating]:
        return softmax(self.logits(batch)).astype(self.answers)

    def logits(self, batch: NDArray[np.floating]) -> Array:
        x = np.asarray(batch, np.float64).reshape(len(batch), -1)
        hidden = x if self.U is None else np.tanh(x @ self.U.T + self.c)
        return np.asarray(hidden @ self.V.T + self.b)

    def jacobian(self, x: NDArray[np.floating]) -> Array:
        """(K, d) Jacobian of the logits."""
        flat = np.asarray(x, np.float64).ravel()
        if self.U is None:
            return self.V
        slope = 1 - np.tanh(self.U @ flat + self.c) ** 2
        return np.asarray((self.V * slope) @ self.U)


@dataclass(frozen=True)
class Truth:
    spectral: float
    trace: float
    peak: float
    radius: float
    rival: int


def truth_of(jacobian: Array, logits: Array) -> Truth:
    """The exact numbers from the (K, d) Jacobian of the logits; the peak by a dense scan over temperature."""
    log_p = log_softmax(logits)
    p, top = np.exp(log_p), int(np.argmax(log_p))
    eigenvalues = np.linalg.eigvalsh(_tempered(jacobian, log_p, 1.0))
    grid = np.geomspace(1e-3, 1e3, 4000)
    tops = np.array([np.linalg.eigvalsh(_tempered(jacobian, log_p, t))[-1] for t in grid[::20]])
    near = grid[max(0, 20 * int(tops.argmax()) - 20) : 20 * int(tops.argmax()) + 21]
    peak = max(np.linalg.eigvalsh(_tempered(jacobian, log_p, t))[-1] for t in near)
    others = np.delete(np.arange(len(p)), top)
    with np.errstate(divide="ignore"):
        radii = (log_p[top] - log_p[others]) / np.linalg.norm(jacobian[top] - jacobian[others], axis=1)
    rival = int(others[radii.argmin()])
    return Truth(float(eigenvalues[-1]), float(eigenvalues.sum()), float(peak), float(radii.min()), rival)


def _tempered(jacobian: Array, log_p: Array, temperature: float) -> Array:
    q = softmax(log_p / temperature)
    z = (jacobian - q @ jacobian) * np.sqrt(q)[:, None] / temperature
    return np.asarray(z @ z.T)


@dataclass(frozen=True)
class Case:
    """A model, inputs and their box.

    Attributes:
        frozen: positions of features that are held; truth is over the others.
        dtype: what the model is fed.
    """

    name: str
    model: SoftmaxModel
    x: NDArray[np.floating]
    lower: float = -np.inf
    upper: float = np.inf
    frozen: tuple[int, ...] = field(default=())
    dtype: str = "float64"

    def truth(self, index: int) -> Truth:
        x = self.x[index].astype(self.dtype)
        jacobian = np.delete(self.model.jacobian(x), self.frozen, axis=1)
        return truth_of(jacobian, self.model.logits(x[None])[0])


def linear(seed: int, classes: int, features: int, gain: float = 1.0, answers: str = "float64") -> SoftmaxModel:
    rng = np.random.default_rng(seed)
    V = rng.standard_normal((classes, features)) * gain / np.sqrt(features)
    return SoftmaxModel(V, rng.standard_normal(classes), answers=answers)


def tanh_network(
    seed: int, classes: int, features: int, hidden: int = 24, gain: float = 1.0, answers: str = "float64"
) -> SoftmaxModel:
    rng = np.random.default_rng(seed)
    U = rng.standard_normal((hidden, features)) / np.sqrt(features)
    V = rng.standard_normal((classes, hidden)) * gain * 2 / np.sqrt(hidden)
    return SoftmaxModel(V, rng.standard_normal(classes), U, rng.standard_normal(hidden) * 0.3, answers)


def normal_inputs(seed: int, count: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal((count, *shape))


def box_inputs(seed: int, count: int, *shape: int) -> Array:
    """Inputs in [0, 1] of which a good part lies on the edges, as in images."""
    return np.clip(np.random.default_rng(seed).uniform(-0.4, 1.4, (count, *shape)), 0.0, 1.0)


CASES = [
    Case("linear K=2 d=1", linear(0, 2, 1, 2.0), normal_inputs(0, 4, 1)),
    Case("linear K=3 d=2", linear(1, 3, 2, 2.0), normal_inputs(1, 4, 2)),
    Case("linear K=4 d=30", linear(2, 4, 30), normal_inputs(2, 4, 30)),
    Case("tanh K=3 d=30, box, edges", tanh_network(3, 3, 30), box_inputs(3, 4, 30), 0.0, 1.0),
    Case("tanh K=5 d=12, frozen", tanh_network(4, 5, 12), normal_inputs(4, 4, 12), frozen=(0, 5)),
    Case("tanh K=3 d=70, central once", tanh_network(5, 3, 70), normal_inputs(5, 4, 70)),
    Case("tanh K=3 d=150, forward", tanh_network(6, 3, 150), normal_inputs(6, 4, 150)),
    Case("tanh K=3 d=150, box, edges, forward", tanh_network(7, 3, 150), box_inputs(7, 4, 150), 0.0, 1.0),
    Case("tanh K=4 d=40 float32", tanh_network(8, 4, 40, answers="float32"), normal_inputs(8, 4, 40), dtype="float32"),
    Case(
        "tanh K=2 d=20 float32 in a box",
        tanh_network(9, 2, 20, answers="float32"),
        box_inputs(9, 4, 20),
        0,
        1,
        dtype="float32",
    ),
    Case("tanh K=10 d=300 orthonormal", tanh_network(10, 10, 300), normal_inputs(10, 4, 300)),
    Case("tanh K=4 d=600 image in a box", tanh_network(11, 4, 600, gain=3.0), box_inputs(11, 4, 3, 10, 20), 0.0, 1.0),
    Case("linear K=30 d=5000", linear(12, 30, 5000, 5.0), normal_inputs(12, 3, 5000)),
    Case(
        "tanh K=3 d=3000 float32", tanh_network(13, 3, 3000, answers="float32"), normal_inputs(13, 3, 3000), dtype="float32"
    ),
]


def margin_of(
    logs: np.ndarray, log_p: np.ndarray, top: int, confidence: float, features: int | None = None, **more: Any
) -> Margin | None:
    """``margin_limits`` of one input."""
    stacked = {name: value[None] if isinstance(value, np.ndarray) else value for name, value in more.items()}
    return margin_limits(logs[None], log_p[None], np.array([top]), confidence, features, **stacked)[0]
