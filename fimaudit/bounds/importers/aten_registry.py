"""An ATen operator met in an exported graph, and the registry of builders for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fimaudit.bounds.graph.ir import Node, register_in

__all__ = ["BUILDERS", "AtenCall", "many", "on"]


@dataclass(frozen=True)
class AtenCall:
    """An operator with its arguments by name; tensors that do not depend on the input are numpy arrays."""

    name: str
    arguments: Mapping[str, Any]
    layer: str
    meta: Any

    def __getitem__(self, key: str) -> Any:
        return self.arguments[key]

    def get(self, key: str, default: Any = None) -> Any:
        """An argument that may be absent."""
        return self.arguments.get(key, default)

    @property
    def x(self) -> Any:
        """The first argument."""
        return self.arguments["self"] if "self" in self.arguments else self.arguments["input"]

    def unknown(self) -> Any:
        """A node for an operator without a rule; the recursion stops there unless a constant is registered."""
        found: list[Node] = []
        for value in self.arguments.values():
            found += [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, Node)]
        metas = self.meta if isinstance(self.meta, list | tuple) else [self.meta]
        shapes = [tuple(int(n) for n in meta.shape) if hasattr(meta, "shape") else found[0].shape for meta in metas]
        nodes = [Node(f"aten.{self.name}", tuple(found), shape, {}, self.layer) for shape in shapes]
        return nodes if isinstance(self.meta, list | tuple) else nodes[0]


Builder = Callable[[AtenCall], Any]
BUILDERS: dict[str, Builder] = {}
#: Registers a builder under some operators.
on = register_in(BUILDERS)


def many(value: Any, count: int) -> list[Any]:
    """A setting that may be one number for all axes."""
    items = list(value) if isinstance(value, list | tuple) else [value]
    return items * count if len(items) == 1 else items
