"""What a measurement is to whoever drives it: a generator that yields rows to be asked, or a batched step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from fimaudit.perturbations.rows import Rows
from fimaudit.results import Sensitivity

__all__ = ["BatchedStep", "Flow", "MeasurementFlow", "run_batched"]

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
