"""Builders for sums, products, norms and attention, which recognise what exporters spell out in pieces.

Recognised: x - mean(x) and x / sqrt(mean(x^2) + eps) (layer and RMS norm), x sigmoid(x) and its kin (SiLU, GELU,
Mish, hard-swish), softmax(q k^T) v (attention).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fimaudit.bounds.graph.attention_tokens import token_attention
from fimaudit.bounds.graph.ir import Node, activation, expand, reshape, source, transpose_last
from fimaudit.bounds.graph.linear_builders import affine, dense, scalar_affine

__all__ = [
    "add",
    "divide",
    "group_norm",
    "layer_norm",
    "matmul",
    "maximum",
    "multiply",
    "power",
    "scaled_attention",
    "softmax",
]

GATES = {"sigmoid": "silu", "hard_sigmoid": "hard_swish"}
TANH_GELU = (math.sqrt(2 / math.pi), 0.044715)


def add(a: Any, b: Any, sign: float = 1.0) -> Any:
    """a + sign b, of tensors that depend on the input and constants."""
    if not isinstance(b, Node):
        return affine(a, 1.0, sign * np.asarray(b)) if isinstance(a, Node) else a + sign * b
    if not isinstance(a, Node):
        return affine(b, sign, a)
    shape = np.broadcast_shapes(a.shape, b.shape)
    if sign == -1.0 and a.shape == shape and _is_mean_of(b, a):
        return Node("centre", (a,), shape, {}, "centre")
    if sign == -1.0 and b.op == "activation" and b.attrs["function"] == "tanh" and b.inputs[0] is a:
        return activation(a, "tanhshrink")
    right = affine(expand(b, shape), sign)
    return Node("sum", (expand(a, shape), right), tuple(shape), {}, "residual add")


def maximum(a: Node, b: Node) -> Node:
    """Element-wise maximum (or minimum) of two tensors."""
    shape = np.broadcast_shapes(a.shape, b.shape)
    return Node("maximum", (expand(a, shape), expand(b, shape)), tuple(shape), {}, "maximum")


def multiply(a: Any, b: Any) -> Node:
    """Element-wise product; a known gate, a square, the end of a layer norm, or a general product of bounded tensors."""
    if not isinstance(a, Node) or not isinstance(b, Node):
        return affine(a, b) if isinstance(a, Node) else affine(b, a)
    if a is b:
        return power(a, 2.0)
    for value, other in ((a, b), (b, a)):
        gated = _gated(value, other)
        if gated is not None:
            return gated
        if source(other).op == "rsqrt":
            return divide(value, other)
    shape = np.broadcast_shapes(a.shape, b.shape)
    return Node("product", (expand(a, shape), expand(b, shape)), tuple(shape), {}, "product")


def power(node: Node, exponent: float) -> Node:
    """x^exponent, or one of the roots that layer norms end with."""
    if exponent == 1.0:
        return node
    if exponent in (0.5, -0.5, -1.0):
        if exponent == -1.0 and node.op == "sqrt":
            return Node("rsqrt", node.inputs, node.shape, {}, "rsqrt")
        name = {0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}[exponent]
        return Node(name, (node,), node.shape, {}, name)
    return Node("power", (node,), node.shape, {"exponent": float(exponent)}, f"power {exponent:g}")


def divide(a: Node, b: Any) -> Node:
    """a / b: by a constant, x / sqrt(mean(x^2) + eps) or x / (1 + |x|). ``b`` may be the reciprocal root."""
    if not isinstance(b, Node):
        return affine(a, 1.0 / np.asarray(b, dtype=np.float64))
    size, slope, start = scalar_affine(b)
    if (slope, start) == (1.0, 1.0) and size.op == "activation" and size.attrs["function"] == "abs" and size.inputs[0] is a:
        return activation(a, "softsign")
    root = source(b)
    if root.op in ("sqrt", "rsqrt") and root.inputs[0].op == "affine":
        mean, factor, eps = scalar_affine(root.inputs[0])
        squared = mean.inputs[0] if mean.op == "reduce" and mean.attrs["kind"] == "mean" else None
        if squared is not None and squared.op == "power" and squared.attrs["exponent"] == 2.0 and squared.inputs[0] is a:
            last = mean.attrs["axes"] == (len(a.shape) - 1,) and np.broadcast_shapes(a.shape, b.shape) == a.shape
            if last and eps > 0 and _repeats_last(expand(b, a.shape), a.shape):
                return affine(_normalised(a, eps / factor), 1 / math.sqrt(factor))
    shape = np.broadcast_shapes(a.shape, b.shape)
    return Node("divide", (expand(a, shape), expand(b, shape)), tuple(shape), {}, "division")


def layer_norm(node: Node, axes: int, gamma: Any, beta: Any, eps: float, centred: bool = True, name: str = "") -> Node:
    """Layer norm over the last ``axes`` axes (RMS norm where not centred), then its affine map."""
    shape = node.shape
    flat = reshape(node, (*shape[: len(shape) - axes], -1))
    if centred:
        flat = Node("centre", (flat,), flat.shape, {}, "centre")
    made = reshape(_normalised(flat, eps, name), shape)
    return affine(made, 1.0 if gamma is None else gamma, 0.0 if beta is None else beta, f"{name} affine".strip())


def group_norm(node: Node, groups: int, gamma: Any, beta: Any, eps: float, name: str = "") -> Node:
    """Group norm of (batch, channels, \\*size); instance norm where every channel is a group."""
    flat = reshape(node, (node.shape[0], groups, -1))
    flat = Node("centre", (flat,), flat.shape, {}, "centre")
    made = reshape(_normalised(flat, eps, name), node.shape)
    line = (-1, *[1] * (len(node.shape) - 2))
    scale = 1.0 if gamma is None else np.reshape(np.asarray(gamma), line)
    shift = 0.0 if beta is None else np.reshape(np.asarray(beta), line)
    return affine(made, scale, shift, f"{name} affine".strip())


def softmax(node: Node, axis: int, name: str = "") -> Node:
    """Softmax along an axis."""
    return Node("softmax", (node,), node.shape, {"axis": axis % len(node.shape)}, name or "softmax")


def matmul(a: Node | ArrayLike, b: Node | ArrayLike, name: str = "") -> Node:
    """a @ b, where one of them may be a constant matrix; softmax(q k^T) v becomes attention."""
    if isinstance(a, Node) and isinstance(b, Node):
        return _attention_or_product(a, b)
    if isinstance(a, Node):
        assert not isinstance(b, Node)
        constant = _one_matrix(b)
        if constant.ndim == 2:
            return dense(a, constant.T, name=name)
        node = a
    elif isinstance(b, Node):
        constant, node = _one_matrix(a), b
        if constant.ndim == 2:
            return transpose_last(dense(transpose_last(node), constant, name=name))
    else:
        raise TypeError("one factor of a product must be a node")
    left, right = (a.shape, constant.shape) if isinstance(a, Node) else (constant.shape, node.shape)
    lead = np.broadcast_shapes(left[:-2], right[:-2])
    node = expand(node, (*lead, *node.shape[-2:]))
    return Node("batched matmul", (node,), (*lead, left[-2], right[-1]), {"weight": constant}, name or "batched matmul")


def _one_matrix(constant: ArrayLike) -> NDArray[np.float64]:
    """A stack of equal matrices as one."""
    stack = np.asarray(constant, dtype=np.float64)
    first = stack.reshape(-1, *stack.shape[-2:])[0]
    return first if np.array_equal(stack, np.broadcast_to(first, stack.shape)) else stack


def scaled_attention(query: Node, key: Node, value: Node, scale: float, masked: bool, name: str = "") -> Node:
    """softmax(scale q k^T) v over (..., tokens, features), on tokens of a common source where that can be traced."""
    lead = np.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    query, key, value = (expand(node, (*lead, *node.shape[-2:])) for node in (query, key, value))
    traced = token_attention(query, key, value, abs(scale), masked, name)
    if traced is not None:
        return traced
    shape = (*query.shape[:-1], value.shape[-1])
    return Node("attention", (query, key, value), shape, {"scale": abs(scale), "masked": masked}, name or "attention")


def _attention_or_product(a: Node, b: Node) -> Node:
    scores, scale, masked, lead = a, 1.0, False, a.shape[:-2]
    weights = _same_matrices(scores)
    if weights.op == "softmax" and weights.attrs["axis"] == len(weights.shape) - 1:
        scores = _same_matrices(weights.inputs[0])
        while scores.op in ("affine", "sum"):
            if scores.op == "sum" or scores.attrs["scale"].size != 1:
                break
            scale *= float(scores.attrs["scale"].item())
            masked = masked or scores.attrs["shift"].size > 1
            scores = _same_matrices(scores.inputs[0])
        if scores.op == "matmul":
            query, key = scores.inputs[0], transpose_last(scores.inputs[1])
            query, key = (reshape(node, (*lead, *node.shape[-2:])) for node in (query, key))
            return scaled_attention(query, key, b, scale, masked)
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = expand(a, (*lead, *a.shape[-2:])), expand(b, (*lead, *b.shape[-2:]))
    return Node("matmul", (a, b), (*a.shape[:-1], b.shape[-1]), {}, "matmul")


def _same_matrices(node: Node) -> Node:
    """Look through a view that only regroups the leading axes of a stack of matrices."""
    if node.op == "view":
        inner = node.inputs[0]
        if inner.shape[-2:] == node.shape[-2:] and inner.size == node.size:
            index = node.attrs["index"]
            if np.array_equal(index.ravel(), np.arange(node.size)):
                return inner
    return node


def _normalised(node: Node, eps: float, name: str = "") -> Node:
    return Node("normalise", (node,), node.shape, {"eps": eps}, name or "normalise")


def _is_mean_of(candidate: Node, node: Node) -> bool:
    mean = source(candidate)
    if mean.op != "reduce" or mean.attrs["kind"] != "mean" or mean.inputs[0] is not node:
        return False
    return mean.attrs["axes"] == (len(node.shape) - 1,) and _repeats_last(expand(candidate, node.shape), node.shape)


def _repeats_last(full: Node, shape: tuple[int, ...]) -> bool:
    """Whether a view repeats one number for each row of the last axis."""
    if full.op != "view" or full.shape != shape:
        return full.shape == shape and shape[-1] == 1
    rows = np.arange(math.prod(shape[:-1])).reshape(*shape[:-1], 1)
    return np.array_equal(full.attrs["index"], np.broadcast_to(rows, shape))


def _gated(value: Node, gate: Node) -> Node | None:
    """``value * gate`` as an activation of one tensor, up to a factor; the supremum of |f'| does not depend on the
    gate's slope."""
    x, factor, offset = scalar_affine(value)
    inner, outer, shift = scalar_affine(gate)
    if inner.op != "activation" or offset != 0.0 or x.shape != gate.shape:
        return None
    function = inner.attrs["function"]
    argument, slope, start = scalar_affine(inner.inputs[0])
    if function in GATES and argument is x and start == shift == 0.0 and slope > 0:
        return affine(activation(x, GATES[function]), factor * outer)
    half = abs(outer - shift) <= 1e-6 * abs(shift)
    if function == "erf" and argument is x and start == 0.0 and half and slope > 0:
        return affine(activation(x, "gelu"), 2 * factor * outer)
    if function == "tanh" and half and _is_tanh_gelu(inner.inputs[0], x):
        return affine(activation(x, "gelu"), 2 * factor * outer)
    nested = inner.inputs[0]
    softened = nested.op == "activation" and nested.attrs["function"] == "softplus" and not nested.attrs["values"]
    if function == "tanh" and shift == 0.0 and softened and nested.inputs[0] is x:
        return affine(activation(x, "mish"), factor * outer)
    six = function == "relu6" or (function == "clamp" and inner.attrs["values"] == (0.0, 6.0))
    if six and argument is x and (slope, start, shift) == (1.0, 3.0, 0.0):
        return affine(activation(x, "hard_swish"), 6 * factor * outer)
    return None


def _is_tanh_gelu(argument: Node, x: Node) -> bool:
    total, factor, offset = scalar_affine(argument)
    if total.op != "sum" or offset != 0.0:
        return False
    for linear, cubic in (total.inputs, total.inputs[::-1]):
        cube, weight, rest = scalar_affine(cubic)
        cubed = (cube.op == "power" and cube.attrs["exponent"] == 3.0 and cube.inputs[0] is x) or _is_cube(cube, x)
        if linear is x and rest == 0.0 and cubed:
            return bool(np.allclose((factor, weight), TANH_GELU, rtol=1e-3))
    return False


def _is_cube(cube: Node, x: Node) -> bool:
    if cube.op != "product":
        return False
    return any(
        a is x and b.op == "power" and b.attrs["exponent"] == 2.0 and b.inputs[0] is x
        for a, b in (cube.inputs, cube.inputs[::-1])
    )
