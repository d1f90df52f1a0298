"""Tracing attention back to the tokens it reads: which token and which row of which matrix each element of q, k and v is.

Between a layer norm and its attention lie only views, dense layers and scalings, so each element of the query tensor
is ``M[row] . x_token + b[row]`` with x the normalised token, |x| <= sqrt(d). Following two index arrays through those
operators finds the matrix of every head whatever way the exporter splits and transposes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fimaudit.bounds.graph.ir import Index, Node, fitting
from fimaudit.bounds.norms.attention import Head, self_attention_lipschitz
from fimaudit.bounds.norms.matrix import OUTWARD

__all__ = ["token_attention", "token_attention_norm"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Trace:
    """Element i is ``matrix[row[i]] . x[token[i]] + bias[row[i]]`` for the tokens x of ``anchor``."""

    anchor: Node
    matrix: Array
    bias: Array
    token: Index
    row: Index


def token_attention(query: Node, key: Node, value: Node, scale: float, masked: bool, name: str) -> Node | None:
    """Attention as one operator on the normalised tokens that it reads, or ``None`` where they cannot be traced."""
    traces = [_trace(node) for node in (query, key, value)]
    if any(trace is None for trace in traces):
        return None
    q, k, v = (trace for trace in traces if trace is not None)
    if not q.anchor is k.anchor is v.anchor:
        return None
    sequences: dict[bytes, list[Head]] = defaultdict(list)
    tokens_of: dict[bytes, Index] = {}
    for place in np.ndindex(*query.shape[:-2]):
        parts = [_matrix(trace, place) for trace in (q, k, v)]
        if any(part is None for part in parts):
            return None
        (wq, bq, tq), (wk, _, tk), (wv, _, tv) = (part for part in parts if part is not None)
        if (
            not np.array_equal(tk, tv)
            or len(np.unique(tk)) < len(tk)
            or len(np.unique(tq)) < len(tq)
            or not np.isin(tq, tk).all()
        ):
            return None
        label = tk.tobytes()
        tokens_of[label] = tk
        sequences[label].append(Head(wq, wk, wv, bq))
    groups = list(tokens_of.values())
    if len(np.unique(np.concatenate(groups))) < sum(len(group) for group in groups):
        return None  # sequences that share tokens
    radius = math.sqrt(q.anchor.shape[-1])
    shape = (*query.shape[:-1], value.shape[-1])
    attrs = {"sequences": _different(list(sequences.values())), "radius": radius, "scale": scale, "masked": masked}
    size = np.linalg.norm(v.matrix, axis=1) * radius + np.abs(v.bias)  # a mean of values is no larger than the largest
    attrs |= {"peak": float(size.max()) * OUTWARD}
    attrs |= {"queries": query.shape[-2], "keys": key.shape[-2], "width": q.anchor.shape[-1]}
    return Node("token attention", (q.anchor,), shape, attrs, name or "attention")


def token_attention_norm(node: Node) -> float:
    """The Lipschitz constant of a traced attention with respect to its normalised tokens."""
    a = node.attrs
    return max(
        self_attention_lipschitz(heads, a["radius"], a["queries"], a["keys"], a["scale"], a["masked"])
        for heads in a["sequences"]
    )


def _different(sequences: list[list[Head]]) -> list[list[Head]]:
    """Sequences whose heads are the same matrices need one bound (images of a batch, windows)."""
    seen: dict[tuple[bytes, ...], list[Head]] = {}
    for heads in sequences:
        label = tuple(part.tobytes() for head in heads for part in (head.query, head.key, head.value, head.query_bias))
        seen.setdefault(label, heads)
    return list(seen.values())


def _matrix(trace: _Trace, place: tuple[int, ...]) -> tuple[Array, Array, Index] | None:
    """Matrix, bias and token numbers of one (tokens, features) slice."""
    token, row = trace.token[place], trace.row[place]
    if (token != token[:, :1]).any() or (row != row[:1]).any():
        return None
    return trace.matrix[row[0]], trace.bias[row[0]], token[:, 0]


def _trace(node: Node) -> _Trace | None:
    if node.op == "normalise":
        width = node.shape[-1]
        matrix = np.eye(fitting((width, width))[0])
        if node.inputs[0].op == "centre":
            matrix = matrix - 1.0 / width  # centred tokens: what matrices do to the mean does not matter
        token, row = np.indices(fitting((node.size // width, width))).reshape(2, *node.shape)
        return _Trace(node, matrix, np.zeros(width), token, row)
    if node.op not in ("view", "dense", "affine"):
        return None
    inner = _trace(node.inputs[0])
    if inner is None:
        return None
    if node.op == "view":
        index = node.attrs["index"]
        if (index < 0).any():
            return None
        return _Trace(inner.anchor, inner.matrix, inner.bias, inner.token.ravel()[index], inner.row.ravel()[index])
    if node.op == "dense":
        token, row = inner.token[..., 0], inner.row.reshape(-1, inner.row.shape[-1])
        if (inner.token != token[..., None]).any() or (row != row[:1]).any():
            return None
        weight = node.attrs["weight"]
        matrix, bias = weight @ inner.matrix[row[0]], weight @ inner.bias[row[0]] + node.attrs["bias"]
        tokens = np.broadcast_to(token[..., None], fitting(node.shape))
        rows = np.broadcast_to(np.arange(node.shape[-1]), node.shape)
        return _Trace(inner.anchor, matrix, bias, tokens, rows)
    scales, shifts = (_by_row(node.attrs[key], inner) for key in ("scale", "shift"))
    if scales is None or shifts is None:
        return None
    return _Trace(inner.anchor, scales[:, None] * inner.matrix, scales * inner.bias + shifts, inner.token, inner.row)


def _by_row(constant: Array, trace: _Trace) -> Array | None:
    """A constant as one number for each row of the matrix, or ``None`` where it differs between tokens."""
    full = np.broadcast_to(constant, trace.row.shape)
    values = np.zeros(len(trace.matrix))
    values[trace.row.ravel()] = full.ravel()
    return values if np.array_equal(values[trace.row], full) else None
