"""Certified upper bounds on the l2 norm of convolutions: any padding, stride, dilation, groups and number of axes.

A convolution with stride s reads its input as s^axes interleaved signals (polyphase), on which it has stride 1. Zero
padding is a *compression* of a circular convolution on a larger period: with period P >= n + max(pad before, pad
after), every tap that leaves [0, n) wraps into zeros, so the zero-padded operator is a block of the circular one and
its norm is at most the maximum over the P-grid of the norm of the symbol

    What(w) = sum_t W[:, :, t] exp(-i w t)        (c_out x c_in s^axes).

(The n-grid alone would under-bound.) Where P is large, a coarser grid of N points serves instead: for unit u, v the
function Re(u* What(w) v) is, after a phase, a trigonometric polynomial of degree D = (taps - 1)/2, and M. Riesz'
lemma T(w) >= max|T| cos(D (w - w*)) gives sup <= max over the grid / cos(pi D / N), an axis at a time. That sup holds
for every period.

The compression costs up to 9 % (k = 3) or 25 % (k = 5) on 8 x 8 maps, less on larger ones. Where the work allows it,
one axis or all of them are spelled out as dense matrices instead, which costs nothing in tightness.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fimaudit.bounds.norms.matrix import OUTWARD, Stack, largest_norm

__all__ = ["conv_norm"]

GRID_PER_DEGREE = 50  # 1 / cos(pi / 50) = 1.002 an axis
CHUNK_NUMBERS = 2**23  # complex numbers in work at a time: 128 MiB
SMALL_KERNEL_WORK, LARGE_KERNEL_WORK = 8e9, 6e10  # flops of one product that may be spent on a layer's dense axes
Weights = NDArray[np.float64]


def conv_norm(
    weight: NDArray[np.generic],
    size: Sequence[int],
    *,
    stride: Sequence[int] | None = None,
    padding: Sequence[tuple[int, int]] | None = None,
    dilation: Sequence[int] | None = None,
    groups: int = 1,
    circular: bool = False,
    work: float | None = None,
    grid: int = GRID_PER_DEGREE,
) -> float:
    """Upper bound on the l2 operator norm of a convolution on inputs of one spatial size.

    Args:
        weight: (c_out, c_in / groups, \\*kernel).
        size: spatial shape of the input, without the padding.
        stride: one number an axis; 1 by default.
        padding: (before, after) for each axis; none by default.
        dilation: one number an axis; 1 by default.
        groups: number of groups; the norm is the largest of theirs.
        circular: the padding repeats the other end instead of zeros.
        work: flops that one product of dense axes may take; ``SMALL_KERNEL_WORK`` or ``LARGE_KERNEL_WORK`` by default.
        grid: frequencies a degree of the symbol.

    Returns:
        The bound: within about 0.1 % of the dense matrix's norm for circular padding and stride 1, 0-9 % above it for
        zero padding.

    Raises:
        ValueError: shapes that do not fit each other, or weights that are not finite.

    Source: the symbol of circular convolution, Sedghi, Gupta & Long, ICLR 2019, arXiv 1805.10408; Gram iteration on
    it, Delattre et al. 2023, arXiv 2305.16173; the compression and the grid correction are derived above.

    >>> round(conv_norm(np.ones((1, 1, 3, 3)), (8, 8), padding=[(1, 1)] * 2, circular=True), 3)
    9.0
    """
    w = np.asarray(weight, dtype=np.float64)
    axes = w.ndim - 2
    steps = list(stride or [1] * axes)
    pads = [tuple(p) for p in padding or [(0, 0)] * axes]
    holes = list(dilation or [1] * axes)
    if axes < 1 or not len(size) == len(steps) == len(pads) == len(holes) == axes or w.shape[0] % groups:
        raise ValueError(f"weight {w.shape}, size {tuple(size)}, stride, padding, dilation and groups do not fit together")
    w = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    lines = [
        _Line(n, k, s, before, after, d, circular)
        for n, k, s, (before, after), d in zip(size, w.shape[3:], steps, pads, holes, strict=True)
    ]
    exact = _exact_axes(w.shape, lines, work, grid)
    factor, bases = 1.0, []
    for axis, line in enumerate(lines):
        if axis in exact:
            w, basis = line.spelled_out(w, 3 + axis)
        else:
            w, basis, correction = line.transformed(w, 3 + axis, grid)
            factor *= correction
        bases.append(basis)
    return float(OUTWARD * factor * largest_norm(_symbols(w, bases)))


@dataclass(frozen=True)
class _Line:
    """One spatial axis of a convolution."""

    size: int
    taps: int
    stride: int
    before: int
    after: int
    dilation: int
    circular: bool

    def __post_init__(self) -> None:
        if self.outputs < 1:
            raise ValueError(f"a kernel reaching over {self.reach} does not fit {self.size} inputs with padding")

    @property
    def reach(self) -> int:
        return self.dilation * (self.taps - 1) + 1

    @property
    def outputs(self) -> int:
        return (self.size + self.before + self.after - self.reach) // self.stride + 1

    def spelled_out(self, w: Weights, place: int) -> tuple[Weights, NDArray[np.complex128]]:
        """Replace the taps by the dense (outputs, inputs) matrix, folded into the channels; leaves one tap."""
        o, t = np.meshgrid(np.arange(self.outputs), np.arange(self.taps), indexing="ij")
        reads = o * self.stride - self.before + self.dilation * t
        if self.circular:
            reads = reads % self.size
        inside = (reads >= 0) & (reads < self.size)
        selector = np.zeros((self.taps, self.outputs, self.size))
        np.add.at(selector, (t[inside], o[inside], reads[inside]), 1.0)
        spread = np.tensordot(w, selector, axes=([place], [0]))  # (g, o, i, ..., outputs, inputs)
        spread = np.moveaxis(spread, (-2, -1), (2, 4))
        g, o_, n_out, i_, n_in = spread.shape[:5]
        folded = spread.reshape(g, o_ * n_out, i_ * n_in, *spread.shape[5:])
        return np.expand_dims(folded, place), np.ones((1, 1), dtype=np.complex128)

    def transformed(self, w: Weights, place: int, grid: int) -> tuple[Weights, NDArray[np.complex128], float]:
        """Polyphase weights (g, o, i * stride, ..., taps), Fourier basis (frequencies, taps) and correction factor."""
        stride, outputs, correction = self.stride, self.outputs, 1.0
        if self.circular:
            if self.size % stride:  # a subsampled stride-1 convolution
                outputs, stride = self.size + self.before + self.after - self.reach + 1, 1
            period = self.size // stride
            correction = math.sqrt(-(-outputs // period))  # outputs beyond one period repeat
        else:
            period = max(-(-(self.size + max(self.before, self.after)) // stride), outputs)
        lags = self.dilation * np.arange(self.taps)
        if stride > 1:
            blocks = -(-self.reach // stride)
            spread = np.zeros((*w.shape[:place], blocks * stride, *w.shape[place + 1 :]))
            spread[(slice(None),) * place + (lags,)] = w
            split = spread.reshape(*w.shape[:place], blocks, stride, *w.shape[place + 1 :])
            moved = np.moveaxis(split, place + 1, 3)
            w = moved.reshape(*moved.shape[:2], moved.shape[2] * stride, *moved.shape[4:])
            lags = np.arange(blocks)
        taps, frequencies = len(lags), period
        coarse = max(grid * (taps - 1) // 2, 1)
        if coarse < period:  # the sup over all frequencies does not see the dilation
            frequencies, lags = coarse, np.arange(taps)
            correction /= math.cos(math.pi * (taps - 1) / 2 / coarse)
        phases = np.exp(-2j * np.pi * np.outer(np.arange(frequencies), lags % frequencies) / frequencies)
        return w, phases, correction


def _exact_axes(shape: tuple[int, ...], lines: list[_Line], work: float | None, grid: int) -> set[int]:
    """Axes to spell out as dense matrices: as many as the work allows, the shortest first; circular ones gain nothing."""
    groups, c_out, c_in = shape[:3]
    if all((line.circular and line.stride == 1) or line.taps == 1 for line in lines):
        return set()
    if work is None:
        work = SMALL_KERNEL_WORK if max(shape[3:]) <= 3 else LARGE_KERNEL_WORK
    order = sorted(range(len(lines)), key=lambda axis: lines[axis].size)
    for count in range(len(lines), 0, -1):
        chosen = order[:count]
        rows = c_out * math.prod(lines[axis].outputs for axis in chosen)
        columns = c_in * math.prod(lines[axis].size for axis in chosen)
        others = [lines[axis] for axis in order[count:]]
        points = math.prod(min(line.size + line.taps, grid * line.taps) for line in others)
        flops = groups * points * min(rows, columns) ** 2 * max(rows, columns) * (4 if others else 2)
        if flops <= work:
            return set(chosen)
    return set()


def _symbols(w: NDArray[np.float64], bases: list[NDArray[np.complex128]]) -> Iterator[Stack]:
    """Symbols over the grid, (chunk, o, i) a time; half of the last axis does, for the other half are their conjugates."""
    if all(len(basis) == 1 for basis in bases) and w.size == math.prod(w.shape[:3]):
        yield w.reshape(w.shape[:3])
        return
    bases = [*bases[:-1], bases[-1][: len(bases[-1]) // 2 + 1]]
    last = bases[-1]
    leading = [range(len(basis)) for basis in bases[:-1]]
    at_once = max(1, CHUNK_NUMBERS // (math.prod(w.shape[:3]) * len(last)))
    points = list(product(*leading))
    flat = w.reshape(*w.shape[:3], -1, w.shape[-1])
    for start in range(0, len(points), at_once):
        chunk = points[start : start + at_once]
        phases = np.ones((len(chunk), 1), dtype=np.complex128)
        for axis, basis in enumerate(bases[:-1]):
            rows = basis[[point[axis] for point in chunk]]
            phases = (phases[:, :, None] * rows[:, None, :]).reshape(len(chunk), -1)
        partial = np.tensordot(phases, flat, axes=([1], [3]))  # (chunk, g, o, i, taps of the last axis)
        symbols = np.tensordot(partial, last, axes=([4], [1]))  # (chunk, g, o, i, frequencies)
        yield np.moveaxis(symbols, 4, 2).reshape(-1, *w.shape[1:3])
