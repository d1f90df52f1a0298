"""What an ONNX graph says of its classes and its numbers: labels, names, votes, and inputs that are positions in a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from fimaudit.errors import TargetError
from fimaudit.models.strict_yaml import StrictLoader
from fimaudit_adapters.onnx_runtime.ports import Port

__all__ = ["class_values", "metadata_names", "quantisation", "refuse_positions", "votes"]

#: Keys of a model's metadata under which exporters put the names of classes: a list, or numbers to names.
_NAMED = ("names", "class_names", "classes", "labels", "id2label")
#: Operators that leave integers what they are.
_PASSED_ON = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Clip", "Max", "Min")
_LABELS = ("classlabels_int64s", "classlabels_strings", "classlabels_ints")


def class_values(proto: Any, ask: Any) -> tuple[Any, ...] | None:
    """What the model calls its classes, column by column; ``None`` where it does not say.

    Args:
        proto: the ``onnx.ModelProto``.
        ask: the session's call; where it answers with maps, these have the classes in the order of the columns.
    """
    values: Sequence[Any] | None = getattr(ask, "classes", None)
    if values is None:
        values = _node_labels(proto.graph) or _indexed_labels(proto.graph)
    return None if values is None else tuple(values)


def votes(proto: Any) -> bool:
    """Whether the answers are those of trees, whose steps are the model's own and no rounding."""
    kinds = {node.op_type for node in proto.graph.node}
    return "TreeEnsembleClassifier" in kinds and not kinds & {"Round", "Floor", "Ceil"}


def quantisation(proto: Any) -> str | None:
    """How the graph computes in 8 bits, ``None`` where it does not."""
    kinds = {node.op_type for node in proto.graph.node}
    if kinds & {"DynamicQuantizeLinear", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}:
        return "int8, dynamic: each call scales its activations by what is in it"
    if any(kind in ("QuantizeLinear", "DequantizeLinear") or kind.startswith("QLinear") for kind in kinds):
        return "int8, static: activations move in levels"
    return None


def refuse_positions(graph: Any, port: Port) -> None:
    """Refuse an audited input of integers that are looked up in a table: token ids have neighbours only by accident.

    Raises:
        TargetError: it is one.
    """
    if port.dtype not in ("int32", "int64"):
        return
    reached = {port.name}
    for node in graph.node:
        if node.op_type in ("Gather", "GatherElements") and len(node.input) > 1 and node.input[1] in reached:
            raise TargetError(
                f"input {port.name!r} holds positions in a table (token ids): 17 and 18 are no neighbours, so a small "
                "change has no meaning; export the model from its embeddings on (inputs_embeds), and audit these"
            )
        if node.op_type in _PASSED_ON and node.input and node.input[0] in reached:
            reached.update(node.output)


def _node_labels(graph: Any) -> list[Any] | None:
    """Labels of ZipMap, LinearClassifier, TreeEnsembleClassifier and the like; the last such node is the answer's."""
    for node in reversed(graph.node):
        for attribute in node.attribute:
            if attribute.name in _LABELS and (attribute.ints or attribute.strings):
                return [int(v) for v in attribute.ints] or [v.decode("utf-8", "replace") for v in attribute.strings]
    return None


def _indexed_labels(graph: Any) -> list[Any] | None:
    """Labels that a graph looks up by the position of the largest answer (ArrayFeatureExtractor over a constant)."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in reversed(graph.node):
        if node.op_type == "ArrayFeatureExtractor" and node.input and node.input[0] in constants:
            held = numpy_helper.to_array(constants[node.input[0]]).ravel().tolist()
            return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in held]
    return None


def metadata_names(proto: Any) -> tuple[str, ...] | None:
    """Names of the classes among the model's metadata, in the order of the columns."""
    metadata = {entry.key.lower(): entry.value for entry in proto.metadata_props}
    for key in _NAMED:
        try:
            held = yaml.load(metadata[key], Loader=StrictLoader) if key in metadata else None
        except (yaml.YAMLError, RecursionError, ValueError, OverflowError):
            continue
        if isinstance(held, dict) and sorted(map(str, held)) == sorted(map(str, range(len(held)))):
            return tuple(str(held.get(k, held.get(str(k)))) for k in range(len(held)))
        if isinstance(held, list) and len(held) > 1:
            return tuple(str(name) for name in held)
    return None
