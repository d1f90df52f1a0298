"""Computing what an ONNX operator makes of constants, where that is small: a file of 300 bytes can ask for terabytes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from fimaudit.bounds.importers.onnx_cost import OperatorRefused, products_of_einsum, seconds, working_size

__all__ = ["NotFolded", "OperatorRefused", "TimeLeft", "fold"]

#: Numbers that one operator may make of constants; a large language model's embedding holds as many.
MOST_FOLDED = 2**29
#: Constants that say how large a result is hold few numbers.
_LARGEST_SHAPE = 64
#: Multiplications that a matrix product of constants may take: of three matrices of 4,096 x 4,096, some seconds.
_MOST_PRODUCTS = 2**36
#: Seconds that all operators of a file may take which are computed number by number. A test holds honest ones below.
MOST_SECONDS = 30.0
#: Operators whose results are no larger than what goes in, though nobody knows by how much.
_SHRINKING = ("NonZero", "Unique", "Compress")


class NotFolded(Exception):
    """The operator is not computed here: it loops, draws at random, or its result is too large, slow or of unknown size."""


@dataclass
class TimeLeft:
    """Seconds that a file's operators on constants may still take, by estimate: a slow computer reads the same files."""

    seconds: float = MOST_SECONDS


def fold(
    node: Any, inputs: Mapping[str, NDArray[Any]], opsets: Mapping[str, int], left: TimeLeft, most: int = MOST_FOLDED
) -> list[Any]:
    """The outputs of ``node`` for constant inputs.

    Args:
        node: a ``NodeProto``.
        inputs: arrays by name; all that the node reads.
        opsets: version of each operator set by its domain.
        left: what the operators may still take, all together; what this one takes is subtracted.
        most: numbers that it may make.

    Raises:
        NotFolded: see there; nothing was computed.
        OperatorRefused: the operator does not fit its inputs.
    """
    drawn = node.op_type.startswith(("Random", "Bernoulli", "Multinomial"))
    if drawn or any(a.HasField("g") or a.graphs for a in node.attribute):
        raise NotFolded(f"{node.op_type} is not computed when the file is read")
    if not any(node.output):
        return []
    arrays = [inputs[name] for name in node.input if name]
    shapes: list[tuple[int, ...]]
    if node.op_type in _SHRINKING:
        shapes = [(max((array.size * max(1, array.ndim) for array in arrays), default=0),)]
    elif node.op_type == "Constant":
        shapes = [(max((_constant_size(attribute) for attribute in node.attribute), default=0),)]
    else:
        shapes = list(_shapes(node, inputs, opsets))
    _check_cost(node, arrays, shapes, left, most)
    if node.op_type == "GatherElements":
        return [_gathered(node, arrays)]
    with _refusals_of_onnx():
        return list(ReferenceEvaluator(node, opsets=dict(opsets)).run(None, dict(inputs)))


@contextmanager
def _refusals_of_onnx() -> Iterator[None]:
    """Whatever onnx raises: its evaluator is Python that runs on the file's numbers, with no class for what it refuses."""
    try:
        yield
    except Exception as exc:
        raise OperatorRefused(str(exc)) from exc


def _check_cost(node: Any, arrays: list[NDArray[Any]], shapes: list[tuple[int, ...]], left: TimeLeft, most: int) -> None:
    much = "too much to compute when the file is read"
    size, products = working_size(node, arrays, shapes), 0
    if size > most:
        raise NotFolded(f"{node.op_type} makes {size:,} numbers of constants, {much}")
    if node.op_type in ("MatMul", "Gemm"):  # (m k) (k n) (m n) is the square of m k n
        products = math.isqrt(size * prod(sorted(array.size for array in arrays)[-2:]))
    elif node.op_type == "Einsum":
        products = products_of_einsum(node, arrays)
    if products > _MOST_PRODUCTS:
        raise NotFolded(
            f"{node.op_type} of constants takes {products:,} multiplications, {much}; at most {_MOST_PRODUCTS:,} are"
        )
    estimate = seconds(node, arrays, shapes, products)
    if estimate > left.seconds:
        size = max([size, *(array.size for array in arrays)])
        raise NotFolded(f"{node.op_type} makes and reads {size:,} numbers of constants, {much}")
    left.seconds -= estimate


def _gathered(node: Any, arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """GatherElements, which onnx's reference evaluator computes for axes of at most 64 elements alone."""
    if len(arrays) != 2:
        raise OperatorRefused(f"GatherElements takes data and indices, not {len(arrays)} inputs")
    data, index = arrays
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    if not -data.ndim <= axis < data.ndim:
        raise OperatorRefused(f"data of shape {data.shape} have no axis {axis}")
    axis %= data.ndim
    if index.ndim != data.ndim or np.delete(data.shape, axis).tolist() != np.delete(index.shape, axis).tolist():
        raise OperatorRefused(f"data of shape {data.shape} and indices of shape {index.shape} differ beside axis {axis}")
    length = data.shape[axis]
    if index.dtype.kind not in "iu" or (index.size and not -length <= index.min() <= index.max() < length):
        raise OperatorRefused(f"the indices are no positions on an axis of length {length}")
    return np.take_along_axis(data, index.astype(np.int64), axis)


def _constant_size(attribute: Any) -> int:
    sparse: int = prod(attribute.sparse_tensor.dims) if attribute.HasField("sparse_tensor") else 0
    return max(int(prod(attribute.t.dims)), sparse)


def _shapes(node: Any, inputs: Mapping[str, NDArray[Any]], opsets: Mapping[str, int]) -> Iterator[tuple[int, ...]]:
    """The shape of each output, by onnx's own inference from the inputs' shapes and from the values of the short ones."""
    known, shaped = [], []
    for name, array in inputs.items():
        short = array.size <= _LARGEST_SHAPE and array.dtype != np.dtype(object)
        with _refusals_of_onnx():
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            if short:
                known.append(onnx.numpy_helper.from_array(np.asarray(array), name))
            else:
                shaped.append(helper.make_tensor_value_info(name, kind, array.shape))
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph([node], "constant", shaped, outputs, known)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, v) for domain, v in opsets.items()])
    with _refusals_of_onnx():
        inferred = onnx.shape_inference.infer_shapes(model)
    for value in inferred.graph.output:
        kind = value.type.tensor_type
        if not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in kind.shape.dim):
            raise NotFolded(f"the size of what {node.op_type} makes of constants is not known beforehand")
        yield tuple(dim.dim_value for dim in kind.shape.dim)
