"""ONNX operators that only move elements: each is a view of the small graph."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fimaudit.bounds.graph import linear_builders as linear
from fimaudit.bounds.graph.ir import Node, concat, fitting, positions, reindex, reshape, squeeze, view
from fimaudit.bounds.importers.onnx_registry import OnnxCall, on

__all__: list[str] = []


@on("Reshape")
def _reshape(c: OnnxCall) -> Node:
    target = c.numbers(1, "shape") or []
    if not c.attribute("allowzero", 0):
        target = [c.x.shape[i] if n == 0 else n for i, n in enumerate(target)]
    if (
        c.x.size != math.prod(target)
        and -1 not in target
        and math.prod(target[1:])
        and c.x.size % math.prod(target[1:]) == 0
    ):
        target = [-1, *target[1:]]  # a batch size that was written down when the graph was exported
    return reshape(c.x, target)


@on("Flatten")
def _flatten(c: OnnxCall) -> Node:
    axis = c.attribute("axis", 1)
    axis = axis + len(c.x.shape) if axis < 0 else axis
    return reshape(c.x, (math.prod(c.x.shape[:axis]), -1))


@on("Transpose")
def _transpose(c: OnnxCall) -> Node:
    return reindex(c.x, lambda p: p.transpose(c.attribute("perm")))


@on("Squeeze")
def _squeeze(c: OnnxCall) -> Node:
    return squeeze(c.x, c.numbers(1, "axes"))


@on("Unsqueeze")
def _unsqueeze(c: OnnxCall) -> Node:
    return reindex(c.x, lambda p: np.expand_dims(p, tuple(c.numbers(1, "axes") or [])))


@on("Slice")
def _slice(c: OnnxCall) -> Node:
    starts, ends = c.numbers(1, "starts") or [], c.numbers(2, "ends") or []
    axes = c.numbers(3, "axes") or list(range(len(starts)))
    steps = c.numbers(4, "steps") or [1] * len(starts)
    place = [slice(None)] * len(c.x.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        length = c.x.shape[axis]
        place[axis] = slice(start, None if step < 0 and end < -length else end, step)
    return reindex(c.x, lambda p: p[tuple(place)])


@on("Gather")
def _gather(c: OnnxCall) -> Any:
    indices = c[1]
    if isinstance(indices, Node):
        if isinstance(c.x, Node) or c.attribute("axis", 0) != 0 or c.x.ndim != 2:
            return c.unknown()
        return linear.embedding(indices, c.x, c.layer)
    axis = c.attribute("axis", 0)
    fitting((*np.shape(indices), *(n for i, n in enumerate(c.x.shape) if i != axis % len(c.x.shape))))
    return reindex(c.x, lambda p: np.take(p, indices, axis=axis))


@on("GatherND")
def _gather_nd(c: OnnxCall) -> Any:
    if not c.constant_tail or c.attribute("batch_dims", 0):
        return c.unknown()
    place = tuple(np.moveaxis(np.asarray(c[1]), -1, 0))
    fitting((*np.shape(c[1])[:-1], *c.x.shape[len(place) :]))
    return reindex(c.x, lambda p: p[place])


@on("GatherElements")
def _gather_elements(c: OnnxCall) -> Any:
    if not c.constant_tail:
        return c.unknown()
    axis = range(len(c.x.shape))[c.attribute("axis", 0)]
    fitting(np.broadcast_shapes((*c.x.shape[:axis], 1, *c.x.shape[axis + 1 :]), np.shape(c[1])))
    return reindex(c.x, lambda p: np.take_along_axis(p, c[1], axis=axis))


@on("Split")
def _split(c: OnnxCall) -> list[Node]:
    axis = c.attribute("axis", 0)
    length, sizes = c.x.shape[axis], c.numbers(1, "split")
    if sizes is None:
        step = -(-length // c.outputs)
        sizes = [min(step, length - i * step) for i in range(c.outputs)]
    if min(sizes) < 0 or sum(sizes) != length:
        raise ValueError(f"an axis of length {length} is split into parts of {str(sizes)[:80]}")
    every, ends = np.moveaxis(positions(c.x), axis, 0), np.cumsum(sizes)
    return [view(c.x, np.moveaxis(every[b - n : b], 0, axis)) for b, n in zip(ends, sizes, strict=True)]


@on("Concat")
def _concat(c: OnnxCall) -> Node:
    return concat([part for part in c.inputs if isinstance(part, Node) or np.size(part)], c.attribute("axis"))


@on("Expand")
def _expand(c: OnnxCall) -> Node:
    target = np.broadcast_shapes(c.x.shape, tuple(c.numbers(1, "shape") or ()))
    return reindex(c.x, lambda p: np.broadcast_to(p, target))


@on("Tile")
def _tile(c: OnnxCall) -> Node:
    repeats = c.numbers(1, "repeats") or []
    fitting((*c.x.shape, *repeats))
    return reindex(c.x, lambda p: np.tile(p, repeats))


@on("Pad")
def _pad(c: OnnxCall) -> Any:
    rank, mode = len(c.x.shape), c.attribute("mode", "constant")
    given, axes = c.numbers(1, "pads") or [], c.numbers(3, "axes") or list(range(rank))
    if any(isinstance(value, Node) for value in c.inputs[1:]):
        return c.unknown()
    widths = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        widths[axis] = (given[i], given[len(axes) + i])
    value = c[2] if c[2] is not None else c.attribute("value", 0.0)
    return linear.pad(c.x, widths, mode, float(np.ravel(value)[0]) if mode == "constant" else 0.0)


@on("DepthToSpace", "SpaceToDepth")
def _depth(c: OnnxCall) -> Node:
    n, channels, height, width = c.x.shape
    r = c.attribute("blocksize")
    if c.name == "SpaceToDepth":
        cells, moved = (n, channels, height // r, r, width // r, r), (n, channels * r * r, height // r, width // r)
        return reindex(c.x, lambda p: p.reshape(cells).transpose(0, 3, 5, 1, 2, 4).reshape(moved))
    out = (n, channels // r**2, height * r, width * r)
    if c.attribute("mode", "DCR") == "CRD":
        return reindex(
            c.x, lambda p: p.reshape(n, channels // r**2, r, r, height, width).transpose(0, 1, 4, 2, 5, 3).reshape(out)
        )
    return reindex(
        c.x, lambda p: p.reshape(n, r, r, channels // r**2, height, width).transpose(0, 3, 4, 1, 5, 2).reshape(out)
    )


@on("Resize", "Upsample")
def _resize(c: OnnxCall) -> Any:
    rank = len(c.x.shape)
    plain = c.attribute("coordinate_transformation_mode", "half_pixel") == "asymmetric"
    plain = plain and c.attribute("nearest_mode", "round_prefer_floor") == "floor"
    scales = c.attribute("scales") if c.name == "Upsample" and c[1] is None else c[1 if c.name == "Upsample" else 2]
    sizes = c[3]
    if scales is not None and np.size(scales) == rank:
        target = [int(n * f) for n, f in zip(c.x.shape, np.ravel(scales), strict=True)]
    elif sizes is not None and np.size(sizes) == rank:
        target = [int(n) for n in np.ravel(sizes)]
    else:
        return c.unknown()
    whole = all(m % n == 0 for n, m in zip(c.x.shape, target, strict=True))  # then every nearest rule repeats each element
    if c.attribute("mode", "nearest") != "nearest" or not (plain or whole) or target[:2] != list(c.x.shape[:2]):
        return c.unknown()
    return linear.nearest_resize(c.x, target[2:])
