"""Computing what an ONNX operator makes of constants, where that is small: a file of 300 bytes can ask for terabytes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

__all__ = ["NotFolded", "fold"]

#: Numbers that one operator may make of constants; a large language model's embedding holds as many.
MOST_FOLDED = 2**29
#: Constants that say how large a result is hold few numbers.
_LARGEST_SHAPE = 64
#: Multiplications that a matrix product of constants may take: of three matrices of 4,096 x 4,096, some seconds.
_MOST_PRODUCTS = 2**36
#: Operators that onnx's reference evaluator computes with whole arrays. Of all others it may go through the numbers one by
#: one in Python (Resize: some 30 microseconds each), so that few are computed.
_WHOLE_ARRAYS = {
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Clip", "Compress", "Concat", "Constant", "ConstantOfShape", "Cos",
    "CumSum", "DequantizeLinear", "Div", "Equal", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather", "Gemm",
    "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log", "MatMul", "Max", "Mean", "Min", "Mod", "Mul",
    "Neg", "NonZero", "Not", "Or", "Pad", "Pow", "QuantizeLinear", "Range", "Reciprocal", "ReduceL1", "ReduceL2",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Relu", "Reshape", "Round", "Shape", "Sign",
    "Sin", "Size", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Transpose", "Trilu",
    "Unsqueeze", "Where", "Xor",
}  # fmt: skip
_MOST_ONE_BY_ONE = 2**14
#: Operators whose results are no larger than what goes in, though nobody knows by how much.
_SHRINKING = ("NonZero", "Unique", "Compress")


class NotFolded(Exception):
    """The operator is not computed here: it loops, draws at random, or its result is too large or of unknown size."""


def fold(node: Any, inputs: Mapping[str, NDArray[Any]], opsets: Mapping[str, int], most: int = MOST_FOLDED) -> list[Any]:
    """The outputs of ``node`` for constant inputs.

    Args:
        node: a ``NodeProto``.
        inputs: arrays by name; all that the node reads.
        opsets: version of each operator set by its domain.
        most: numbers that an output may hold.

    Raises:
        NotFolded: see there; nothing was computed.
        Exception: the operator does not fit its inputs.
    """
    drawn = node.op_type.startswith(("Random", "Bernoulli", "Multinomial"))
    if drawn or any(a.HasField("g") or a.graphs for a in node.attribute):
        raise NotFolded(f"{node.op_type} is not computed when the file is read")
    if node.op_type in _SHRINKING:
        size = max((array.size * max(1, array.ndim) for array in inputs.values()), default=0)
    elif node.op_type == "Constant":
        size = max((_constant_size(attribute) for attribute in node.attribute), default=0)
    else:
        size = max(_sizes(node, inputs, opsets), default=0)
    read = max((array.size for array in inputs.values()), default=0)
    if node.op_type not in _WHOLE_ARRAYS:
        most, size = min(most, _MOST_ONE_BY_ONE), max(size, read)
    if size > most:
        raise NotFolded(f"{node.op_type} makes {size:,} numbers of constants, more than {most:,}")
    if node.op_type in ("MatMul", "Gemm"):  # (m k) (k n) (m n) is the square of m k n
        products = math.isqrt(size * prod(sorted(array.size for array in inputs.values())[-2:]))
        if products > _MOST_PRODUCTS:
            raise NotFolded(f"{node.op_type} of constants takes {products:,} multiplications, more than {_MOST_PRODUCTS:,}")
    return list(ReferenceEvaluator(node, opsets=dict(opsets)).run(None, dict(inputs)))


def _constant_size(attribute: Any) -> int:
    sparse: int = prod(attribute.sparse_tensor.dims) if attribute.HasField("sparse_tensor") else 0
    return max(int(prod(attribute.t.dims)), sparse)


def _sizes(node: Any, inputs: Mapping[str, NDArray[Any]], opsets: Mapping[str, int]) -> Iterator[int]:
    """Numbers in each output, by onnx's own inference from the inputs' shapes and from the values of the short ones."""
    known, shaped = [], []
    for name, array in inputs.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        if array.size <= _LARGEST_SHAPE and array.dtype != np.dtype(object):
            known.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        else:
            shaped.append(helper.make_tensor_value_info(name, kind, array.shape))
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph([node], "constant", shaped, outputs, known)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, v) for domain, v in opsets.items()])
    inferred = onnx.shape_inference.infer_shapes(model)
    for value in inferred.graph.output:
        kind = value.type.tensor_type
        if not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in kind.shape.dim):
            raise NotFolded(f"the size of what {node.op_type} makes of constants is not known beforehand")
        yield prod(dim.dim_value for dim in kind.shape.dim)
