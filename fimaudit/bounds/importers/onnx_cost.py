"""How long onnx's reference evaluator takes for an operator on constants: some it computes number by number, in Python."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.ops import op_resize

__all__ = ["OperatorRefused", "products_of_einsum", "seconds", "working_size"]

#: Operators computed with whole arrays, in a time that the numbers they make and read bound well enough.
_WHOLE_ARRAYS = {
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization",
    "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Clip",
    "Compress", "Concat", "Constant", "ConstantOfShape", "Cos", "Cosh", "CumSum", "DepthToSpace", "DequantizeLinear",
    "Div", "Elu", "Equal", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather", "GatherElements", "Gemm",
    "GlobalAveragePool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "HardSigmoid", "Hardmax", "Identity",
    "InstanceNormalization", "IsInf", "IsNaN", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log",
    "LogSoftmax", "LpNormalization", "MatMul", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "NonZero", "Not", "OneHot", "Or",
    "PRelu", "Pad", "Pow", "QuantizeLinear", "RMSNormalization", "Range", "Reciprocal", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
    "ReduceSumSquare", "Relu", "Reshape", "Round", "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size",
    "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Swish", "Tan",
    "Tanh", "ThresholdedRelu", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where", "Xor",
}  # fmt: skip
#: Microseconds for each number made or read, measured with onnx 1.23 on one core and rounded up.
_MICROSECONDS = {"Erf": 0.3, "ReverseSequence": 0.5, "TopK": 0.3}
#: Numbers of all other operators: a recurrent layer or a convolution takes no time in proportion to them.
_MOST_OF_OTHERS = 2**14
#: Whose parameters numpy broadcasts against the first input, though the shape of the result is said to be that input's.
_PER_CHANNEL = ("BatchNormalization", "InstanceNormalization")
_LIKE_FACTORS = ("LayerNormalization", "RMSNormalization", "PRelu")
#: Older versions of onnx go through the whole input for each number that Resize makes.
_RESIZES_AXIS_BY_AXIS = hasattr(op_resize, "_interpolate_1d_along_axis")


class OperatorRefused(Exception):
    """The operator does not fit its inputs, or onnx does not know it; the message is what onnx or numpy says."""


def working_size(node: Any, arrays: Sequence[NDArray[Any]], shapes: Sequence[tuple[int, ...]]) -> int:
    """The most numbers that are held at once in an array of the computation.

    Args:
        node: a ``NodeProto``.
        arrays: what it reads.
        shapes: of what it makes.
    """
    size = max((prod(shape) for shape in shapes), default=0)
    if node.op_type == "Resize":  # one axis after the other: the first may grow before the second shrinks
        return max(size, _resized(arrays[0].shape, shapes[0]))
    if node.op_type == "Einsum" and len(arrays) > 2:  # two by two, and what lies between may hold all indices
        return max(size, products_of_einsum(node, arrays))
    if node.op_type in _PER_CHANNEL:
        ones = (1,) * (arrays[0].ndim - 2)
        return max(size, _broadcast([arrays[0].shape, *((a.size, *ones) for a in arrays[1:])]))
    if node.op_type in _LIKE_FACTORS:
        return max(size, _broadcast([a.shape for a in arrays]))
    return size


def seconds(node: Any, arrays: Sequence[NDArray[Any]], shapes: Sequence[tuple[int, ...]], products: int) -> float:
    """About how long the operator takes, beside what whole arrays take; infinite where that is not known and may be long.

    Args:
        node: a ``NodeProto``.
        arrays: what it reads.
        shapes: of what it makes.
        products: multiplications of a matrix product.
    """
    kind, read = node.op_type, max((array.size for array in arrays), default=0)
    size = max(read, *(prod(shape) for shape in shapes)) if shapes else read
    if kind in _WHOLE_ARRAYS:
        return 1e-10 * products
    if kind == "Einsum":  # not all of them reach a matrix product
        return 1e-9 * products
    if kind in _MICROSECONDS:
        return 1e-6 * _MICROSECONDS[kind] * size
    if kind == "Resize":
        return _seconds_to_resize(node, arrays[0].shape, shapes[0])
    if kind in ("GatherND", "ScatterND") and len(arrays) > 1:  # by rows: row for row, of numpy's speed in a row
        rows, depth = prod(arrays[1].shape[:-1]), arrays[1].shape[-1] if arrays[1].ndim else 0
        return 1.5e-6 * rows + 5e-9 * (size + rows * prod(arrays[0].shape[depth:]))
    if kind == "ScatterElements" and len(arrays) > 1:
        return 1e-6 * arrays[1].size + 5e-9 * size
    return 3e-5 * size if size <= _MOST_OF_OTHERS else inf


def products_of_einsum(node: Any, arrays: Sequence[NDArray[Any]]) -> int:
    """Multiplications of a sum over indices: the product of the lengths of all of them, those of an ellipsis too.

    Raises:
        OperatorRefused: the equation has other terms or axes than the arrays.
    """
    equation = next(
        (attribute.s.decode(errors="replace") for attribute in node.attribute if attribute.name == "equation"), ""
    )
    lengths: dict[Any, int] = {}
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if len(terms) != len(arrays):
        raise OperatorRefused(f"the equation {equation!r} has {len(terms)} terms for {len(arrays)} inputs")
    for term, array in zip(terms, arrays, strict=True):
        before, dots, after = term.partition("...")
        hidden = range(array.ndim - len(before) - len(after), 0, -1) if dots else ()
        names = [*before, *hidden, *after]
        if len(names) != array.ndim:
            raise OperatorRefused(f"the equation {equation!r} does not fit an input of shape {array.shape}")
        for name, length in zip(names, array.shape, strict=True):
            lengths[name] = max(lengths.get(name, 1), length)
    return prod(lengths.values())


def _seconds_to_resize(node: Any, before: tuple[int, ...], after: tuple[int, ...]) -> float:
    if not _RESIZES_AXIS_BY_AXIS:
        return 3e-5 * prod(after) * prod(before[:-1])
    axes = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "axes"), None)
    rank = len(before)
    kept = set(range(rank)) - {axis % rank for axis in axes} if axes is not None and rank else set()
    positions = sum(max(lengths) for lengths in zip(before, after, strict=True))  # each has weights made in Python
    return 1e-5 * prod(before[axis] for axis in kept) * positions + 3e-7 * _resized(before, after)


def _resized(before: tuple[int, ...], after: tuple[int, ...]) -> int:
    return prod(max(lengths) for lengths in zip(before, after, strict=True))


def _broadcast(shapes: Sequence[tuple[int, ...]]) -> int:
    """Numbers of the broadcast shape; none where there is none: the operator then refuses its inputs."""
    try:
        return prod(np.broadcast_shapes(*shapes))
    except ValueError:
        return 0
