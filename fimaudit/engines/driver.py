"""Drive the flows of many inputs with a model on this machine, through the meter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from fimaudit.engines.decoys import Decoy, DecoyRounds
from fimaudit.errors import FimauditError, InputFailed, ModelFailure, UsageError
from fimaudit.measurement.counterexample import STEPPED_ROWS
from fimaudit.measurement.protocol import BatchedStep, Flow, MeasurementFlow, run_batched
from fimaudit.measurement.query_split import most_on_top
from fimaudit.measurement.recheck import WARY_LOOKS
from fimaudit.measurement.settings import Settings
from fimaudit.models.classifier import Classifier, NetworkClassifier
from fimaudit.models.leases import Usage
from fimaudit.models.meter import DECOYS, Meter
from fimaudit.perturbations.rows import Rows
from fimaudit.results import MeasuredInput, Sensitivity

__all__ = ["NETWORK_BLOCK", "affordable_inputs", "block_size", "drive", "run_inputs"]

T = TypeVar("T")

#: Inputs that are measured side by side, and most bytes of their rows, or of the answers: behind a network, whose requests
#: are many at a time, and on this machine, where only arithmetic is done at once.
NETWORK_BLOCK, NETWORK_BYTES = 32, 128 * 2**20
LOCAL_BLOCK, LOCAL_BYTES = 48, 48 * 2**20
#: The largest array whose release teaches the C library of Linux anything (``_keep_freed_memory``): at most 32 MiB.
FREED_BYTES = 31 * 2**20
#: With fewer queries an input may take up to about so many times as many rows.
FEW, OVERRUN = 100, 2


@lru_cache(maxsize=1)
def _blas() -> Any:
    return ThreadpoolController().select(user_api="blas")


def small_algebra() -> AbstractContextManager[object]:
    """One BLAS thread: on matrices of a few hundred rows more only wait, fifty times as long beside a model that spins."""
    limit: AbstractContextManager[object] = _blas().limit(limits=1)
    return limit


@lru_cache(maxsize=1)
def _keep_freed_memory() -> None:
    """Make arrays of megabytes come from memory that earlier ones left.

    The C library of Linux gives large arrays back to the system, which hands out the next ones page by page, each filled
    with zeros: a fifth of the time with 1,000 classes. Those smaller than the largest one that was ever released it keeps.
    """
    np.empty(FREED_BYTES, dtype=np.uint8)


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


def block_size(model: Classifier, row_bytes: int, rows: int, network_block: int = NETWORK_BLOCK) -> int:
    """How many inputs may be measured side by side, as their bytes allow.

    Args:
        model: behind a network other limits hold.
        row_bytes: bytes of a row, or of its answer where that is longer.
        rows: of one input.
        network_block: how many inputs at most behind a network.
    """
    input_bytes = max(1, row_bytes * rows)
    if isinstance(model, NetworkClassifier):
        return max(1, min(network_block, NETWORK_BYTES // input_bytes))
    return max(1, min(LOCAL_BLOCK, LOCAL_BYTES // input_bytes))


def affordable_inputs(rows: int, settings: Settings) -> int:
    """How many inputs so many rows are surely enough for.

    >>> affordable_inputs(1000, Settings(200)), affordable_inputs(1000, Settings(40))
    (4, 10)
    """
    one = settings.queries + most_on_top(settings.queries) + WARY_LOOKS + STEPPED_ROWS * settings.witness
    return max(0, rows) // (one * (OVERRUN if settings.queries < FEW else 1))


def run_inputs(
    block: Sequence[int],
    start: Callable[[int], MeasurementFlow],
    failed: Callable[[int, FimauditError], Sensitivity],
    meter: Meter,
    beside: Sequence[Decoy] = (),
) -> Iterator[MeasuredInput]:
    """Measure inputs side by side and yield them in order; an input that fails is a result, an empty budget is not.

    In rounds: every open flow's next rows go to the meter together.

    Args:
        block: the inputs to measure; no number depends on who is among them.
        start: opens an input's flow.
        failed: what an input that failed looks like.
        meter: the door to the model.
        beside: decoys to ask in the rounds of these inputs.

    Raises:
        BudgetExhausted: the budget does not allow the next rows.
        ModelFailure: an endpoint no longer answers.
    """
    _keep_freed_memory()
    took = {index: Usage() for index in block}
    flows = {index: start(index) for index in block}
    results: dict[int, Sensitivity] = {}
    decoys = DecoyRounds(beside, meter)
    wanted = _advance(flows, dict.fromkeys(block), results)
    calls = decoys.calls(inputs_left=bool(wanted))
    while wanted:
        order = list(wanted)
        questions = [*wanted.values(), *(rows for _, rows in calls)]
        cuts = meter.cuts(questions)
        for index, of_input in zip(order, cuts, strict=False):
            took[index].rows += of_input[-1]
            took[index].requests += len(of_input) - 1
        answers = meter.ask_each(
            questions,
            owners=[*order, *(DECOYS for _ in calls)],
            again=[*(0 for _ in order), *(number for number, _ in calls)],
            cuts=cuts,
        )
        decoys.take(answers[len(order) :])
        received: dict[int, NDArray[np.float64]] = {}
        for index, answer in zip(order, answers, strict=False):
            if isinstance(answer, InputFailed):
                results[index] = failed(index, answer)
            else:
                received[index] = answer
        wanted = _advance(flows, received, results)
        calls = decoys.calls(inputs_left=bool(wanted))
    stopped: FimauditError | None = None
    try:
        decoys.finish(calls)  # before an input is kept: a run that is killed here does the whole block again, in its order
    except FimauditError as error:
        stopped = error  # which costs no results
    for index in block:
        yield MeasuredInput(results[index], took[index].rows, took[index].requests)
    if stopped is not None:
        raise stopped


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
