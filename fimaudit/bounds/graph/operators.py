"""The one table of operators: for each, how its output's Lipschitz constant follows from those of its inputs.

A rule returns an ``Effect``: a gain for each input, how the terms combine (their sum, or the root of the sum of their
squares), and a bound on |element| of the output, which products and attention need. Both graph readers bring their
operators to these names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fimaudit.bounds.graph.attention_tokens import token_attention_norm
from fimaudit.bounds.graph.ir import Node, register_in
from fimaudit.bounds.norms.activations import ACTIVATIONS, parametrised
from fimaudit.bounds.norms.attention import separate_attention_gains
from fimaudit.bounds.norms.convolution import conv_norm
from fimaudit.bounds.norms.matrix import OUTWARD, largest_norm, spectral_norm_upper
from fimaudit.errors import TargetError, UsageError

__all__ = ["Effect", "UnboundedError", "UnknownOperatorError", "effect_of", "register_operator"]

Constant = float | Callable[[Node], float]


class UnknownOperatorError(TargetError):
    """The graph holds an operator for which no Lipschitz constant is known; the message says how to register one."""


class UnboundedError(TargetError):
    """The network has no global Lipschitz constant, or none follows from what is known of it."""


@dataclass(frozen=True)
class Effect:
    """``combine`` of (gain * Lipschitz constant) over the inputs; ``peak`` bounds |element| of the output."""

    gains: tuple[float, ...]
    combine: Literal["sum", "root"] = "sum"
    peak: float = math.inf


Rule = Callable[[Node, Sequence[float]], Effect]
RULES: dict[str, Rule] = {}
_rule = register_in(RULES)
REGISTERED: dict[str, Constant] = {}


def register_operator(name: str, constant: Constant) -> None:
    """Give the Lipschitz constant of an operator that the table does not know, or overrule the table.

    ||dy|| <= constant * sqrt(sum over its inputs of ||dx_i||^2), in l2 over all elements of one input to the network.
    It is the caller's
    word: a bound computed with it holds if the constant does, and the result says so.

    Args:
        name: as the error names it: ``aten.cumsum``, an ONNX operator type such as ``LRN`` or ``com.acme::Foo``, or a
            name of the table (``normalise``, ``softmax``).
        constant: a positive number, or a function of the graph's node (its ``shape``, ``inputs`` and ``attrs``).

    Raises:
        UsageError: not a function, nor a finite number that is not negative.

    >>> register_operator("com.acme::Foo", 1.0)
    """
    if not callable(constant) and not (isinstance(constant, int | float) and 0.0 <= constant < math.inf):
        raise UsageError(f"expected a finite Lipschitz constant or a function for operator {name!r}, got {constant!r}")
    REGISTERED[name] = constant


def effect_of(node: Node, peaks: Sequence[float]) -> Effect:
    """Apply the registered constant or the table's rule; stop at an operator that neither knows."""
    if node.op in REGISTERED:
        constant = REGISTERED[node.op]
        gain = float(constant(node)) if callable(constant) else float(constant)
        return Effect((gain,) * len(node.inputs), "root")
    if node.op not in RULES:
        raise UnknownOperatorError(
            f"expected operators with a known Lipschitz constant, got {node.op!r} (layer {node.name!r}); "
            f"if you know one, say fimaudit.bounds.register_operator({node.op!r}, constant), "
            f"or --constant '{node.op}=1.0' on the command line"
        )
    return RULES[node.op](node, peaks)


def _outward(norm: float) -> float:
    return norm if norm == 1.0 else norm * OUTWARD


def _reach(weights: NDArray[np.float64], peak: float) -> float:
    """Largest sum of |weight| over an output, times the peak; weights have their output axis first."""
    rows = np.abs(weights).reshape(len(weights), -1).sum(axis=1)
    return 0.0 if not rows.any() else float(rows.max()) * peak


@_rule("input")
def _input(node: Node, peaks: Sequence[float]) -> Effect:
    return Effect((), peak=float(node.attrs["peak"]))


@_rule("held")
def _held(node: Node, peaks: Sequence[float]) -> Effect:
    return Effect(())


@_rule("view")
def _view(node: Node, peaks: Sequence[float]) -> Effect:
    used = node.attrs["index"][node.attrs["index"] >= 0]
    count = int(np.bincount(used.ravel()).max()) if used.size else 0
    return Effect((_outward(math.sqrt(count)),), peak=max(peaks[0], node.attrs["fill"]))


@_rule("dense")
def _dense(node: Node, peaks: Sequence[float]) -> Effect:
    weight = node.attrs["weight"]
    bias = float(np.abs(node.attrs["bias"]).max(initial=0.0))
    return Effect((spectral_norm_upper(weight),), peak=_reach(weight, peaks[0]) + bias)


@_rule("conv")
def _conv(node: Node, peaks: Sequence[float]) -> Effect:
    a = node.attrs
    keys = ("stride", "padding", "dilation", "groups", "circular")
    norm = conv_norm(a["weight"], node.inputs[0].shape[2:], **{key: a[key] for key in keys})
    return Effect((norm,), peak=_reach(a["weight"], peaks[0]) + float(a["offset"].max(initial=0.0)))


@_rule("conv_transpose")
def _conv_transpose(node: Node, peaks: Sequence[float]) -> Effect:
    a = node.attrs
    keys = ("stride", "padding", "dilation", "groups")
    norm = conv_norm(a["weight"], node.shape[2:], **{key: a[key] for key in keys})
    w = a["weight"].reshape(a["groups"], -1, *a["weight"].shape[1:])
    outputs = np.moveaxis(w, 2, 1).reshape(a["groups"] * w.shape[2], -1)
    return Effect((norm,), peak=_reach(outputs, peaks[0]) + float(a["offset"].max(initial=0.0)))


@_rule("affine")
def _affine(node: Node, peaks: Sequence[float]) -> Effect:
    scale = float(np.abs(node.attrs["scale"]).max())
    shift = float(np.abs(node.attrs["shift"]).max())
    return Effect((_outward(scale),), peak=(scale * peaks[0] if scale else 0.0) + shift)


@_rule("pool", "reduce")
def _pool(node: Node, peaks: Sequence[float]) -> Effect:
    return Effect((_outward(node.attrs["norm"]),), peak=peaks[0] * node.attrs["growth"])


@_rule("activation")
def _activation(node: Node, peaks: Sequence[float]) -> Effect:
    function, values = node.attrs["function"], node.attrs["values"]
    known = parametrised(function, *values) if values else ACTIVATIONS[function]
    return Effect((_outward(known.slope),), peak=min(known.cap, known.at_zero + known.slope * peaks[0]))


@_rule("one-hot")
def _one_hot(node: Node, peaks: Sequence[float]) -> Effect:
    return Effect((1.0,), peak=1.0)  # the bound is with respect to the one-hot rows of the tokens


@_rule("centre")
def _centre(node: Node, peaks: Sequence[float]) -> Effect:
    return Effect((1.0,), peak=2 * peaks[0])


@_rule("normalise")
def _normalise(node: Node, peaks: Sequence[float]) -> Effect:
    return Effect((OUTWARD / math.sqrt(node.attrs["eps"]),), peak=math.sqrt(node.shape[-1]))


@_rule("softmax")
def _softmax(node: Node, peaks: Sequence[float]) -> Effect:
    return Effect((0.5,), peak=1.0)


@_rule("sum")
def _sum(node: Node, peaks: Sequence[float]) -> Effect:
    return Effect((1.0,) * len(peaks), peak=sum(peaks))


@_rule("concat")
def _concat(node: Node, peaks: Sequence[float]) -> Effect:
    return Effect((1.0,) * len(peaks), "root", max(*peaks, node.attrs["fill"]))


@_rule("maximum")
def _maximum(node: Node, peaks: Sequence[float]) -> Effect:
    return Effect((1.0,) * len(peaks), "root", max(peaks))


@_rule("power")
def _power(node: Node, peaks: Sequence[float]) -> Effect:
    exponent = node.attrs["exponent"]
    if exponent < 1:
        raise UnboundedError(f"x^{exponent:g} (layer {node.name!r}) has no Lipschitz constant around 0")
    _need_bounded(node, peaks)
    return Effect((OUTWARD * exponent * peaks[0] ** (exponent - 1),), peak=OUTWARD * peaks[0] ** exponent)


@_rule("product")
def _product(node: Node, peaks: Sequence[float]) -> Effect:
    _need_bounded(node, peaks)
    return Effect((OUTWARD * peaks[1], OUTWARD * peaks[0]), peak=OUTWARD * peaks[0] * peaks[1])


@_rule("matmul")
def _matmul(node: Node, peaks: Sequence[float]) -> Effect:
    _need_bounded(node, peaks)
    (rows, inner), columns = node.inputs[0].shape[-2:], node.shape[-1]
    gains = (math.sqrt(inner * columns) * peaks[1] * OUTWARD, math.sqrt(rows * inner) * peaks[0] * OUTWARD)
    return Effect(gains, peak=OUTWARD * inner * peaks[0] * peaks[1])


@_rule("batched matmul")
def _batched_matmul(node: Node, peaks: Sequence[float]) -> Effect:
    stack = node.attrs["weight"].reshape(-1, *node.attrs["weight"].shape[-2:])
    inner = float(np.abs(stack).sum(axis=1).max()), float(np.abs(stack).sum(axis=2).max())
    return Effect((OUTWARD * largest_norm([stack]),), peak=max(inner) * peaks[0])


@_rule("token attention")
def _token_attention(node: Node, peaks: Sequence[float]) -> Effect:
    return Effect((token_attention_norm(node),), peak=float(node.attrs["peak"]))


@_rule("attention")
def _attention(node: Node, peaks: Sequence[float]) -> Effect:
    _need_bounded(node, peaks, "its tokens are not bounded by a layer norm before it")
    query, key, value = node.inputs
    widths = (query.shape[-1], key.shape[-1], value.shape[-1])
    radii = [OUTWARD * math.sqrt(width) * peak for width, peak in zip(widths, peaks, strict=True)]
    gains = separate_attention_gains(
        (radii[0], radii[1], radii[2]), query.shape[-2], key.shape[-2], node.attrs["scale"], node.attrs["masked"]
    )
    return Effect(gains, peak=peaks[2])


def _need_bounded(node: Node, peaks: Sequence[float], why: str = "it multiplies tensors that are not bounded") -> None:
    if not all(math.isfinite(peak) for peak in peaks):
        raise UnboundedError(
            f"{node.name!r} ({node.op}) has no global Lipschitz constant: {why}; "
            "give the largest |value| of an input (--input-bound) for a bound that holds for such inputs"
        )
