"""ATen operators that compute, as torch.export leaves them (decomposed or not), to the builders of the small graph."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fimaudit.bounds.graph import linear_builders as linear
from fimaudit.bounds.graph import nonlinear_builders as nonlinear
from fimaudit.bounds.graph.ir import Node, activation, clamp, reindex
from fimaudit.bounds.importers.aten_registry import AtenCall, many, on

__all__: list[str] = []


def _axes(call: AtenCall) -> list[int] | None:
    dims = call.get("dim")
    return None if dims is None or dims == [] else many(dims, 1)


FUNCTIONS = {
    "relu": "relu", "relu6": "relu6", "tanh": "tanh", "sigmoid": "sigmoid", "silu": "silu", "gelu": "gelu", "mish": "mish",
    "hardswish": "hard_swish", "hardsigmoid": "hard_sigmoid", "selu": "selu", "erf": "erf", "sin": "sin", "cos": "cos",
    "abs": "abs", "atan": "arctan", "log_sigmoid": "log_sigmoid", "log_sigmoid_forward": "log_sigmoid",
}  # fmt: skip


@on(*FUNCTIONS)
def _function(c: AtenCall) -> Any:
    node = activation(c.x, FUNCTIONS[c.name], name=c.layer)
    return [node, None] if c.name == "log_sigmoid_forward" else node


@on("dropout", "alias", "clone", "contiguous", "detach", "_to_copy", "to", "lift_fresh_copy", "feature_dropout", "type_as",
    "alpha_dropout", "feature_alpha_dropout")  # fmt: skip
def _same(c: AtenCall) -> Any:
    return c.x


@on("leaky_relu")
def _leaky_relu(c: AtenCall) -> Node:
    return activation(c.x, "leaky_relu", float(c["negative_slope"]), name=c.layer)


@on("prelu", "_prelu_kernel")
def _prelu(c: AtenCall) -> Node:
    return activation(c.x, "leaky_relu", float(np.abs(c["weight"]).max()), name=c.layer)


@on("elu", "celu")
def _elu(c: AtenCall) -> Node:
    alpha = float(c["alpha"])
    scales = (1.0, 1 / alpha) if c.name == "celu" else (float(c["scale"]), float(c["input_scale"]))
    return activation(c.x, "elu", alpha, *scales, name=c.layer)


@on("softplus")
def _softplus(c: AtenCall) -> Node:
    return activation(c.x, "softplus", *(() if c["beta"] == 1 else (float(c["beta"]),)), name=c.layer)


@on("hardtanh", "clamp", "clamp_min", "clamp_max")
def _clamp(c: AtenCall) -> Node:
    return clamp(c.x, c.get("min_val", c.get("min")), c.get("max_val", c.get("max")), c.layer)


@on("linear")
def _linear(c: AtenCall) -> Any:
    return c.unknown() if isinstance(c["weight"], Node) else linear.dense(c.x, c["weight"], c.get("bias"), c.layer)


@on("addmm", "baddbmm")
def _addmm(c: AtenCall) -> Any:
    a, b = (c[name] for name in (("mat1", "mat2") if c.name == "addmm" else ("batch1", "batch2")))
    product = linear.affine(nonlinear.matmul(a, b, c.layer), float(c["alpha"]))
    beta, other = float(c["beta"]), c["self"]
    return nonlinear.add(product, linear.affine(other, beta) if isinstance(other, Node) else beta * other)


@on("mm", "bmm", "matmul")
def _matmul(c: AtenCall) -> Any:
    second = c.get("mat2", c.get("other"))
    if any(len(part.shape) < 2 for part in (c["self"], second)):
        return c.unknown()
    return nonlinear.matmul(c["self"], second, c.layer)


@on("conv1d", "conv2d", "conv3d", "convolution", "_convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv(c: AtenCall) -> Any:
    if isinstance(c["weight"], Node):
        return c.unknown()
    axes = c["weight"].ndim - 2
    stride, dilation = many(c["stride"], axes), many(c["dilation"], axes)
    if c.get("transposed") or c.name.startswith("conv_transpose"):
        pads = [(p, p) for p in many(c["padding"], axes)]
        extra = many(c["output_padding"], axes)
        return linear.conv_transpose(c.x, c["weight"], c["bias"], stride, pads, extra, dilation, c["groups"], c.layer)
    if isinstance(c["padding"], str):
        reach = [d * (k - 1) * (c["padding"] == "same") for d, k in zip(dilation, c["weight"].shape[2:], strict=True)]
        pads = [(n // 2, n - n // 2) for n in reach]
    else:
        pads = [(p, p) for p in many(c["padding"], axes)]
    return linear.conv(c.x, c["weight"], c["bias"], stride, pads, dilation, c["groups"], c.layer)


@on(
    "batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit"
)
def _batch_norm(c: AtenCall) -> Any:
    if c.get("running_mean") is None or c.get("training"):
        return c.unknown()  # statistics of the batch: no function of one input
    node = linear.batch_norm(c.x, c["weight"], c["bias"], c["running_mean"], c["running_var"], c["eps"], c.layer)
    return node if c.name == "batch_norm" else [node, None, None]


@on("layer_norm", "native_layer_norm", "rms_norm")
def _layer_norm(c: AtenCall) -> Any:
    eps = c["eps"] if c.get("eps") is not None else float(np.finfo(np.float32).eps)
    axes = len(c["normalized_shape"])
    node = nonlinear.layer_norm(c.x, axes, c["weight"], c.get("bias"), eps, c.name != "rms_norm", c.layer)
    return [node, None, None] if c.name == "native_layer_norm" else node


@on("group_norm", "native_group_norm")
def _group_norm(c: AtenCall) -> Any:
    groups = c.get("num_groups", c.get("group"))
    node = nonlinear.group_norm(c.x, groups, c["weight"], c["bias"], c["eps"], c.layer)
    return [node, None, None] if c.name == "native_group_norm" else node


@on("instance_norm")
def _instance_norm(c: AtenCall) -> Any:
    if not c["use_input_stats"]:
        return linear.batch_norm(c.x, c["weight"], c["bias"], c["running_mean"], c["running_var"], c["eps"], c.layer)
    return nonlinear.group_norm(c.x, c.x.shape[1], c["weight"], c["bias"], c["eps"], c.layer)


def _window(c: AtenCall) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Kernel, stride (the kernel's own length where none is given) and padding of a pooling layer, one for each axis."""
    axes = int(c.name[8])  # max_pool2d, avg_pool3d
    kernel = many(c["kernel_size"], axes)
    return kernel, many(c["stride"], axes) if c["stride"] else kernel, [(p, p) for p in many(c["padding"], axes)]


@on(
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool1d_with_indices", "max_pool3d_with_indices"
)
def _max_pool(c: AtenCall) -> Any:
    kernel, stride, pads = _window(c)
    node = linear.pool(c.x, "max", kernel, stride, pads, many(c["dilation"], len(kernel)), c["ceil_mode"])
    return [node, None] if c.name.endswith("indices") else node


@on("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(c: AtenCall) -> Node:
    kernel, stride, pads = _window(c)
    divisor = c.get("divisor_override")
    return linear.pool(c.x, "average", kernel, stride, pads, None, c["ceil_mode"], c["count_include_pad"], divisor)


@on("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
def _adaptive_avg_pool(c: AtenCall) -> Node:
    return linear.adaptive_pool(c.x, "average", c["output_size"])


@on("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max_pool(c: AtenCall) -> Any:
    return [linear.adaptive_pool(c.x, "max", c["output_size"]), None]


@on("mean", "sum", "amax", "amin")
def _reduce(c: AtenCall) -> Node:
    kind: linear.Reduction = "mean" if c.name == "mean" else "sum" if c.name == "sum" else "maximum"
    return linear.reduce(c.x, kind, _axes(c), bool(c.get("keepdim", False)))


@on("add", "sub", "rsub")
def _add(c: AtenCall) -> Any:
    a, b, alpha = c["self"], c["other"], float(c.get("alpha", 1.0))
    if c.name == "rsub":
        a, b = b, a
    return nonlinear.add(a, b, alpha if c.name == "add" else -alpha)


@on("mul")
def _mul(c: AtenCall) -> Node:
    return nonlinear.multiply(c["self"], c["other"])


@on("div")
def _div(c: AtenCall) -> Any:
    if c.get("rounding_mode") is not None or not isinstance(c["self"], Node):
        return c.unknown()
    return nonlinear.divide(c["self"], c["other"])


@on("neg")
def _neg(c: AtenCall) -> Node:
    return linear.affine(c.x, -1.0)


@on("pow")
def _pow(c: AtenCall) -> Any:
    if isinstance(c["exponent"], Node) or np.size(c["exponent"]) > 1:
        return c.unknown()
    return nonlinear.power(c["self"], float(c["exponent"]))


@on("sqrt", "rsqrt", "reciprocal", "square")
def _root(c: AtenCall) -> Node:
    return nonlinear.power(c.x, {"sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0, "square": 2.0}[c.name])


@on("maximum", "minimum")
def _maximum(c: AtenCall) -> Any:
    return (
        nonlinear.maximum(c["self"], c["other"])
        if isinstance(c["self"], Node) and isinstance(c["other"], Node)
        else c.unknown()
    )


@on("softmax", "_softmax")
def _softmax(c: AtenCall) -> Node:
    return nonlinear.softmax(c.x, c["dim"], c.layer)


@on("full_like", "zeros_like", "ones_like")
def _full_like(c: AtenCall) -> Any:
    return np.full(c.x.shape, c.get("fill_value", 1.0 if c.name == "ones_like" else 0.0))


@on("where")
def _where(c: AtenCall) -> Any:
    """Known only as the end of a safe softmax, which answers 0 in rows whose scores are all -inf, masked by a constant."""
    condition, other = c.get("condition"), c.get("other")
    while isinstance(condition, Node) and condition.op in ("aten.logical_not", "aten.any", "view"):
        condition = condition.inputs[0]
    masked = isinstance(condition, Node) and condition.op == "aten.eq"
    zero = not isinstance(c.get("self"), Node) and not np.any(c.get("self"))
    if masked and zero and isinstance(other, Node) and other.op == "softmax" and condition.inputs[0] is other.inputs[0]:
        return other
    return c.unknown()


@on("log_softmax", "_log_softmax")
def _log_softmax(c: AtenCall) -> Node:
    return Node("log_softmax", (c.x,), c.x.shape, {}, c.layer)


@on("scaled_dot_product_attention")
def _attention(c: AtenCall) -> Any:
    query, key, value = c["query"], c["key"], c["value"]
    mask = c.get("attn_mask")
    if isinstance(mask, Node) or not all(isinstance(part, Node) for part in (query, key, value)):
        return c.unknown()
    if c.get("enable_gqa"):
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (reindex(part, lambda p: np.repeat(p, repeats, axis=-3)) for part in (key, value))
    scale = c.get("scale") or 1 / math.sqrt(query.shape[-1])
    return nonlinear.scaled_attention(query, key, value, float(scale), mask is not None or bool(c["is_causal"]), c.layer)


@on("embedding")
def _embedding(c: AtenCall) -> Any:
    if isinstance(c["weight"], Node) or not isinstance(c["indices"], Node):
        return c.unknown()
    return linear.embedding(c["indices"], c["weight"], c.layer)
