"""Builders of the graph's linear operators; an affine map next to a dense or conv layer is folded into its weights.

Folding gives sigma(D W) in place of max|D| sigma(W), never more, and makes a network whose exporter folded its batch norms
equal to one that kept them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fimaudit.bounds.graph.ir import Node, expand, fitting, positions, reindex, view
from fimaudit.bounds.norms.pooling import (
    Windows,
    adaptive_windows,
    average_pool_norm,
    max_pool_norm,
    sliding_windows,
    sum_pool_norm,
)

__all__ = [
    "adaptive_pool",
    "affine",
    "batch_norm",
    "conv",
    "conv_transpose",
    "dense",
    "embedding",
    "nearest_resize",
    "pad",
    "pool",
    "reduce",
    "scalar_affine",
]

#: Of an array of a few positions, in numbers of 8 bytes each.
ROOM_OF_A_WINDOW = 16

Array = NDArray[np.float64]
Pads = Sequence[tuple[int, int]]
Reduction = Literal["mean", "sum", "maximum"]
#: How numpy calls the ways to pad.
PADDING_MODES = ("constant", "reflect", "edge", "wrap")


def affine(node: Node, scale: ArrayLike, shift: ArrayLike = 0.0, name: str = "") -> Node:
    """``scale * x + shift`` for constants that broadcast against x."""
    a, b = (np.asarray(value, dtype=np.float64) for value in (scale, shift))
    node = expand(node, np.broadcast_shapes(node.shape, a.shape, b.shape))
    a, b = _compact(a, len(node.shape)), _compact(b, len(node.shape))
    if node.op == "affine":
        fitting(np.broadcast_shapes(a.shape, b.shape, node.attrs["scale"].shape, node.attrs["shift"].shape))
        a, b = _compact(a * node.attrs["scale"], len(node.shape)), _compact(a * node.attrs["shift"] + b, len(node.shape))
        node = node.inputs[0]
    if a.size == b.size == 1 and a.item() == 1.0 and b.item() == 0.0:
        return node
    # A scalar is left outside: it gains nothing and would hide x from patterns such as x * sigmoid(x).
    if node.op in ("dense", "conv", "conv_transpose") and a.size + b.size > 2:
        axis = len(node.shape) - 1 if node.op == "dense" else 1
        a_line, b_line = along_axis(a, axis, node.shape), along_axis(b, axis, node.shape)
        if a_line is not None and b_line is not None:
            return _scaled_output(node, a_line, b_line)
    return Node("affine", (node,), node.shape, {"scale": a, "shift": b}, name or "affine")


def scalar_affine(node: Node) -> tuple[Node, float, float]:
    """Read a node as ``c x + t`` with scalars; (node, 1, 0) where it is not."""
    if node.op == "affine" and node.attrs["scale"].size == node.attrs["shift"].size == 1:
        return node.inputs[0], float(node.attrs["scale"].item()), float(node.attrs["shift"].item())
    return node, 1.0, 0.0


def along_axis(constant: Array, axis: int, shape: tuple[int, ...]) -> Array | None:
    """The constant as a vector along one axis, or ``None`` where it varies along another."""
    if any(n > 1 and i != axis for i, n in enumerate(constant.shape)):
        return None
    return np.array(np.broadcast_to(constant.reshape(-1), fitting((shape[axis],))))


def dense(node: Node, weight: ArrayLike, bias: ArrayLike | None = None, name: str = "") -> Node:
    """``x @ weight.T + bias`` along the last axis."""
    w = np.asarray(weight, dtype=np.float64)
    b = np.zeros(len(w)) if bias is None else np.broadcast_to(np.asarray(bias, dtype=np.float64), (len(w),))
    before = _affine_before(node, len(node.shape) - 1)
    if before is not None:
        node, scale, shift = before
        w, b = w * scale, b + w @ shift
    return Node("dense", (node,), (*node.shape[:-1], len(w)), {"weight": w, "bias": b}, name or "dense")


def embedding(numbers: Node, table: ArrayLike, name: str = "") -> Node:
    """Rows of a (vocabulary, width) table by token numbers, read as one-hot rows: the bound is with respect to those."""
    w = np.asarray(table, dtype=np.float64)
    return dense(Node("one-hot", (numbers,), (*numbers.shape, len(w)), {}, "one-hot tokens"), w.T, name=name)


def conv(
    node: Node,
    weight: ArrayLike,
    bias: ArrayLike | None,
    stride: Sequence[int],
    padding: Pads,
    dilation: Sequence[int],
    groups: int,
    name: str = "",
) -> Node:
    """Convolution of (batch, channels, \\*size); a padding just before it becomes its own."""
    w = np.asarray(weight, dtype=np.float64)
    offset = np.zeros(len(w)) if bias is None else np.abs(np.asarray(bias, dtype=np.float64))
    axes, circular = w.ndim - 2, False
    node, padding, circular = _absorb_padding(node, [tuple(p) for p in padding])
    before = _affine_before(node, 1)
    if before is not None:
        node, scale, shift = before
        grouped, shifts = (part.reshape(groups, 1, -1, *[1] * axes) for part in (scale, np.abs(shift)))
        split = w.reshape(groups, -1, *w.shape[1:])
        offset = offset + (np.abs(split) * shifts).sum(axis=tuple(range(2, split.ndim))).ravel()
        w = (split * grouped).reshape(w.shape)
    spatial = [
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(node.shape[2:], padding, dilation, w.shape[2:], stride, strict=True)
    ]
    settings = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups}
    attrs = {"weight": w, "offset": offset, "circular": circular, **settings}
    return Node("conv", (node,), (node.shape[0], len(w), *spatial), attrs, name or "conv")


def conv_transpose(
    node: Node,
    weight: ArrayLike,
    bias: ArrayLike | None,
    stride: Sequence[int],
    padding: Pads,
    extra: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    name: str = "",
) -> Node:
    """Transposed convolution, the adjoint of the convolution with this weight (c_in, c_out / groups, \\*kernel)."""
    w = np.asarray(weight, dtype=np.float64)
    channels = w.shape[1] * groups
    offset = np.zeros(channels) if bias is None else np.abs(np.asarray(bias, dtype=np.float64))
    spatial = [
        (n - 1) * s - sum(p) + d * (k - 1) + 1 + e
        for n, s, p, d, k, e in zip(node.shape[2:], stride, padding, dilation, w.shape[2:], extra, strict=True)
    ]
    settings = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups}
    attrs = {"weight": w, "offset": offset, **settings}
    return Node("conv_transpose", (node,), (node.shape[0], channels, *spatial), attrs, name or "transposed conv")


def batch_norm(node: Node, gamma: Any, beta: Any, mean: Array, variance: Array, eps: float, name: str = "") -> Node:
    """Batch norm in evaluation: a fixed affine map of each channel."""
    deviation = np.sqrt(np.asarray(variance, dtype=np.float64) + eps)
    scale = (1.0 if gamma is None else np.asarray(gamma, dtype=np.float64)) / deviation
    shift = (0.0 if beta is None else np.asarray(beta, dtype=np.float64)) - np.asarray(mean, dtype=np.float64) * scale
    shape = (-1, *[1] * (len(node.shape) - 2))
    return affine(node, scale.reshape(shape), np.broadcast_to(shift, scale.shape).reshape(shape), name or "batch norm")


def pool(
    node: Node,
    kind: str,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Pads,
    dilation: Sequence[int] | None = None,
    ceil: bool = False,
    count_padding: bool = True,
    divisor: float | None = None,
) -> Node:
    """Max or average pooling over the last axes."""
    axes = len(kernel)
    size, steps, holes = node.shape[-axes:], list(stride) or list(kernel), list(dilation or [1] * axes)
    windows: list[Windows] = []
    outputs = []
    for n, k, s, p, d in zip(size, kernel, steps, padding, holes, strict=True):
        room = n + sum(p) - d * (k - 1) - 1
        count = (-(-room // s) if ceil else room // s) + 1
        if ceil and (count - 1) * s >= n + p[0]:
            count -= 1
        outputs.append(count)
        fitting((count, k if kind == "max" else max(k, n)))  # of an average, a matrix
        fitting((count, ROOM_OF_A_WINDOW))
        windows.append(sliding_windows(n, count, k, s, p[0], d))
    growth = 1.0
    if kind == "max":
        norm = max_pool_norm(windows, size)
    elif divisor is None:
        counted = [n + p[1] for n, p in zip(size, padding, strict=True)] if count_padding else None
        norm = average_pool_norm(windows, size, counted)
    else:  # every window is a sum over its elements
        growth = math.prod(kernel) / abs(divisor)
        norm = sum_pool_norm(windows, size) / abs(divisor)
    attrs = {"norm": norm, "kind": f"{kind} pool", "growth": growth}
    label = f"{kind} pool {'x'.join(map(str, kernel))}"
    return Node("pool", (node,), (*node.shape[:-axes], *outputs), attrs, label)


def adaptive_pool(node: Node, kind: str, outputs: Sequence[int | None]) -> Node:
    """Max or average pooling to a fixed output size over the last axes."""
    size = node.shape[-len(outputs) :]
    target = [n if o is None else o for n, o in zip(size, outputs, strict=True)]
    windows = [adaptive_windows(n, fitting((o, n))[0]) for n, o in zip(size, target, strict=True)]
    norm = max_pool_norm(windows, size) if kind == "max" else average_pool_norm(windows, size, None)
    attrs = {"norm": norm, "kind": f"adaptive {kind} pool", "growth": 1.0}
    return Node("pool", (node,), (*node.shape[: -len(target)], *target), attrs, f"adaptive {kind} pool")


def reduce(node: Node, kind: Reduction, axes: Sequence[int] | None, keep: bool) -> Node:
    """Mean, sum or maximum (or minimum) over axes; a mean over the last one, kept, may turn out to be part of a layer norm.

    Of a maximum, each output moves by at most the largest move among its elements.
    """
    rank = len(node.shape)
    ordered = tuple(sorted({axis % rank for axis in (range(rank) if axes is None else axes)}))
    count = math.prod(node.shape[axis] for axis in ordered)
    shape = tuple(1 if i in ordered else n for i, n in enumerate(node.shape) if keep or i not in ordered)
    norm = 1.0 if kind == "maximum" else 1 / math.sqrt(count) if kind == "mean" else math.sqrt(count)
    attrs = {"norm": norm, "kind": kind, "axes": ordered, "growth": float(count) if kind == "sum" else 1.0}
    return Node("reduce", (node,), shape, attrs, kind if kind == "mean" else f"{kind} over axes")


def _affine_before(node: Node, axis: int) -> tuple[Node, Array, Array] | None:
    """What an affine map along one axis acts on, and its scale and shift; also where only a view stands after it."""
    inner = node.inputs[0] if node.op == "view" else node
    if inner.op != "affine":
        return None
    source, constants = inner.inputs[0], [inner.attrs["scale"], inner.attrs["shift"]]
    if node.op == "view":
        index = node.attrs["index"]
        if (index < 0).any():
            return None
        source = view(source, index)
        constants = [_compact(np.broadcast_to(c, fitting(inner.shape)).ravel()[index], len(node.shape)) for c in constants]
    scale, shift = (along_axis(constant, axis, node.shape) for constant in constants)
    return None if scale is None or shift is None else (source, scale, shift)


def _compact(constant: Array, rank: int) -> Array:
    """Full rank, and length 1 along every axis on which the constant does not vary."""
    a = constant.reshape((1,) * (rank - constant.ndim) + constant.shape)
    for axis in range(rank):
        if a.shape[axis] > 1 and np.all(a == a.take([0], axis=axis)):
            a = a.take([0], axis=axis)
    return a


def _scaled_output(node: Node, scale: Array, shift: Array) -> Node:
    attrs = dict(node.attrs)
    if node.op == "dense":
        attrs["weight"], attrs["bias"] = scale[:, None] * attrs["weight"], scale * attrs["bias"] + shift
        return Node("dense", node.inputs, node.shape, attrs, node.name)
    w = attrs["weight"]
    if node.op == "conv":
        attrs["weight"] = w * scale.reshape(-1, *[1] * (w.ndim - 1))
    else:
        per_input = np.repeat(scale.reshape(attrs["groups"], 1, -1), w.shape[0] // attrs["groups"], axis=1)
        attrs["weight"] = w * per_input.reshape(*w.shape[:2], *[1] * (w.ndim - 2))
    attrs["offset"] = np.abs(scale) * attrs["offset"] + np.abs(shift)
    return Node(node.op, node.inputs, node.shape, attrs, node.name)


def _absorb_padding(node: Node, padding: list[tuple[int, ...]]) -> tuple[Node, list[tuple[int, int]], bool]:
    """Recognise a view as zero or circular padding of its source and hand the padding to the convolution."""
    own = [(p[0], p[1]) for p in padding]
    inner = node.inputs[0] if node.op == "view" else node
    grown = len(inner.shape) == len(node.shape) and inner.shape[:2] == node.shape[:2]
    if node.op != "view" or not grown or any(a > b for a, b in zip(inner.shape, node.shape, strict=True)):
        return node, own, False
    index = node.attrs["index"]
    first = np.argwhere(index == 0)
    if len(first) == 0:
        return node, own, False
    before = [int(n) for n in first[0]]
    widths = [(b, m - n - b) for b, n, m in zip(before, inner.shape, node.shape, strict=True)]
    if min(w for pair in widths for w in pair) < 0:
        return node, own, False
    if np.array_equal(index, np.pad(positions(inner), widths, constant_values=-1)) and node.attrs["fill"] == 0.0:
        return inner, [(a + c, b + d) for (a, b), (c, d) in zip(own, widths[2:], strict=True)], False
    no_padding = all(pair == (0, 0) for pair in own)
    if no_padding and np.array_equal(index, np.pad(positions(inner), widths, mode="wrap")):
        return inner, widths[2:], True
    return node, own, False


def nearest_resize(node: Node, size: Sequence[int]) -> Node:
    """Nearest-neighbour resize of the last axes, out[i] = in[floor(i n / m)]."""

    fitting((*node.shape[: -len(size)], *size))

    def pick(p: Any) -> Any:
        for axis, m in sorted(zip(range(-len(size), 0), size, strict=True), key=lambda pair: pair[1]):
            p = p.take(np.arange(m) * p.shape[axis] // m, axis=axis)
        return p

    return reindex(node, pick)


def pad(node: Node, widths: Pads, mode: Any, fill: float = 0.0) -> Node:
    """Padding of every axis, by a constant ``fill`` or as numpy's ``mode`` says; a negative width cuts.

    Raises:
        ValueError: another mode than ``PADDING_MODES``.
    """
    if mode not in PADDING_MODES:
        raise ValueError(f"expected a padding among {', '.join(PADDING_MODES)}, got {mode[:80]!r}")
    cut = tuple(slice(max(0, -a), n - max(0, -b)) for (a, b), n in zip(widths, node.shape, strict=True))
    grown = [(max(0, a), max(0, b)) for a, b in widths]
    fitting([n + a + b for n, (a, b) in zip(node.shape, grown, strict=True)])
    constant: Any = {"constant_values": -1} if mode == "constant" else {}
    return reindex(node, lambda p: np.pad(p[cut], grown, mode, **constant), fill)
