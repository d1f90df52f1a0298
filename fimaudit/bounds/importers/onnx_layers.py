"""ONNX operators that compute, to the builders of the small graph."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fimaudit.bounds.graph import linear_builders as linear
from fimaudit.bounds.graph import nonlinear_builders as nonlinear
from fimaudit.bounds.graph.ir import Node, activation, clamp, fitting, reindex, reshape, transpose_last
from fimaudit.bounds.importers.onnx_registry import OnnxCall, on

__all__: list[str] = []

FUNCTIONS = {
    "Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Softplus": "softplus", "Softsign": "softsign", "Mish": "mish",
    "HardSwish": "hard_swish", "Gelu": "gelu", "com.microsoft::Gelu": "gelu", "Erf": "erf", "Sin": "sin", "Cos": "cos",
    "Abs": "abs", "Atan": "arctan", "com.microsoft::QuickGelu": "silu", "com.microsoft::FastGelu": "gelu",
}  # fmt: skip


@on(*FUNCTIONS)
def _function(c: OnnxCall) -> Any:
    return activation(c.x, FUNCTIONS[c.name]) if c.constant_tail else c.unknown()


@on("Identity", "Dropout", "Cast", "CastLike")
def _same(c: OnnxCall) -> Any:
    return c.x


@on("LeakyRelu", "PRelu")
def _leaky_relu(c: OnnxCall) -> Any:
    slope = c.attribute("alpha", 0.01) if c.name == "LeakyRelu" else float(np.abs(c[1]).max())
    return activation(c.x, "leaky_relu", float(slope))


@on("Elu", "Celu", "Selu")
def _elu(c: OnnxCall) -> Node:
    alpha = float(c.attribute("alpha", 1.6732632423543772 if c.name == "Selu" else 1.0))
    scale = float(c.attribute("gamma", 1.0507009873554805)) if c.name == "Selu" else 1.0
    if c.name == "Selu" and abs(alpha - 1.6732632) < 1e-5 and abs(scale - 1.050701) < 1e-5:
        return activation(c.x, "selu")
    return activation(c.x, "elu", alpha, scale, 1 / alpha if c.name == "Celu" else 1.0)


@on("HardSigmoid")
def _hard_sigmoid(c: OnnxCall) -> Node:
    alpha, beta = float(c.attribute("alpha", 0.2)), float(c.attribute("beta", 0.5))
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return activation(c.x, "hard_sigmoid")
    return clamp(linear.affine(c.x, alpha, beta), 0.0, 1.0)


@on("Clip")
def _clip(c: OnnxCall) -> Node:
    low, high = (c[i + 1] if c[i + 1] is not None else c.attribute(name) for i, name in enumerate(("min", "max")))
    return clamp(c.x, low, high)


@on("Gemm")
def _gemm(c: OnnxCall) -> Any:
    a, b, bias = c[0], c[1], c[2]
    if not isinstance(a, Node) or isinstance(b, Node) or isinstance(bias, Node):
        return c.unknown()
    node = transpose_last(a) if c.attribute("transA", 0) else a
    weight = c.attribute("alpha", 1.0) * np.asarray(b if c.attribute("transB", 0) else b.T, dtype=np.float64)
    if bias is None:
        return linear.dense(node, weight, None, c.layer)
    shift = c.attribute("beta", 1.0) * np.asarray(bias, dtype=np.float64)
    if shift.size in (1, len(weight)):
        return linear.dense(node, weight, shift.ravel(), c.layer)
    return linear.affine(linear.dense(node, weight, None, c.layer), 1.0, shift)


@on("MatMul")
def _matmul(c: OnnxCall) -> Any:
    if any(len(part.shape) < 2 for part in c.inputs):
        return c.unknown()
    return nonlinear.matmul(c[0], c[1], c.layer)


def _pads(
    c: OnnxCall, size: tuple[int, ...], kernel: list[int], stride: list[int], dilation: list[int]
) -> list[tuple[int, int]]:
    auto, axes = c.attribute("auto_pad", "NOTSET"), len(kernel)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
            total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            pads.append((total // 2, total - total // 2) if auto == "SAME_UPPER" else (total - total // 2, total // 2))
        return pads
    given = c.attribute("pads", [0] * 2 * axes) if auto == "NOTSET" else [0] * 2 * axes
    return list(zip(given[:axes], given[axes:], strict=True))


@on("Conv", "ConvTranspose")
def _conv(c: OnnxCall) -> Any:
    weight = c[1]
    if isinstance(weight, Node) or isinstance(c[2], Node) or not isinstance(c.x, Node):
        return c.unknown()
    kernel = list(weight.shape[2:])
    stride = list(c.attribute("strides", [1] * len(kernel)))
    dilation = list(c.attribute("dilations", [1] * len(kernel)))
    groups = c.attribute("group", 1)
    pads = _pads(c, c.x.shape[2:], kernel, stride, dilation)
    if c.name == "Conv":
        return linear.conv(c.x, weight, c[2], stride, pads, dilation, groups, c.layer)
    if c.attribute("output_shape") is not None or c.attribute("auto_pad", "NOTSET").startswith("SAME"):
        return c.unknown()
    extra = list(c.attribute("output_padding", [0] * len(kernel)))
    return linear.conv_transpose(c.x, weight, c[2], stride, pads, extra, dilation, groups, c.layer)


@on("MaxPool", "AveragePool")
def _pool(c: OnnxCall) -> Any:
    kernel = list(c.attribute("kernel_shape"))
    ones = [1] * len(kernel)
    stride, dilation = list(c.attribute("strides", ones)), list(c.attribute("dilations", ones))
    pads = _pads(c, c.x.shape[2:], kernel, stride, dilation)
    ceil, counted = bool(c.attribute("ceil_mode", 0)), bool(c.attribute("count_include_pad", 0))
    kind = "max" if c.name == "MaxPool" else "average"
    node = linear.pool(c.x, kind, kernel, stride, pads, dilation, ceil, counted)
    return [node] + [None] * (c.outputs - 1)


@on("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(c: OnnxCall) -> Node:
    return linear.reduce(c.x, "mean" if c.name == "GlobalAveragePool" else "maximum", range(2, len(c.x.shape)), True)


@on("BatchNormalization")
def _batch_norm(c: OnnxCall) -> Any:
    if c.attribute("training_mode", 0) or not c.constant_tail:
        return c.unknown()
    return [linear.batch_norm(c.x, c[1], c[2], c[3], c[4], c.attribute("epsilon", 1e-5), c.layer)]


@on("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization")
def _layer_norm(c: OnnxCall) -> Any:
    axes = len(c.x.shape) - c.attribute("axis", -1) % len(c.x.shape)
    centred = c.name == "LayerNormalization"
    node = nonlinear.layer_norm(c.x, axes, c[1], c[2], c.attribute("epsilon", 1e-5), centred, c.layer)
    return [node] + [None] * (c.outputs - 1)


@on("InstanceNormalization", "GroupNormalization")
def _group_norm(c: OnnxCall) -> Node:
    channels = c.x.shape[1]
    groups = c.attribute("num_groups", channels)
    scale, shift = (np.asarray(c[place], dtype=np.float64) for place in (1, 2))
    if len(scale) != channels:  # before opset 21: one number a group
        fitting((len(scale), channels // groups))
        scale, shift = (np.repeat(part, channels // groups) for part in (scale, shift))
    return nonlinear.group_norm(c.x, groups, scale, shift, c.attribute("epsilon", 1e-5), c.layer)


@on("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
def _reduce(c: OnnxCall) -> Any:
    axes = c.numbers(1, "axes")
    if not axes and c.attribute("noop_with_empty_axes", 0):
        return c.x
    kind: linear.Reduction = "mean" if c.name == "ReduceMean" else "sum" if c.name == "ReduceSum" else "maximum"
    return linear.reduce(c.x, kind, axes or None, bool(c.attribute("keepdims", 1)))


@on("Add", "Sub", "Sum")
def _add(c: OnnxCall) -> Any:
    made = c.inputs[0]
    for other in c.inputs[1:]:
        made = nonlinear.add(made, other, -1.0 if c.name == "Sub" else 1.0)
    return made


@on("Mul")
def _mul(c: OnnxCall) -> Node:
    return nonlinear.multiply(*c.inputs)


@on("Div")
def _div(c: OnnxCall) -> Any:
    a, b = c.inputs
    if not isinstance(a, Node):
        if isinstance(b, Node) and np.size(a) == 1:
            return linear.affine(nonlinear.power(b, -1.0), float(np.ravel(a)[0]))
        return c.unknown()
    return nonlinear.divide(a, b)


@on("Neg", "Sqrt", "Reciprocal")
def _unary(c: OnnxCall) -> Node:
    return linear.affine(c.x, -1.0) if c.name == "Neg" else nonlinear.power(c.x, 0.5 if c.name == "Sqrt" else -1.0)


@on("Pow")
def _pow(c: OnnxCall) -> Any:
    if not c.constant_tail or np.size(c[1]) > 1:
        return c.unknown()
    return nonlinear.power(c.x, float(np.ravel(c[1])[0]))


@on("Max", "Min")
def _extreme(c: OnnxCall) -> Any:
    nodes = [value for value in c.inputs if isinstance(value, Node)]
    constants = [value for value in c.inputs if not isinstance(value, Node)]
    if len(nodes) == 1 and all(np.size(value) == 1 for value in constants):
        limits = [float(np.ravel(value)[0]) for value in constants]
        return clamp(nodes[0], *((max(limits), None) if c.name == "Max" else (None, min(limits))))
    if constants:
        return c.unknown()
    made = nodes[0]
    for other in nodes[1:]:
        made = nonlinear.maximum(made, other)
    return made


@on("Softmax", "LogSoftmax")
def _softmax(c: OnnxCall) -> Node:
    if c.name == "LogSoftmax":
        return Node("log_softmax", (c.x,), c.x.shape, {}, c.layer)
    rank = len(c.x.shape)
    axis = c.attribute("axis", 1 if c.version < 13 else -1) % rank
    if c.version >= 13 or axis == rank - 1:
        return nonlinear.softmax(c.x, axis, c.layer)
    flat = reshape(c.x, (math.prod(c.x.shape[:axis]), -1))  # before opset 13: over all axes from this one on
    return reshape(nonlinear.softmax(flat, 1, c.layer), c.x.shape)


@on("Where")
def _where(c: OnnxCall) -> Any:
    """Known only as the softplus of torch's exporter, which answers x above a threshold."""
    condition, x, soft = c[0], c[1], c[2]
    nodes = all(isinstance(part, Node) for part in (condition, x, soft))
    thresholded = nodes and condition.op == "Greater" and condition.inputs == (x,) and soft.inputs == (x,)
    return soft if thresholded and soft.attrs.get("function") == "softplus" else c.unknown()


@on("Attention")
def _attention(c: OnnxCall) -> Any:
    query, key, value = c.inputs[:3]
    plain = c.outputs == 1 and not c.attribute("softcap") and all(part is None for part in c.inputs[4:])
    if not plain or isinstance(c[3], Node) or not all(isinstance(part, Node) for part in (query, key, value)):
        return c.unknown()
    joined = len(query.shape) == 3
    if joined:
        heads = (c.attribute("q_num_heads"), c.attribute("kv_num_heads"), c.attribute("kv_num_heads"))
        query, key, value = (
            reindex(reshape(part, (*part.shape[:2], h, -1)), lambda p: p.swapaxes(1, 2))
            for part, h in zip((query, key, value), heads, strict=True)
        )
    repeats = query.shape[1] // key.shape[1]
    fitting((repeats, *key.shape)), fitting((repeats, *value.shape))
    key, value = (reindex(part, lambda p: np.repeat(p, repeats, axis=1)) for part in (key, value))
    scale = c.attribute("scale") or 1 / math.sqrt(query.shape[-1])
    masked = c[3] is not None or bool(c.attribute("is_causal", 0))
    made = nonlinear.scaled_attention(query, key, value, float(scale), masked, c.layer)
    if not joined:
        return made
    return reindex(made, lambda p: p.swapaxes(1, 2).reshape(p.shape[0], p.shape[2], -1))
