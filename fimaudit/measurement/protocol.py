"""Arithmetic that a conversation leaves to whoever carries it, because for many inputs at once it takes little longer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["BatchedStep", "run_batched"]


@dataclass(frozen=True)
class BatchedStep:
    """What a conversation yields instead of rows: it receives its own result of ``work``.

    Attributes:
        work: from the parts of many inputs to their results, one each; a part alone gives the same result.
        part: this input's.
    """

    work: Callable[[Sequence[Any]], Sequence[Any]]
    part: Any


def run_batched(wanted: Mapping[int, BatchedStep]) -> dict[int, Any]:
    """The results of all, by input: those that want the same work get it together."""
    out: dict[int, Any] = {}
    for work in dict.fromkeys(one.work for one in wanted.values()):
        inputs = [index for index, one in wanted.items() if one.work == work]
        out.update(zip(inputs, work([wanted[index].part for index in inputs]), strict=True))
    return out
