"""Rewriting an ONNX graph whose batch axis is fixed, so that it takes any number of rows.

The declared shapes are loosened, and each Reshape to a constant shape learns which axis is the batch: the one that
grows when shapes are inferred for more rows. The rewritten graph is a guess all the same: ``onnx_choice`` keeps it only
when it gives the same answers row for row as the original.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any

from fimaudit_adapters.onnx_runtime.graph_facts import all_graphs

__all__ = ["reshape_target", "with_free_batch"]

#: Shapes are inferred for this many times the original rows as well; a prime that is no likely length.
_TIMES = 61
#: Operators whose output is as long as a number in another tensor says.
_LENGTH_FROM_VALUES = ("ConstantOfShape", "Expand", "Range", "Tile", "OneHot", "Resize", "Pad", "Reshape")
#: onnx passes values on while it infers shapes; where they grow beyond so many, the graph means harm.
_MOST_PASSED_ON = 2**20
#: Initializers larger than this hold weights, never a shape.
_LARGEST_SHAPE = 64
_INT64, _STANDARD = 7, ("", "ai.onnx")

Shapes = dict[str, list[int]]


def with_free_batch(proto: Any, inputs: Sequence[str], batch: int) -> Any:
    """A copy of the model in which the first axis of ``inputs`` is free.

    Args:
        proto: the ``onnx.ModelProto``; it is not changed.
        inputs: names of the audited input and of the held ones that are repeated along the batch.
        batch: the length at which the first axis was fixed (1 where it was declared free).
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(proto)
    for value in model.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    _free_reshapes(model, inputs, batch)
    for dim in _first_axes(model.graph, inputs):
        dim.dim_param = "fimaudit_batch"
    return model


def reshape_target(
    lengths: Sequence[int] | None, axis: int | None, target: Sequence[int], batch: int, *, zero_copies: bool = True
) -> list[int]:
    """The target of a Reshape that works for every batch, given one that works for ``batch``.

    Args:
        lengths: shape of what goes in, for ``batch`` rows; ``None`` where it is unknown.
        axis: the axis of it that grows with the batch; ``None`` where that is unknown.
        target: the constant target, with ONNX's 0 (copy the axis) and -1 (whatever is left).
        batch: rows for which ``target`` was written.
        zero_copies: whether 0 copies an axis (it does unless ``allowzero`` is set).

    >>> reshape_target([1, 64, 7, 7], 0, [1, 3136], 1)
    [-1, 3136]
    >>> reshape_target([28, 8, 64], 1, [224, 64], 8)
    [-1, 64]
    """
    full = None if lengths is None else _resolved(lengths, target, zero_copies)
    if lengths is None or full is None:
        new = list(target)
        if new and new[0] == batch:  # a guess: the first axis is the batch
            new[0] = -1 if -1 not in new else 0 if zero_copies else new[0]
        return new
    # An axis can hold the batch among other things (batch x heads): it lies somewhere from ``outer`` to ``inner``.
    outer = 1 if axis is None else prod(lengths[:axis])
    inner = outer if axis is None else outer * lengths[axis] // batch
    starts = [prod(full[:j]) for j in range(len(full))]
    alone = [j for j in range(len(full)) if full[j] == batch and outer <= starts[j] <= inner]
    among = [j for j in range(len(full)) if starts[j] <= outer and starts[j] * full[j] >= outer * batch]
    # For one row both neighbours fit: a matrix is (positions x batch, features), anything larger has (batch x heads).
    chosen = axis if axis in alone else next(iter(alone or (among if len(full) == 2 else among[::-1])), None)
    if chosen is None or (axis is None and not alone):
        return list(target)
    full[chosen] = -1
    return full


def _resolved(lengths: Sequence[int], target: Sequence[int], zero_copies: bool) -> list[int] | None:
    """The target with its 0 and -1 written out, ``None`` where that does not come out even."""
    if zero_copies and any(n == 0 and j >= len(lengths) for j, n in enumerate(target)):
        return None
    full = [lengths[j] if n == 0 and zero_copies else n for j, n in enumerate(target)]
    total, known = prod(lengths), prod(n for n in full if n != -1)
    if full.count(-1) == 1 and known > 0 and total % known == 0:
        full[full.index(-1)] = total // known
    return full if prod(full) == total and min(full, default=1) > 0 else None


def _free_reshapes(model: Any, inputs: Sequence[str], batch: int) -> None:
    graph = model.graph
    constants = _folded(model)
    values = not _grows(_without_weights(model, constants))
    before = _inferred(model, constants, inputs, batch, values)
    after = _inferred(model, constants, inputs, batch * _TIMES, values)
    position = 0
    while position < len(graph.node):
        node = graph.node[position]
        target = _target_of(node, constants) if node.op_type == "Reshape" and node.domain in _STANDARD else None
        if target is not None:
            lengths, longer = before.get(node.input[0]), after.get(node.input[0])
            if lengths is None or lengths != longer:  # otherwise it does not depend on the batch
                grown = (
                    []
                    if lengths is None or longer is None
                    else [i for i, (n, m) in enumerate(zip(lengths, longer, strict=False)) if n != m]
                )
                allowzero = any(a.name == "allowzero" and a.i for a in node.attribute)
                axis = grown[0] if grown else None
                new = reshape_target(lengths, axis, target, batch, zero_copies=not allowzero)
                if new != target:
                    position += _retarget(graph, position, new)
                    constants[graph.node[position].input[-1]] = new
                    after = _inferred(model, constants, inputs, batch * _TIMES, values)
        position += 1
    _drop_unused(graph, constants)


def _target_of(node: Any, constants: dict[str, list[int]]) -> list[int] | None:
    if len(node.input) > 1:
        return constants.get(node.input[1])
    return next((list(a.ints) for a in node.attribute if a.name == "shape"), None)  # operator sets below 5


def _retarget(graph: Any, position: int, target: list[int]) -> int:
    """Give the Reshape at ``position`` its own target; returns how many nodes were put before it."""
    node = graph.node[position]
    for attribute in node.attribute:
        if attribute.name == "shape":
            attribute.ints[:] = target
            return 0
    # A Constant node, because initializers must be inputs as well in IR versions below 4; shared targets stay as they are.
    node.input[1] = f"fimaudit_target_{position}"
    graph.node.insert(position, _constant(node.input[1], target))
    return 1


def _constant(name: str, values: list[int]) -> Any:
    from onnx import helper

    return helper.make_node("Constant", [], [name], name=name, value=helper.make_tensor(name, _INT64, [len(values)], values))


def _drop_unused(graph: Any, names: Iterable[str]) -> None:
    """Take out the targets that nothing reads any more: onnxruntime refuses them where they are no inputs (IR below 4)."""
    nodes = (node for inner in all_graphs(graph) for node in inner.node)
    read = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    for name in set(names) - read:
        for listed in (graph.initializer, graph.input):
            for item in [item for item in listed if item.name == name]:
                listed.remove(item)


def _first_axes(graph: Any, inputs: Sequence[str]) -> Iterator[Any]:
    for value in graph.input:
        if value.name in inputs and value.type.tensor_type.shape.dim:
            yield value.type.tensor_type.shape.dim[0]


def _folded(model: Any) -> dict[str, list[int]]:
    """Short integer vectors that are constant, by name: initializers, Constant nodes, and what is computed from them."""
    from onnx import numpy_helper

    from fimaudit.bounds.importers.onnx_folding import NotFolded, OperatorRefused, TimeLeft, fold

    versions, left = {o.domain: o.version for o in model.opset_import}, TimeLeft()
    small = [t for t in model.graph.initializer if prod(t.dims) <= _LARGEST_SHAPE and not t.data_location]
    found = {t.name: numpy_helper.to_array(t) for t in small}
    for node in model.graph.node:
        if node.domain not in _STANDARD or len(node.output) != 1 or not node.output[0]:
            continue
        if not all(name in found for name in node.input):
            continue
        if any(a.t.ByteSize() > 16 * _LARGEST_SHAPE for a in node.attribute):
            continue
        try:
            value = fold(node, {name: found[name] for name in node.input}, versions, left, _LARGEST_SHAPE)[0]
        except (NotFolded, OperatorRefused):  # its result is then not known here
            continue
        if getattr(value, "size", _LARGEST_SHAPE + 1) <= _LARGEST_SHAPE:
            found[node.output[0]] = value
    return {name: [int(n) for n in v] for name, v in found.items() if v.dtype == "int64" and v.ndim == 1}


def _inferred(model: Any, constants: dict[str, list[int]], inputs: Sequence[str], batch: int, values: bool) -> Shapes:
    """Shapes of every value that onnx can infer for ``batch`` rows, from ``values`` too; empty when it gives up."""
    import onnx

    light = _without_weights(model, constants)
    for dim in _first_axes(light.graph, inputs):
        dim.dim_value = batch
    try:
        graph = onnx.shape_inference.infer_shapes(light, data_prop=values).graph
    except Exception:  # onnx has no class for foreign operators, contradictory shapes: fall back on the first axis
        return {}
    return {name: lengths for name, lengths in _lengths(graph).items() if all(n > 0 for n in lengths)}


def _lengths(graph: Any) -> Shapes:
    """Shapes that were inferred, 0 for an axis of unknown length."""
    shapes = {
        v.name: v.type.tensor_type.shape
        for v in [*graph.input, *graph.value_info, *graph.output]
        if v.type.tensor_type.HasField("shape")
    }
    return {name: [d.dim_value for d in s.dim] for name, s in shapes.items()}


def _without_weights(model: Any, constants: dict[str, list[int]]) -> Any:
    """The same graph with weights as inputs (inference copies the model) and known integer vectors as constants."""
    import onnx
    from onnx import helper

    light = onnx.ModelProto()
    light.ir_version = max(model.ir_version, 4)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name
    initializers = {t.name for t in model.graph.initializer}
    graph.input.extend(v for v in model.graph.input if v.name not in initializers)
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= _LARGEST_SHAPE and not tensor.data_location:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    for node in model.graph.node:
        known = node.output[0] if len(node.output) == 1 and node.output[0] in constants else None
        graph.node.append(_constant(known, constants[known]) if known else node)
    graph.output.extend(model.graph.output)
    return light


def _grows(light: Any) -> bool:
    """Whether the values of vectors, which onnx joins and passes on, become too many: 300 bytes can ask for terabytes.

    A vector is short where it comes from shapes and constants; Concat doubles it, and some operators make it as long as a
    number says.
    """
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(light).graph
    except Exception:  # as above
        return True
    lengths = _lengths(graph)
    sizes = {tensor.name: int(prod(tensor.dims)) for tensor in light.graph.initializer}
    made: set[str] = set()
    for node in light.graph.node:
        parts = [sizes.get(name, 0) for name in node.input]
        if node.op_type == "Constant":
            size = max((int(prod(a.t.dims)) for a in node.attribute), default=1)
        elif node.op_type in ("Shape", "Size"):
            size = _LARGEST_SHAPE
        else:
            size = 0 if not all(parts) else sum(parts) if node.op_type == "Concat" else max(parts, default=0)
        if node.op_type in _LENGTH_FROM_VALUES:
            made.update(node.output)
            size = 0
        joined = [lengths.get(name) for name in node.input if node.op_type == "Concat" and name in made]
        long = any(len(n) == 1 and n[0] > _MOST_PASSED_ON for name in node.input if (n := lengths.get(name, [])))
        if size > _MOST_PASSED_ON or long or any(n is None or n == [0] for n in joined):
            return True
        sizes.update(dict.fromkeys(node.output, size))
    return False
