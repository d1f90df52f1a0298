"""What an ONNX graph says of its own smoothness: operators between the audited input and the audited output that jump."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["not_smooth", "quantised_weights"]

_TREES = "tree ensemble: piecewise constant"
#: Operators whose output jumps, and what to say of them.
_JUMPS = {
    **dict.fromkeys(("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"), _TREES),
    **dict.fromkeys(
        ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearMatMul", "QLinearConv", "MatMulInteger", "ConvInteger"),
        "{}: activations are rounded to a few levels",
    ),
    **dict.fromkeys(("Round", "Floor", "Ceil", "Sign", "Binarizer"), "{}: values are rounded inside"),
    **dict.fromkeys(("ArgMax", "ArgMin", "Hardmax"), "{}: the answer jumps where the largest value changes"),
}
#: Operators that read a tensor's shape alone.
_SHAPES = ("Shape", "Size")
#: TensorProto types of whole numbers.
_WHOLE = (2, 3, 4, 5, 6, 7, 12, 13)


def not_smooth(graph: Any, audited: str, output: str) -> str | None:
    """A short reason why the answers jump, from the operators on the way from ``audited`` to ``output``; ``None`` for none.

    Args:
        graph: a ``GraphProto``.
        audited, output: names of the input and of the output.
    """
    moving = {audited}
    on_the_way = []
    for node in graph.node:  # in topological order
        if moving.intersection(_reads(node)) and node.op_type not in _SHAPES:
            moving.update(node.output)
            on_the_way.append(node)
    wanted = {output}
    found: set[str] = set()
    for node in reversed(on_the_way):
        if wanted.intersection(node.output):
            wanted.update(_reads(node))
            found.update(_reasons(node))
    return "; ".join(sorted(found)) or None


def quantised_weights(graph: Any) -> bool:
    """Whether weights are kept in a few levels (``DequantizeLinear`` of a constant): smooth, unless activations are too."""
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    return any(node.op_type == "DequantizeLinear" and node.input[0] in constants for node in graph.node) or any(
        node.op_type == "MatMulNBits" for node in graph.node
    )


def _reads(node: Any) -> list[str]:
    """Tensors that a node reads, those of its inner graphs too."""
    return [*node.input, *(name for inner in _inner(node) for one in inner.node for name in _reads(one))]


def _reasons(node: Any) -> Iterable[str]:
    name = node.op_type
    if name in _JUMPS:
        yield _JUMPS[name].format(name)
    if name == "Cast" and any(a.name == "to" and a.i in _WHOLE for a in node.attribute):
        yield "Cast to whole numbers: values are rounded inside"
    for inner in _inner(node):
        for one in inner.node:
            yield from _reasons(one)


def _inner(node: Any) -> list[Any]:
    return [graph for a in node.attribute for graph in ([a.g] if a.HasField("g") else []) + list(a.graphs)]
