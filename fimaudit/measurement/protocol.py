"""What a measurement is to whoever drives it: a generator that yields rows to be asked, or a batched step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from fimaudit.perturbations.rows import JoinedRows, Rows
from fimaudit.results import Sensitivity

__all__ = ["BatchedStep", "Flow", "MeasurementFlow", "run_batched", "side_by_side"]

T = TypeVar("T")


@dataclass(frozen=True)
class BatchedStep:
    """Arithmetic that takes little longer for many inputs than for one; the flow receives its own result.

    Attributes:
        function: from the arguments of many inputs to their results, one each; an argument alone gives the same result.
        argument: this input's.
    """

    function: Callable[[Sequence[Any]], Sequence[Any]]
    argument: Any


#: Yields rows, for which it receives their (rows, K) answers, or a batched step, for which it receives its result.
Flow: TypeAlias = Generator[Rows | BatchedStep, Any, T]
MeasurementFlow: TypeAlias = Flow[Sensitivity]


def run_batched(steps: Mapping[int, BatchedStep]) -> dict[int, Any]:
    """The results of all, by input: those with the same function are worked on together."""
    out: dict[int, Any] = {}
    for function in dict.fromkeys(step.function for step in steps.values()):
        inputs = [index for index, step in steps.items() if step.function == function]
        out.update(zip(inputs, function([steps[index].argument for index in inputs]), strict=True))
    return out


def side_by_side(flows: Sequence[Flow[Any]]) -> Flow[list[Any]]:
    """What each of several flows returns; rows that they want at the same time are asked as one block.

    >>> import numpy as np
    >>> from fimaudit.perturbations.rows import PlainRows
    >>> def ask(row):
    ...     return (yield PlainRows(np.array([[row]])))
    >>> both = side_by_side([ask(1), ask(2)])
    >>> rows = next(both)
    >>> rows.build(0, 2).tolist()
    [[1], [2]]
    >>> both.send(np.array([[0.25], [0.75]]))
    Traceback (most recent call last):
    StopIteration: [array([[0.25]]), array([[0.75]])]
    """
    results: list[Any] = [None] * len(flows)
    replies: dict[int, Any] = dict.fromkeys(range(len(flows)))
    while True:
        wanted: dict[int, Rows] = {}
        for i, reply in replies.items():
            try:
                next_one = flows[i].send(reply)
                while isinstance(next_one, BatchedStep):
                    next_one = flows[i].send((yield next_one))
            except StopIteration as end:
                results[i] = end.value
                continue
            wanted[i] = next_one
        if not wanted:
            return results
        blocks, first = list(wanted.values()), 0
        answers = yield blocks[0] if len(blocks) == 1 else JoinedRows(blocks)
        for i, block in wanted.items():
            replies[i] = answers[first : first + len(block)]
            first += len(block)
        replies = {i: replies[i] for i in wanted}
