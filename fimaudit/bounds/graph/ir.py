"""The small graph that torch.export and ONNX graphs are both brought to: nodes, and views of a tensor by an index array.

Every operator that only moves elements (reshape, transpose, slice, split, gather, expand, pad, concat of pieces of
one tensor) is a *view*: ``out[i] = source[index[i]]``, or a constant where the index is -1. Two views in a row are
one, so what exporters leave behind costs nothing, and the exact norm of a view is the square root of how often its
most used element occurs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import TargetError

__all__ = [
    "Index",
    "Node",
    "activation",
    "clamp",
    "concat",
    "expand",
    "fitting",
    "in_order",
    "register_in",
    "reindex",
    "reshape",
    "source",
    "squeeze",
    "transpose_last",
    "view",
]

#: Elements that one view may move, of 8 bytes each: a file of 300 bytes can ask for terabytes by a shape alone.
MOST_MOVED = 2**26

Index = NDArray[np.int64]
Entry = TypeVar("Entry")


@dataclass(frozen=True, eq=False)
class Node:
    """One tensor that depends on the input: what makes it, from what, its shape with the batch axis, and a layer's name."""

    op: str
    inputs: tuple[Node, ...]
    shape: tuple[int, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def fitting(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape, where an array of it may be made. Whatever can grow asks before it makes anything.

    Raises:
        TargetError: it holds more than ``MOST_MOVED`` numbers.

    >>> fitting((1, 3, 224, 224))
    (1, 3, 224, 224)
    """
    size = math.prod(shape)
    if size > MOST_MOVED:
        raise TargetError(
            f"a tensor of shape {str(tuple(shape))[:80]} holds more than the {MOST_MOVED:,} numbers that are moved to "
            "compute a bound; give a smaller --input-shape"
        )
    return tuple(shape)


def positions(node: Node) -> Index:
    """The flat index of each element, in the node's shape."""
    return np.arange(math.prod(fitting(node.shape)), dtype=np.int64).reshape(node.shape)


def view(node: Node, index: Index, fill: float = 0.0) -> Node:
    """The tensor ``node.ravel()[index]``, with ``fill`` where the index is -1."""
    fitting(index.shape)  # numpy broadcasts without making anything
    if node.op == "view":
        inner = node.attrs["index"].ravel()
        index = np.where(index < 0, -1, inner[index])
        fill = max(abs(fill), abs(node.attrs["fill"]))
        node = node.inputs[0]
    if index.shape == node.shape and np.array_equal(index, positions(node)):
        return node
    return Node("view", (node,), tuple(index.shape), {"index": np.ascontiguousarray(index), "fill": float(fill)}, node.name)


def reindex(node: Node, move: Callable[[Index], Any], fill: float = 0.0) -> Node:
    """The view that a numpy function makes of the node's elements."""
    return view(node, np.asarray(move(positions(node)), dtype=np.int64), fill)


def reshape(node: Node, shape: Sequence[int]) -> Node:
    """The same elements in another shape; one -1 is inferred."""
    return node if tuple(shape) == node.shape else reindex(node, lambda p: p.reshape(tuple(shape)))


def expand(node: Node, shape: Sequence[int]) -> Node:
    """Broadcast to a shape."""
    return node if tuple(shape) == node.shape else reindex(node, lambda p: np.broadcast_to(p, tuple(shape)))


def squeeze(node: Node, axes: Sequence[int] | None) -> Node:
    """Without those of the axes that have length 1; of all axes where none are given."""
    rank = len(node.shape)
    chosen = range(rank) if axes is None else [axis % rank for axis in axes]
    return reshape(node, [n for i, n in enumerate(node.shape) if i not in chosen or n != 1])


def transpose_last(node: Node) -> Node:
    """Swap the last two axes."""
    return reindex(node, lambda p: np.swapaxes(p, -1, -2))


def source(node: Node) -> Node:
    """What a view looks at; the node itself otherwise."""
    return node.inputs[0] if node.op == "view" else node


def concat(parts: Sequence[Node | NDArray[Any]], axis: int) -> Node:
    """Join tensors and constants along an axis; pieces of one tensor become a single view of it."""
    nodes = [part for part in parts if isinstance(part, Node)]
    constants = [np.abs(part).max() for part in parts if not isinstance(part, Node) and part.size]
    fill = float(max(constants, default=0.0))
    origin = source(nodes[0])
    shape = _joined([part.shape for part in parts], axis)
    if all(source(node) is origin for node in nodes):
        indices = []
        fitting(shape)
        for part in parts:
            if not isinstance(part, Node):
                indices.append(np.full(part.shape, -1, dtype=np.int64))
            else:
                indices.append(part.attrs["index"] if part.op == "view" else positions(part))
                fill = max(fill, part.attrs["fill"] if part.op == "view" else 0.0)
        return view(origin, np.concatenate(indices, axis=axis), fill)
    return Node("concat", tuple(nodes), shape, {"fill": fill}, f"concat of {len(nodes)}")


def _joined(shapes: Sequence[tuple[int, ...]], axis: int) -> tuple[int, ...]:
    """The shape of what is joined along an axis."""
    axis = range(len(shapes[0]))[axis]
    if len({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}) > 1:
        raise ValueError(f"tensors of shapes {shapes[:3]} cannot be joined along axis {axis}")
    return (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])


def activation(node: Node, function: str, *values: float, name: str = "") -> Node:
    """An element-wise function from the table of activations."""
    return Node("activation", (node,), node.shape, {"function": function, "values": values}, name or function)


def clamp(node: Node, low: float | None, high: float | None, name: str = "") -> Node:
    """min(max(x, low), high); ``None`` for no limit."""
    ends = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
    return activation(node, "relu") if ends == (0.0, math.inf) else activation(node, "clamp", *ends, name=name)


def in_order(output: Node) -> Iterator[Node]:
    """The nodes that the output needs, inputs first, without recursion."""
    done: set[int] = set()
    stack = [(output, False)]
    while stack:
        node, ready = stack.pop()
        if id(node) in done:
            continue
        if ready:
            done.add(id(node))
            yield node
        else:
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(node.inputs))


def register_in(table: dict[str, Entry]) -> Callable[..., Callable[[Entry], Entry]]:
    """A decorator with names of operators, which enters what it decorates in the table under each of them."""

    def on(*names: str) -> Callable[[Entry], Entry]:
        def entered(entry: Entry) -> Entry:
            table.update(dict.fromkeys(names, entry))
            return entry

        return entered

    return on
