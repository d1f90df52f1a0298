"""ATen operators that only move elements: each is a view of the small graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fimaudit.bounds.graph import linear_builders as linear
from fimaudit.bounds.graph.ir import Node, concat, expand, fitting, reindex, reshape, squeeze
from fimaudit.bounds.importers.aten_registry import AtenCall, many, on

__all__: list[str] = []

NUMPY_PADDING = {"replicate": "edge", "circular": "wrap"}


@on("view", "reshape", "_unsafe_view")
def _view(c: AtenCall) -> Node:
    return reshape(c.x, [int(n) for n in (c.get("size") or c.get("shape"))])


@on("flatten")
def _flatten(c: AtenCall) -> Node:
    rank = len(c.x.shape)
    start, end = c["start_dim"] % rank, c["end_dim"] % rank
    return reshape(c.x, (*c.x.shape[:start], math.prod(c.x.shape[start : end + 1]), *c.x.shape[end + 1 :]))


@on("unflatten")
def _unflatten(c: AtenCall) -> Node:
    axis = c["dim"] % len(c.x.shape)
    sizes = [int(n) for n in c["sizes"]]
    rest = math.prod(n for n in sizes if n != -1)
    sizes = [c.x.shape[axis] // rest if n == -1 else n for n in sizes]
    return reshape(c.x, (*c.x.shape[:axis], *sizes, *c.x.shape[axis + 1 :]))


@on("transpose", "t", "numpy_T", "permute", "movedim", "adjoint", "mT")
def _transpose(c: AtenCall) -> Node:
    if c.name == "permute":
        return reindex(c.x, lambda p: p.transpose(c["dims"]))
    if c.name == "movedim":
        return reindex(c.x, lambda p: np.moveaxis(p, c["source"], c["destination"]))
    if c.name == "numpy_T":
        return reindex(c.x, lambda p: p.T)
    first, second = (c["dim0"], c["dim1"]) if c.name == "transpose" else (-1, -2)
    return reindex(c.x, lambda p: np.swapaxes(p, first, second)) if len(c.x.shape) > 1 else c.x


@on("squeeze")
def _squeeze(c: AtenCall) -> Node:
    return squeeze(c.x, None if c.get("dim") is None else many(c["dim"], 1))


@on("unsqueeze")
def _unsqueeze(c: AtenCall) -> Node:
    return reindex(c.x, lambda p: np.expand_dims(p, c["dim"]))


@on("slice")
def _slice(c: AtenCall) -> Node:
    axis = c["dim"] % len(c.x.shape)
    place = (slice(None),) * axis + (slice(c.get("start"), c.get("end"), c.get("step") or 1),)
    return reindex(c.x, lambda p: p[place])


@on("select", "index_select")
def _select(c: AtenCall) -> Node:
    return reindex(c.x, lambda p: p.take(c["index"], axis=c["dim"]))


@on("narrow")
def _narrow(c: AtenCall) -> Node:
    return reindex(c.x, lambda p: p.take(range(c["start"], c["start"] + c["length"]), axis=c["dim"]))


@on("index")
def _index(c: AtenCall) -> Any:
    if any(isinstance(item, Node) for item in c["indices"]):
        return c.unknown()
    place = tuple(slice(None) if item is None else np.asarray(item) for item in c["indices"])
    return reindex(c.x, lambda p: p[place])


@on("chunk", "split", "split_with_sizes", "tensor_split", "unbind")
def _split(c: AtenCall) -> list[Node]:
    axis = c["dim"]
    length = c.x.shape[axis]
    if c.name == "unbind":
        return [reindex(c.x, lambda p, i=i: p.take(i, axis=axis)) for i in range(length)]  # type: ignore[misc]
    sizes = c.get("split_sizes", c.get("split_size", c.get("chunks")))
    if isinstance(sizes, list):
        ends = np.cumsum(sizes)[:-1]
    else:
        step = -(-length // sizes) if c.name == "chunk" else sizes
        ends = np.arange(step, length, step)
    pieces = np.split(np.arange(length), ends)
    return [reindex(c.x, lambda p, piece=piece: p.take(piece, axis=axis)) for piece in pieces]  # type: ignore[misc]


@on("cat", "concat", "concatenate")
def _cat(c: AtenCall) -> Node:
    parts = [part for part in c["tensors"] if isinstance(part, Node) or np.size(part)]
    return concat(parts, c["dim"])


@on("stack")
def _stack(c: AtenCall) -> Node:
    axis = c["dim"]
    rank = next(len(part.shape) for part in c["tensors"]) + 1
    parts: Sequence[Any] = [
        reindex(part, lambda p: np.expand_dims(p, axis)) if isinstance(part, Node) else np.expand_dims(part, axis)
        for part in c["tensors"]
    ]
    return concat(parts, axis % rank)


@on("expand", "expand_as")
def _expand(c: AtenCall) -> Node:
    if c.name == "expand_as":
        return expand(c.x, c["other"].shape)
    sizes = [int(n) for n in c["size"]]
    old = (1,) * (len(sizes) - len(c.x.shape)) + c.x.shape
    return expand(c.x, [m if n == -1 else n for n, m in zip(sizes, old, strict=True)])


@on("repeat")
def _repeat(c: AtenCall) -> Node:
    fitting((*c.x.shape, *c["repeats"]))
    return reindex(c.x, lambda p: np.tile(p, c["repeats"]))


@on("repeat_interleave")
def _repeat_interleave(c: AtenCall) -> Node:
    if np.ndim(c["repeats"]) == 0:
        fitting((*c.x.shape, c["repeats"]))
    return reindex(c.x, lambda p: np.repeat(p, c["repeats"], axis=c.get("dim")))


@on("flip", "roll")
def _move(c: AtenCall) -> Node:
    if c.name == "flip":
        return reindex(c.x, lambda p: np.flip(p, c["dims"]))
    return reindex(c.x, lambda p: np.roll(p, c["shifts"], c["dims"] or None))


@on("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d")
def _pad(c: AtenCall) -> Any:
    mode = c.get("mode") or {"con": "constant", "ref": "reflect", "rep": "replicate"}[c.name[:3]]
    given = [int(n) for n in (c["pad"] if "pad" in c.arguments else c["padding"])]
    pairs = list(zip(given[::2], given[1::2], strict=True))
    widths = [(0, 0)] * (len(c.x.shape) - len(pairs)) + pairs[::-1]
    return linear.pad(c.x, widths, NUMPY_PADDING.get(mode, mode), float(c.get("value") or 0.0))


@on("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def _upsample(c: AtenCall) -> Node:
    axes = int(c.name[16])
    size = c.get("output_size")
    factors = c.get("scale_factors")
    target = [int(n) for n in size] if size else [int(n * f) for n, f in zip(c.x.shape[-axes:], factors, strict=True)]
    return linear.nearest_resize(c.x, target)


@on("pixel_shuffle", "channel_shuffle", "pixel_unshuffle")
def _shuffle(c: AtenCall) -> Any:
    n, channels, *size = c.x.shape
    if c.name == "channel_shuffle":
        groups = c["groups"]
        return reindex(c.x, lambda p: p.reshape(n, groups, channels // groups, *size).swapaxes(1, 2).reshape(p.shape))
    height, width = size
    if c.name == "pixel_shuffle":
        r = c["upscale_factor"]
        cells = (n, channels // r**2, r, r, height, width)
        moved = (n, channels // r**2, height * r, width * r)
        return reindex(c.x, lambda p: p.reshape(cells).transpose(0, 1, 4, 2, 5, 3).reshape(moved))
    r = c["downscale_factor"]
    cells = (n, channels, height // r, r, width // r, r)
    moved = (n, channels * r**2, height // r, width // r)
    return reindex(c.x, lambda p: p.reshape(cells).transpose(0, 1, 3, 5, 2, 4).reshape(moved))
