"""Lipschitz constants and ranges of element-wise functions, rounded up."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["ACTIVATIONS", "Activation", "parametrised"]


@dataclass(frozen=True)
class Activation:
    """``slope`` bounds |f'|; ``cap`` bounds |f|, infinite where f is not bounded; ``at_zero`` is |f(0)|."""

    slope: float
    cap: float = math.inf
    at_zero: float = 0.0


ACTIVATIONS: dict[str, Activation] = {
    "abs": Activation(1.0),
    "arctan": Activation(1.0, math.pi / 2),
    "cos": Activation(1.0, 1.0, 1.0),
    "erf": Activation(2 / math.sqrt(math.pi) * (1 + 1e-9), 1.0),
    "gelu": Activation(1.12905),
    "hard_sigmoid": Activation(1 / 6 + 1e-9, 1.0, 0.5),
    "hard_swish": Activation(1.5),
    "log_sigmoid": Activation(1.0, at_zero=math.log(2) + 1e-9),
    "mish": Activation(1.08850),
    "relu": Activation(1.0),
    "relu6": Activation(1.0, 6.0),
    "selu": Activation(1.75810),
    "sigmoid": Activation(0.25, 1.0, 0.5),
    "silu": Activation(1.09984),
    "sin": Activation(1.0, 1.0),
    "softplus": Activation(1.0, at_zero=math.log(2) + 1e-9),
    "softsign": Activation(1.0, 1.0),
    "tanh": Activation(1.0, 1.0),
    "tanhshrink": Activation(1.0),
}
"""Constants of f with no parameter. GELU's holds for the erf and for the tanh form (sup 1.128904 and 1.128994); silu
x sigmoid(b x) has the same supremum for every b, as has x (1 + erf(b x)). Checked on a dense grid by the tests."""


def parametrised(name: str, *values: float) -> Activation:
    """The functions with parameters: leaky_relu(slope), elu(alpha, scale, input scale), softplus(beta), clamp(low, high)."""
    if name == "leaky_relu":
        return Activation(max(1.0, abs(values[0])))
    if name == "elu":
        alpha, scale, inner = values
        return Activation(max(abs(scale), abs(alpha * scale * inner)))
    if name == "softplus":
        return Activation(1.0, at_zero=1.0 / abs(values[0]))
    if name == "clamp":
        low, high = values
        return Activation(1.0, max(abs(low), abs(high)), 0.0 if low <= 0 <= high else min(abs(low), abs(high)))
    raise KeyError(name)
