"""Which way of sending rows an ONNX model gets: the fastest that gives the same answers as sending them one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fimaudit.errors import FimauditError, TargetError
from fimaudit_adapters.onnx_runtime.batch_axis import (
    HALF_TOLERANCE,
    TOLERANCE,
    BatchAxisVerdict,
    Batching,
    agreement,
    probe_rows,
)
from fimaudit_adapters.onnx_runtime.graph_rewrite import with_free_batch
from fimaudit_adapters.onnx_runtime.ports import spelled
from fimaudit_adapters.onnx_runtime.session import Runner

__all__ = ["Choice", "choose_batching"]

_HALF = 10  # TensorProto.FLOAT16
#: Calls with real rows that are compared, where random rows showed nothing.
_CHECKS = 8


@dataclass(frozen=True)
class Choice:
    """How rows go to the model.

    Attributes:
        batching: what is used.
        reference: what it is compared with on real rows, and replaced by where they disagree.
        checks: how many calls are compared at most; 0 when there is nothing to compare.
        input_shape: of one input, without the batch axis.
        note: a sentence for the user, where rows do not simply go in batches.
        tolerance: disagreement that counts as rounding, as a share of the largest answer.
    """

    batching: Batching
    reference: Batching
    checks: int
    input_shape: tuple[int | None, ...] | None
    note: str | None
    tolerance: float


def choose_batching(name: str, proto: Any, runner: Runner, load: Callable[[Any], Runner]) -> Choice:
    """Find the way: as exported, with the batch axis made free, in padded batches of N, or one by one.

    Args:
        name: what the model is called in sentences.
        proto: its graph.
        runner: the session of the graph as it is.
        load: opens a rewritten graph.
    """
    port = runner.port
    tolerance = HALF_TOLERANCE if _in_half_precision(proto, port.dtype) else TOLERANCE
    if port.shape is None:
        dynamic, single = Batching("dynamic", runner), Batching("row by row", runner, size=1)
        return Choice(dynamic, single, _CHECKS, None, None, tolerance)
    fixed = port.batch
    if len(port.shape) == 1 or (fixed and fixed > 1 and _answers_once(runner, fixed)):
        alone = Batching("no batch axis", runner, size=1, axis=False)
        declared = spelled(port.shape)
        note = f"{name}: the input, of shape {declared}, has no batch axis; rows go one by one, which takes longer"
        return Choice(alone, alone, 0, port.shape, note, tolerance)

    shape = port.shape[1:]
    # The reference: each row alone, as many times over as the graph wants.
    single = Batching("row by row", runner, size=fixed or 1, padded=True, spread=fixed in (None, 1))
    verdict, dynamic = BatchAxisVerdict.DIFFERENT, Batching("dynamic", runner)
    if fixed is None:
        verdict = agreement(dynamic, single, probe_rows(port, shape), tolerance)
        if verdict is BatchAxisVerdict.UNTESTED and None not in shape:
            # Not even one row goes through as it is (a first axis declared as 0, say): perhaps it does once freed.
            verdict, dynamic, single = _freed_alone(proto, runner, load, dynamic, single, tolerance)
    if verdict is BatchAxisVerdict.DIFFERENT:
        verdict, dynamic = _freed(proto, runner, load, single, tolerance)
    if verdict is not BatchAxisVerdict.DIFFERENT:
        checks = 1 if verdict is BatchAxisVerdict.SAME else _CHECKS
        return Choice(dynamic, single, checks, shape, None, tolerance)
    why = "the rows of a batch influence each other's answers, or a constant inside fixes their number"
    if fixed is None:
        note = f"{name}: {why}; rows go one by one, which takes longer"
        return Choice(single, single, 0, shape, note, tolerance)
    note = f"{name}: the batch axis is fixed at {fixed} and could not be made dynamic with the same answers"
    if fixed == 1:
        return Choice(single, single, 0, shape, f"{note}; rows go one by one, which takes longer", tolerance)
    padded = Batching(f"fixed {fixed}", runner, size=fixed, padded=True)
    verdict = agreement(padded, single, probe_rows(port, shape), tolerance)
    if verdict is BatchAxisVerdict.DIFFERENT:
        note = f"{note}, and {why}; each row is sent alone, {fixed} times over, which takes longer"
        return Choice(single, single, 0, shape, note, tolerance)
    note = f"{note}; rows go {fixed} at a time, the last call filled up with copies of its last row"
    return Choice(padded, single, 1 if verdict is BatchAxisVerdict.SAME else _CHECKS, shape, note, tolerance)


def _freed(
    proto: Any, runner: Runner, load: Callable[[Any], Runner], single: Batching | None, tolerance: float
) -> tuple[BatchAxisVerdict, Batching]:
    """The graph with its batch axis made free, and whether it answers as ``single`` (as its own single rows, without it)."""
    port = runner.port
    names = [*port.names, *(held.name for held in runner.held if held.batched)]
    try:
        freed = Batching("made dynamic", load(with_free_batch(proto, names, port.batch or 1)))
    except TargetError:
        return BatchAxisVerdict.DIFFERENT, Batching("dynamic", runner)
    shape = (port.shape or ())[1:]
    single = single or Batching("row by row", freed.ask, size=1)
    return agreement(freed, single, probe_rows(port, shape), tolerance), freed


def _freed_alone(
    proto: Any, runner: Runner, load: Callable[[Any], Runner], dynamic: Batching, single: Batching, tolerance: float
) -> tuple[BatchAxisVerdict, Batching, Batching]:
    """For an original that answers nothing: the freed graph compared with its own single rows, if they are answered."""
    verdict, freed = _freed(proto, runner, load, None, tolerance)
    if verdict in (BatchAxisVerdict.SAME, BatchAxisVerdict.UNCLEAR):
        return verdict, freed, Batching("row by row", freed.ask, size=1)
    return BatchAxisVerdict.UNTESTED, dynamic, single


def _answers_once(runner: Runner, fixed: int) -> bool:
    """Whether a first axis of fixed length is no batch: the model gives one answer to all of it."""
    for rows in probe_rows(runner.port, runner.port.shape, 1):
        try:
            answer = runner(rows[0])
        except FimauditError:
            continue
        return answer.ndim == 0 or answer.shape[0] != fixed
    return False


def _in_half_precision(proto: Any, dtype: str) -> bool:
    return np.dtype(dtype) == np.float16 or any(tensor.data_type == _HALF for tensor in proto.graph.initializer)
