"""From an ONNX file to the small graph: constants are folded, every other operator goes to its builder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper

from fimaudit.bounds.graph.ir import Node
from fimaudit.bounds.importers import onnx_layers, onnx_shapes
from fimaudit.bounds.importers.onnx_folding import NotFolded, TimeLeft, fold
from fimaudit.bounds.importers.onnx_registry import BUILDERS, OnnxCall
from fimaudit.errors import FimauditError, TargetError

__all__ = ["graph_of_file", "graph_of_proto"]

OPERATOR_FILES = (onnx_layers, onnx_shapes)  # importing them fills BUILDERS

#: Numbers that all operators together may make or move when a file is read, beside so many copies of its weights.
MOST_MADE, COPIES_OF_WEIGHTS = 2**30, 4


def graph_of_file(path: str, input_shape: Sequence[int] | None, peak: float, hold: Mapping[str, Any]) -> Node:
    """Read an ONNX file, its external data too; the first output is taken."""
    try:
        model = onnx.load(path)
    except Exception as exc:
        raise TargetError(f"expected an ONNX model in {path!r}, got a file that onnx cannot read") from exc
    return graph_of_proto(model, input_shape, peak, hold)


def graph_of_proto(model: Any, input_shape: Sequence[int] | None, peak: float, hold: Mapping[str, Any]) -> Node:
    """Read an ONNX model's graph. The first input that is neither a weight nor held is the audited one."""
    try:
        if len(model.functions):
            model = inliner.inline_local_functions(model)
        reader = _Reader(model, input_shape, peak, hold)
    except FimauditError:
        raise
    except Exception as exc:
        raise TargetError(f"this ONNX graph's functions, weights or inputs are malformed: {exc}"[:300]) from exc
    for proto in model.graph.node:
        try:
            reader.read(proto)
        except FimauditError:
            raise
        except NotFolded as exc:
            raise TargetError(f"operator {proto.op_type} ({_name(proto)}) is not folded: {exc}"[:300]) from exc
        except Exception as exc:
            raise TargetError(f"operator {proto.op_type} ({_name(proto)}) is malformed: {exc}"[:300]) from exc
    output = reader.values.get(model.graph.output[0].name) if len(model.graph.output) else None
    if not isinstance(output, Node):
        raise TargetError("the first output of this ONNX graph does not depend on its input")
    return output


class _Reader:
    """Values of the graph's names so far: nodes where they depend on the input, arrays elsewhere."""

    def __init__(self, model: Any, input_shape: Sequence[int] | None, peak: float, hold: Mapping[str, Any]) -> None:
        self.opsets = model.opset_import
        self.version = max((entry.version for entry in self.opsets if entry.domain in ("", "ai.onnx")), default=1)
        self.values: dict[str, Any] = {"": None}
        for tensor in model.graph.initializer:
            self.values[tensor.name] = numpy_helper.to_array(tensor)
        self.weights = set(self.values)
        self.left = MOST_MADE + COPIES_OF_WEIGHTS * sum(np.size(w) for w in self.values.values() if w is not None)
        self.time_left = TimeLeft()
        audited = False
        for entry in model.graph.input:
            if entry.name in self.values:
                continue
            if entry.name in hold:
                self.values[entry.name] = np.asarray(hold[entry.name])
            elif audited:
                self.values[entry.name] = Node("held", (), _shape(entry, None), {}, entry.name)
            else:
                self.values[entry.name] = Node("input", (), _shape(entry, input_shape), {"peak": peak}, entry.name)
                audited = True
        if not audited:
            raise TargetError("this ONNX graph has no input to bound against")

    def read(self, proto: Any) -> None:
        """Fold an operator on constants, or build its node."""
        inputs = [self.values[name] for name in proto.input]
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute}
        attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
        domain = "" if proto.domain in ("", "ai.onnx") else proto.domain + "::"
        name = domain + proto.op_type
        call = OnnxCall(name, inputs, attributes, self.version, self._layer(proto), len(proto.output))
        if name == "Shape" and isinstance(inputs[0], Node):
            made: Any = np.array(inputs[0].shape[attributes.get("start", 0) : attributes.get("end")], dtype=np.int64)
        elif name == "Size" and isinstance(inputs[0], Node):
            made = np.array(inputs[0].size, dtype=np.int64)
        elif any(isinstance(value, Node) for value in inputs):
            builder = BUILDERS.get(name)
            made = builder(call) if builder is not None else call.unknown()
        else:
            made = self._folded(proto, inputs)
        made = made if isinstance(made, list) else [made]
        self._spend(made, inputs)
        for output, value in zip(proto.output, made, strict=False):
            self.values[output] = value

    def _spend(self, made: list[Any], inputs: list[Any]) -> None:
        """Refuse a file whose operators are each small enough, but too many: what they make stays in memory."""
        views = [value for value in made if isinstance(value, Node) and value.op == "view"]
        read = max((value.size for value in inputs if isinstance(value, Node)), default=0) if views else 0
        arrays = [value for value in made if isinstance(value, np.ndarray)]
        self.left -= read + sum(value.size for value in views) + sum(value.size for value in arrays)
        if self.left < 0:
            raise TargetError(
                f"the operators of this ONNX graph make and move more than {MOST_MADE:,} numbers in all; give a smaller "
                "--input-shape"
            )

    def _folded(self, proto: Any, inputs: list[Any]) -> list[Any]:
        named = {name: value for name, value in zip(proto.input, inputs, strict=True) if name}
        return fold(proto, named, {entry.domain: entry.version for entry in self.opsets}, self.time_left)

    def _layer(self, proto: Any) -> str:
        """The name of the layer: that of its weight where that says something, else of the node."""
        for name in proto.input[1:]:
            if name in self.weights and "." in name:
                return str(name.rpartition(".")[0])
        return str(proto.name or next(iter(proto.output), ""))


def _name(proto: Any) -> str:
    return str(proto.name or next(iter(proto.output), "without output"))


def _shape(entry: Any, given: Sequence[int] | None) -> tuple[int, ...]:
    dims = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
    first = dims[0] if dims and dims[0] > 0 else 1
    if given is not None:
        return (first, *given)
    if not dims or any(n <= 0 for n in dims[1:]):
        raise TargetError(f"the shape of input {entry.name!r} is free in this ONNX graph; say it with --input-shape")
    return (first, *dims[1:])
