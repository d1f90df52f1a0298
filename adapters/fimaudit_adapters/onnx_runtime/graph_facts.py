"""What an ONNX graph holds, inner graphs included, and which of its operators between input and output jump."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["all_graphs", "inner_graphs", "not_smooth", "quantised_weights"]

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


def all_graphs(graph: Any) -> Iterator[Any]:
    """A graph and those within its nodes (loops, branches), at any depth."""
    yield graph
    for node in graph.node:
        yield from inner_graphs(node)


def inner_graphs(node: Any) -> Iterator[Any]:
    """The graphs within a node, at any depth."""
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:  # where there is none, protobuf gives an empty one
            yield from all_graphs(graph)


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
    return [*node.input, *(name for inner in inner_graphs(node) for one in inner.node for name in one.input)]


def _reasons(node: Any) -> Iterator[str]:
    for one in [node, *(inner_node for inner in inner_graphs(node) for inner_node in inner.node)]:
        name = one.op_type
        if name in _JUMPS:
            yield _JUMPS[name].format(name)
        if name == "Cast" and any(a.name == "to" and a.i in _WHOLE for a in one.attribute):
            yield "Cast to whole numbers: values are rounded inside"
