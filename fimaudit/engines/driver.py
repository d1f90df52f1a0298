"""Drive the flows of many inputs with a model on this machine, through the meter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from fimaudit.errors import FimauditError, InputFailed, ModelFailure, UsageError
from fimaudit.measurement.protocol import BatchedStep, Flow, MeasurementFlow, run_batched
from fimaudit.models.classifier import Classifier, NetworkClassifier
from fimaudit.models.meter import Meter, Usage
from fimaudit.perturbations.rows import Rows
from fimaudit.results import MeasuredInput, Sensitivity

__all__ = ["batched", "block_size", "drive", "run_inputs"]

T = TypeVar("T")

#: Inputs that are measured side by side, and most bytes of their rows: behind a network, whose requests are many at a time,
#: and on this machine, where only arithmetic is done at once.
NETWORK_BLOCK, NETWORK_BYTES = 32, 128 * 2**20
LOCAL_BLOCK, LOCAL_BYTES = 16, 48 * 2**20
#: A budget is worth so many blocks at least, so that few inputs are unfinished when it is spent.
AT_STAKE = 10


@lru_cache(maxsize=1)
def _blas() -> Any:
    return ThreadpoolController().select(user_api="blas")


def small_algebra() -> AbstractContextManager[object]:
    """One BLAS thread: on matrices of a few hundred rows more only wait, fifty times as long beside a model that spins."""
    limit: AbstractContextManager[object] = _blas().limit(limits=1)
    return limit


def drive(flow: Flow[T], meter: Meter) -> T:
    """Carry one flow of rows to its end: ask what it yields, hand it the answers, return what it returns."""
    try:
        rows = next(flow)
        while True:
            assert not isinstance(rows, BatchedStep)
            try:
                answers = meter.ask([rows])[0]
            except (ModelFailure, UsageError) as error:
                rows = flow.throw(error)  # it may have other rows to ask
                continue
            with small_algebra():
                rows = flow.send(answers)
    except StopIteration as stop:
        found: T = stop.value
        return found


def run_inputs(
    indices: Iterable[int],
    start: Callable[[int], MeasurementFlow],
    failed: Callable[[int, FimauditError], Sensitivity],
    meter: Meter,
    size: int = 1,
) -> Iterator[MeasuredInput]:
    """Measure inputs in order and yield each as it finishes; an input that fails is a result, an empty budget is not.

    Args:
        indices: the inputs to measure.
        start: opens an input's flow.
        failed: what an input that failed looks like.
        meter: the door to the model.
        size: inputs side by side (``block_size``); no number depends on it.

    Raises:
        BudgetExhausted: the budget does not allow the next rows.
        ModelFailure: an endpoint no longer answers.
    """
    for block in batched(indices, size):
        yield from _run_block(block, start, failed, meter)


def block_size(model: Classifier, row_bytes: int, rows: int, budget: int | None) -> int:
    """How many inputs are measured side by side: as their bytes allow, and few where a budget may end the run amid them.

    Args:
        model: behind a network more inputs are.
        row_bytes: bytes of a row.
        rows: of one input.
        budget: of the run.
    """
    input_bytes = max(1, row_bytes * rows)
    if isinstance(model, NetworkClassifier):
        afforded = NETWORK_BLOCK if budget is None else budget // (AT_STAKE * rows)
        return max(1, min(NETWORK_BLOCK, NETWORK_BYTES // input_bytes, afforded))
    return 1 if budget is not None else max(1, min(LOCAL_BLOCK, LOCAL_BYTES // input_bytes))


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items in lists of so many.

    >>> list(batched("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _run_block(
    block: list[int],
    start: Callable[[int], MeasurementFlow],
    failed: Callable[[int, FimauditError], Sensitivity],
    meter: Meter,
) -> Iterator[MeasuredInput]:
    """Rounds: every open flow's next rows go to the meter together, in the order of the inputs."""
    took = {index: Usage() for index in block}
    flows = {index: start(index) for index in block}
    results: dict[int, Sensitivity] = {}
    wanted = _advance(flows, dict.fromkeys(block), results)
    while wanted:
        order = list(wanted)
        for index, rows in wanted.items():
            took[index].rows += len(rows)
            took[index].requests += meter.calls(rows)
        received: dict[int, NDArray[np.float64]] = {}
        for index, answer in zip(order, meter.ask_each([wanted[index] for index in order], owners=order), strict=True):
            if isinstance(answer, InputFailed):
                results[index] = failed(index, answer)
            else:
                received[index] = answer
        wanted = _advance(flows, received, results)
    for index in block:
        yield MeasuredInput(results[index], took[index].rows, took[index].requests)


def _advance(
    flows: Mapping[int, MeasurementFlow], received: Mapping[int, Any], results: dict[int, Sensitivity]
) -> dict[int, Rows]:
    """Hand flows what they wait for, in the order of the inputs; returns the rows that they want next, and keeps results."""
    wanted: dict[int, Rows] = {}
    with small_algebra():
        while received:
            steps: dict[int, BatchedStep] = {}
            for index, answer in received.items():
                try:
                    next_one = flows[index].send(answer)
                except StopIteration as stop:
                    results[index] = stop.value
                    continue
                if isinstance(next_one, BatchedStep):
                    steps[index] = next_one
                else:
                    wanted[index] = next_one
            received = run_batched(steps)
    return dict(sorted(wanted.items()))
