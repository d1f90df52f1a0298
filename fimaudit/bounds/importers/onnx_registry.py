"""An ONNX operator met in a graph, and the registry of builders for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fimaudit.bounds.graph.ir import Node, register_in

__all__ = ["BUILDERS", "OnnxCall", "on"]


@dataclass(frozen=True)
class OnnxCall:
    """An operator with its inputs (nodes, arrays, or ``None`` where left out) and attributes."""

    name: str
    inputs: list[Any]
    attributes: Mapping[str, Any]
    version: int
    layer: str
    outputs: int

    @property
    def x(self) -> Any:
        """The first input."""
        return self.inputs[0]

    def __getitem__(self, place: int) -> Any:
        """An input, ``None`` where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute or its default."""
        return self.attributes.get(name, default)

    def numbers(self, place: int, name: str) -> list[int] | None:
        """Whole numbers that older opsets hold in an attribute and newer ones in an input."""
        value = self[place] if self[place] is not None else self.attribute(name)
        return None if value is None else [int(n) for n in np.ravel(value)]

    @property
    def constant_tail(self) -> bool:
        """Whether the first input alone depends on the network's input."""
        return isinstance(self.x, Node) and not any(isinstance(value, Node) for value in self.inputs[1:])

    def unknown(self) -> Any:
        """A node for an operator without a rule; the recursion stops there unless a constant is registered."""
        found = tuple(value for value in self.inputs if isinstance(value, Node))
        nodes = [Node(self.name, found, found[0].shape, {}, self.layer) for _ in range(self.outputs)]
        return nodes[0] if self.outputs == 1 else nodes


Builder = Callable[[OnnxCall], Any]
BUILDERS: dict[str, Builder] = {}
#: Registers a builder under some operators.
on = register_in(BUILDERS)
