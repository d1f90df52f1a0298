"""One recursion over the graph: the Lipschitz constant of every tensor from those before it, and each layer's share
in the end.

With effects from ``operators``: L(node) = sum (or root of the sum of squares) of gain_i L(input_i), L(input) = 1. A
chain gives the product of its layers, a residual block 1 + L, a concatenation sqrt(1 + L^2).

*Shares.* Going back from the output with weight w = 1, each node keeps w (log L - sum_i e_i log L_i) and hands w e_i
to input i, where e_i = d log L / d log L_i (the term's part in the sum). The kept parts add up to log L_z exactly,
and w is the elasticity: scaling a layer's norm by c scales the bound by about c^w.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fimaudit.bounds.graph.ir import Node, in_order
from fimaudit.bounds.graph.operators import REGISTERED, Effect, effect_of

__all__ = ["Step", "propagate"]


@dataclass(frozen=True)
class Step:
    """One node with its constant.

    Attributes:
        node: the graph's node.
        norm: factor on the largest of its inputs' constants.
        lipschitz: constant of its output with respect to the network's input: the running product.
        elasticity: d log L_z / d log norm.
        contribution: its part of log L_z; the parts add up to it.
        registered: whether the constant is the caller's word.
    """

    node: Node
    norm: float
    lipschitz: float
    elasticity: float
    contribution: float
    registered: bool


def propagate(output: Node) -> list[Step]:
    """The constants of all nodes up to an output, inputs first."""
    order = list(in_order(output))
    effects: dict[int, Effect] = {}
    constants: dict[int, float] = {}
    for node in order:
        effect = effect_of(node, [effects[id(child)].peak for child in node.inputs])
        effects[id(node)] = effect
        constants[id(node)] = _combined(node, effect, constants)
    weights = dict.fromkeys(constants, 0.0)
    weights[id(output)] = 1.0
    steps = []
    for node in reversed(order):
        weight, size = weights[id(node)], constants[id(node)]
        kept = _log(size)
        for child, part in zip(node.inputs, _parts(node, effects[id(node)], constants), strict=True):
            weights[id(child)] += weight * part
            kept -= part * _log(constants[id(child)])
        largest = max((constants[id(child)] for child in node.inputs), default=1.0)
        norm = size / largest if largest else 0.0
        if len(node.inputs) == 1:
            norm = effects[id(node)].gains[0]
        steps.append(Step(node, norm, size, weight, weight * kept, node.op in REGISTERED))
    return steps[::-1]


def _combined(node: Node, effect: Effect, constants: Mapping[int, float]) -> float:
    if node.op == "input":
        return 1.0
    terms = _terms(node, effect, constants)
    return math.fsum(terms) if effect.combine == "sum" else math.hypot(*terms)


def _terms(node: Node, effect: Effect, constants: Mapping[int, float]) -> list[float]:
    pairs = [(gain, constants[id(child)]) for gain, child in zip(effect.gains, node.inputs, strict=True)]
    return [gain * size if gain and size else 0.0 for gain, size in pairs]


def _parts(node: Node, effect: Effect, constants: Mapping[int, float]) -> list[float]:
    terms = _terms(node, effect, constants)
    top = max(terms, default=0.0)
    if not top > 0.0 or math.isinf(top):
        return [0.0] * len(terms)
    parts = [term / top if effect.combine == "sum" else (term / top) ** 2 for term in terms]
    return [part / math.fsum(parts) for part in parts]


def _log(size: float) -> float:
    return math.log(size) if size > 0.0 else 0.0
