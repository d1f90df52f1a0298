"""Norms of pooling: how many windows share an element, and the matrices that averaging is along each axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["adaptive_windows", "average_pool_norm", "max_pool_norm", "sliding_windows", "sum_pool_norm"]

Windows = list[NDArray[np.intp]]


def sliding_windows(size: int, outputs: int, kernel: int, stride: int, before: int, dilation: int = 1) -> Windows:
    """For each output along one axis, the positions it reads; those in the padding lie outside [0, size)."""
    taps = dilation * np.arange(kernel) - before
    return [taps + stride * output for output in range(outputs)]


def adaptive_windows(size: int, outputs: int) -> Windows:
    """Windows of adaptive pooling: [floor(i n / o), ceil((i + 1) n / o))."""
    return [np.arange(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)]


def max_pool_norm(windows: Sequence[Windows], size: Sequence[int]) -> float:
    """Lipschitz constant of max-pooling: sqrt of the most windows that share an element.

    A window's maximum moves by at most the largest move among its elements, so ||dy||^2 <= sum over windows of the
    squared move of one element each, and no element serves more than ``product over axes of (windows that hold it)``
    of them: at most ceil(k / s) in two dimensions, 1 where windows do not overlap.

    Args:
        windows: for each pooled axis, the positions read by each output.
        size: length of each pooled axis.
    """
    counts = []
    for axis, length in zip(windows, size, strict=True):
        positions = np.concatenate([np.unique(window) for window in axis])
        inside = positions[(positions >= 0) & (positions < length)]
        counts.append(int(np.bincount(inside, minlength=1).max()))
    return math.sqrt(math.prod(counts))


def average_pool_norm(windows: Sequence[Windows], size: Sequence[int], padded: Sequence[int] | None) -> float:
    """Exact l2 norm of average pooling: a tensor product of one matrix an axis, so the product of their norms.

    Args:
        windows: for each pooled axis, the positions read by each output.
        size: length of each pooled axis.
        padded: last position (exclusive) of each axis that counts in the divisor, the padding after the end included;
            ``None`` where padding does not count.
    """
    ends: Sequence[int | None] = [None] * len(size) if padded is None else padded
    return math.prod(_window_norm(w, n, end, mean=True) for w, n, end in zip(windows, size, ends, strict=True))


def sum_pool_norm(windows: Sequence[Windows], size: Sequence[int]) -> float:
    """Exact l2 norm of the sum over each window; see ``average_pool_norm``."""
    return math.prod(_window_norm(w, n, None, mean=False) for w, n in zip(windows, size, strict=True))


def _window_norm(windows: Windows, size: int, end: int | None, *, mean: bool) -> float:
    """Norm along one axis; a mean is over the positions before ``end``, or over those inside."""
    matrix = np.zeros((len(windows), size))
    for row, window in enumerate(windows):
        inside = window[(window >= 0) & (window < size)]
        counted = inside if end is None else window[window < end]
        matrix[row, inside] = 1.0 / max(len(counted), 1) if mean else 1.0
    return float(np.linalg.norm(matrix, 2))
