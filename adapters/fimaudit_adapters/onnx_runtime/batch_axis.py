"""How many rows one call of an ONNX model takes: any number, as many as it was exported with, or one.

What a graph declares is not believed: a batch is compared with the same rows sent one by one, on random rows when the
model is opened and on the first real rows that come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import FimauditError, OutputError
from fimaudit_adapters.onnx_runtime.ports import Port

__all__ = [
    "HALF_TOLERANCE",
    "TOLERANCE",
    "BatchAxisVerdict",
    "Batching",
    "agreement",
    "probe_rows",
    "repeatable",
    "same_answers",
]

Ask = Callable[..., NDArray[Any]]

#: Rows compared at a time.
PROBES = 3
#: Random inputs larger than this are not made up; the first real rows decide.
_MOST_ELEMENTS = 1 << 26
#: Largest disagreement as a share of the largest answer: float32 kernels differ by 1e-6 between batch sizes, half
#: precision by 1e-3; rows that influence each other (dynamic quantisation, mixed-up axes) by 1e-2 and more.
TOLERANCE, HALF_TOLERANCE = 1e-4, 5e-3


class BatchAxisVerdict(Enum):
    """What a comparison of a batch with single rows shows."""

    SAME = "same"
    UNCLEAR = "unclear"  # equal, but so are the rows among themselves
    DIFFERENT = "different"
    UNTESTED = "untested"  # not even a single row is answered


@dataclass(frozen=True)
class Batching:
    """How rows are sent.

    Attributes:
        kind: ``dynamic``, ``made dynamic``, ``row by row``, ``fixed N``, ``no batch axis``.
        ask: the session's call.
        size: rows of one call, ``None`` for any number.
        padded: whether a call must have exactly ``size`` rows.
        axis: whether the model's input has a batch axis at all.
        spread: whether rows of one call may differ; if not, each row is sent as ``size`` copies of itself.
    """

    kind: str
    ask: Ask
    size: int | None = None
    padded: bool = False
    axis: bool = True
    spread: bool = True

    @property
    def preferred(self) -> int | None:
        """Rows that a caller should send at a time."""
        return self.size if self.spread else 1

    def __call__(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The model's answers to (B, \\*shape) rows, B answers.

        Raises:
            OutputError: the model answered with another number of rows.
        """
        if self.size is None:
            return by_rows(self.ask(rows), len(rows))
        if self.size == 1 and self.axis:
            pieces = [self.ask(rows[i : i + 1], 1) for i in range(len(rows))]
            return np.concatenate([p if p.ndim and p.shape[0] == 1 else p[None] for p in pieces])
        pieces = [self._piece(rows[i : i + self._step]) for i in range(0, len(rows), self._step)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    @property
    def _step(self) -> int:
        return (self.size or 1) if self.spread else 1

    def _piece(self, rows: NDArray[Any]) -> NDArray[Any]:
        count = len(rows)
        if not self.axis:
            return whole(self.ask(rows[0], 1))
        if self.padded and self.size and count < self.size:
            rows = np.concatenate([rows, np.repeat(rows[-1:], self.size - count, axis=0)])
        return by_rows(self.ask(rows), len(rows))[:count]


def whole(answer: NDArray[Any]) -> NDArray[Any]:
    """One row from an answer to a model without a batch axis: (K,) or (1, K)."""
    return answer if answer.ndim > 1 and answer.shape[0] == 1 else answer[None]


def by_rows(answer: NDArray[Any], rows: int) -> NDArray[Any]:
    """An answer with one entry a row; a single row may come without its axis."""
    if answer.ndim and answer.shape[0] == rows:
        return answer
    if rows == 1:
        return answer[None]
    raise OutputError(
        f"expected {rows} rows of output for {rows} inputs, got an array of shape {answer.shape}; "
        "the model must answer each input of a batch with one row"
    )


def probe_rows(port: Port, shape: tuple[int | None, ...] | None, count: int = PROBES) -> Iterator[NDArray[Any]]:
    """Random rows of several magnitudes, (count, \\*shape); none where an axis is free or the input is very large."""
    if shape is None or None in shape:
        return
    lengths = tuple(int(n or 0) for n in shape)
    if count * np.prod(lengths, dtype=float) > _MOST_ELEMENTS:
        return
    rng = np.random.default_rng(0)
    if np.dtype(port.dtype).kind in "iu":
        if port.dtype == "uint8":
            yield rng.integers(0, 256, (count, *lengths), dtype=np.uint8)
        yield rng.integers(0, 2, (count, *lengths)).astype(port.dtype)  # valid as token numbers, too
        return
    for scale in (1.0, 0.03, 30.0, 255.0):
        rows = rng.random((count, *lengths)) if scale != 30.0 else rng.standard_normal((count, *lengths))
        yield (rows * scale).astype(port.dtype)


def agreement(batched: Ask, single: Ask, probes: Iterable[NDArray[Any]], tolerance: float = TOLERANCE) -> BatchAxisVerdict:
    """Whether ``batched`` answers rows together as ``single`` answers each of them, on the first telling probes.

    Both take (B, \\*shape) rows and give B answers; ``single`` is only asked for one row at a time.
    """
    verdict = BatchAxisVerdict.UNTESTED
    for rows in probes:
        try:
            alone = np.concatenate([single(rows[i : i + 1]) for i in range(len(rows))])
        except FimauditError:
            continue
        try:
            together = [(batched(rows), alone), (batched(rows[:0:-1]), alone[:0:-1])]
        except FimauditError:
            return BatchAxisVerdict.DIFFERENT
        verdicts = [same_answers(answer, truth, tolerance) for answer, truth in together]
        if BatchAxisVerdict.DIFFERENT in verdicts:
            return (
                BatchAxisVerdict.DIFFERENT
                if repeatable(single, rows[:1], alone[:1], tolerance)
                else BatchAxisVerdict.UNCLEAR
            )
        verdict = verdicts[0]
        if verdict is BatchAxisVerdict.SAME:
            break
    return verdict


def same_answers(answer: NDArray[Any], truth: NDArray[Any], share: float = TOLERANCE) -> BatchAxisVerdict:
    """Compare two sets of answers row for row; ``UNCLEAR`` where the rows of ``truth`` are all alike."""
    if answer.shape != truth.shape:
        return BatchAxisVerdict.DIFFERENT
    a, b = answer.astype(np.float64), truth.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)):
        return BatchAxisVerdict.DIFFERENT
    if not finite.any():
        return BatchAxisVerdict.UNCLEAR
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    tolerance = share * max(float(np.abs(b).max()), 1e-30)
    if np.abs(a - b).max() > tolerance:
        return BatchAxisVerdict.DIFFERENT
    flat = b.reshape(len(b), -1)
    apart = min((float(np.abs(flat[i] - flat[j]).max()) for i in range(len(flat)) for j in range(i)), default=0.0)
    return BatchAxisVerdict.SAME if apart > 10 * tolerance else BatchAxisVerdict.UNCLEAR


def repeatable(single: Ask, row: NDArray[Any], first: NDArray[Any], tolerance: float = TOLERANCE) -> bool:
    """Whether the model answers the same row twice alike; if not, a disagreement says nothing about batches."""
    return same_answers(single(row), first, tolerance) is not BatchAxisVerdict.DIFFERENT
