"""What an ONNX model says of its classes: the labels of its classifier nodes, or names in its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

__all__ = ["class_values", "metadata_names"]

#: Keys of a model's metadata under which exporters put the names of classes: a list, or numbers to names.
_NAMED = ("names", "class_names", "classes", "labels", "id2label")
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
            held = yaml.safe_load(metadata[key]) if key in metadata else None
        except yaml.YAMLError:
            continue
        if isinstance(held, dict) and sorted(map(str, held)) == sorted(map(str, range(len(held)))):
            return tuple(str(held.get(k, held.get(str(k)))) for k in range(len(held)))
        if isinstance(held, list) and len(held) > 1:
            return tuple(str(name) for name in held)
    return None
