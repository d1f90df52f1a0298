"""Run conversations with a model on this machine, through the meter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from fimaudit.errors import BudgetExhausted, FimauditError, ModelFailure
from fimaudit.measurement.measure import Conversation
from fimaudit.measurement.protocol import AtOnce, do_at_once
from fimaudit.models.classifier import Classifier, NetworkClassifier
from fimaudit.models.meter import Meter, QuestionsFailed
from fimaudit.perturbations.rows import Rows
from fimaudit.results import Outcome, Sensitivity

__all__ = ["block_size", "converse", "run_inputs"]

#: Inputs whose rows share requests behind a network, and most bytes of their rows; the same for calls on this machine.
NETWORK_BLOCK, NETWORK_BYTES = 32, 128 * 2**20
LOCAL_BLOCK, LOCAL_BYTES = 16, 48 * 2**20
#: A budget is worth so many blocks at least.
AT_STAKE = 10


@lru_cache(maxsize=1)
def _blas() -> Any:
    return ThreadpoolController().select(user_api="blas")


def small_algebra() -> AbstractContextManager[object]:
    """One BLAS thread: on matrices of a few hundred rows more only wait, fifty times as long beside a model that spins."""
    limit: AbstractContextManager[object] = _blas().limit(limits=1)
    return limit


def converse(conversation: Any, meter: Meter) -> Any:
    """Carry one conversation to its end: ask what it yields, hand it the answers, return what it returns."""
    try:
        rows = next(conversation)
        while True:
            try:
                answers = meter.ask([rows])[0]
            except BudgetExhausted:
                raise
            except FimauditError as error:
                rows = conversation.throw(error)  # it may have other rows to ask
                continue
            with small_algebra():
                rows = conversation.send(answers)
    except StopIteration as stop:
        return stop.value


def run_inputs(
    indices: Iterable[int],
    start: Callable[[int], Conversation],
    failed: Callable[[int, FimauditError], Sensitivity],
    meter: Meter,
    size: int = 1,
) -> Iterator[Outcome]:
    """Measure inputs in order and yield each as it finishes; an input that fails is a result, an empty budget is not.

    Args:
        indices: the inputs to measure.
        start: opens an input's conversation.
        failed: what an input that failed looks like.
        meter: the door to the model.
        size: inputs of a block (``block_size``).

    Raises:
        BudgetExhausted: the budget does not allow the next rows.
        ModelFailure: an endpoint no longer answers.
    """
    blocks: dict[int, list[int]] = {}
    for index in indices:
        blocks.setdefault(index // size, []).append(index)
    for block in blocks.values():
        yield from _run_block(block, start, failed, meter)


def block_size(model: Classifier, row_bytes: int, rows: int, budget: int | None) -> int:
    """How many inputs share calls, as their bytes allow, and few where a budget may end the run amid a block.

    Blocks are fixed by input index, so that a resumed run sends the same requests.

    Args:
        model: behind a network more inputs share requests.
        row_bytes: bytes of a row.
        rows: of one input.
        budget: of the run; what a block takes of it is lost when it ends there.
    """
    input_bytes = max(1, row_bytes * rows)
    if isinstance(model, NetworkClassifier):
        afforded = NETWORK_BLOCK if budget is None else budget // (AT_STAKE * rows)
        return max(1, min(NETWORK_BLOCK, NETWORK_BYTES // input_bytes, afforded))
    return 1 if budget is not None else max(1, min(LOCAL_BLOCK, LOCAL_BYTES // input_bytes))


def _run_block(
    block: list[int],
    start: Callable[[int], Conversation],
    failed: Callable[[int, FimauditError], Sensitivity],
    meter: Meter,
) -> Iterator[Outcome]:
    """Rounds: every open conversation's next rows go to the meter together, in the order of the inputs."""
    before = (meter.usage.rows, meter.usage.requests)
    talks = {index: start(index) for index in block}
    results: dict[int, Sensitivity] = {}
    wanted = _go_on(talks, dict.fromkeys(block), results)
    while wanted:
        order = list(wanted)
        answers: list[NDArray[np.float64] | None]
        reasons: dict[int, FimauditError] = {}
        try:
            answers = list(meter.ask([wanted[index] for index in order]))
        except BudgetExhausted:
            raise
        except QuestionsFailed as some:
            answers = some.answers
            reasons = {place: ModelFailure(reason) for place, reason in some.reasons.items()}
        except FimauditError as error:
            if isinstance(meter.model, NetworkClassifier):
                raise  # the endpoint as a whole: the inputs stay unmeasured and can be resumed
            answers = [None] * len(order)
            reasons = dict.fromkeys(range(len(order)), error)
        results |= {order[place]: failed(order[place], reason) for place, reason in reasons.items()}
        told = {index: answer for index, answer in zip(order, answers, strict=True) if answer is not None}
        wanted = _go_on(talks, told, results)
    rows, requests = meter.usage.rows - before[0], meter.usage.requests - before[1]
    for place, index in enumerate(block):
        first = place == 0  # what a block took is counted once
        yield Outcome(results[index], rows if first else 0, requests if first else 0)


def _go_on(talks: Mapping[int, Conversation], told: Mapping[int, Any], results: dict[int, Sensitivity]) -> dict[int, Rows]:
    """Tell conversations what they wait for, in the order of the inputs: the rows that they want next, or their results."""
    wanted: dict[int, Rows] = {}
    with small_algebra():
        while told:
            arithmetic: dict[int, AtOnce] = {}
            for index, answer in told.items():
                try:
                    next_one = talks[index].send(answer)
                except StopIteration as stop:
                    results[index] = stop.value
                    continue
                if isinstance(next_one, AtOnce):
                    arithmetic[index] = next_one
                else:
                    wanted[index] = next_one
            told = do_at_once(arithmetic)
    return dict(sorted(wanted.items()))
