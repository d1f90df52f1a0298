"""What an engine is asked to do, and how a process that holds a model does its share: the same code on every engine."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fimaudit.data.arrays import InputSource, Row, fitting
from fimaudit.engines.decoys import Decoy
from fimaudit.engines.driver import NETWORK_BLOCK, affordable_inputs, block_size, run_inputs
from fimaudit.errors import DataError, FimauditError, InputFailed, ModelFailure
from fimaudit.measurement.context import InputContext
from fimaudit.measurement.deflation_trial import DeflationPlan, JacobianLearner
from fimaudit.measurement.label_radius import KnownLabels, measure_labels
from fimaudit.measurement.measure import measure_input
from fimaudit.measurement.pilot import Steps
from fimaudit.measurement.protocol import MeasurementFlow
from fimaudit.measurement.settings import Settings
from fimaudit.measurement.smoothing import measure_smoothed
from fimaudit.models.classifier import Classifier, NetworkClassifier
from fimaudit.models.leases import Ledger, Usage
from fimaudit.models.meter import Meter
from fimaudit.results import UNANSWERED, MeasuredInput, Sensitivity
from fimaudit.space import Space
from fimaudit.storage.parts import Part
from fimaudit.whitebox.inputs import BLOCK, exact_inputs

__all__ = ["Derivatives", "Engine", "LocalEngine", "RemoteEngine", "Work", "measure_inputs"]


#: Rows of one input that adaptive measurement, which asks bit by bit, is taken to ask at once.
AT_ONCE = 64
#: Inputs of which a process is given whole multiples, where it asks a model of its own.
PIECE = 16


@dataclass(frozen=True)
class Derivatives:
    """How derivatives are used: residual at which an iteration stops, and where worst directions go."""

    tolerance: float = 1e-4
    directions: Path | None = None


@dataclass(frozen=True)
class Work:
    """One pass over inputs: everything that decides their numbers. Pickles, so that it can be given to other processes.

    Attributes:
        source: the inputs.
        space: their domain, fixed.
        settings: of each input's measurement.
        steps: the pilot's choice; ``None`` by derivatives.
        exact: measure by derivatives; ``None`` from probabilities alone.
        budget: of the run: near its end fewer inputs are measured side by side, so that few are left unfinished.
        sharing: how many processes ask out of the budget.
        structure: which directions are measured exactly in each input; ``None`` for none.
        row_by_row: ask each row alone.
        labels: where answers are labels alone, those of inputs from which the search for a boundary starts.
        interleaved: the calls of inputs that are measured side by side go out in random turns.
        decoys: by input, rows that are asked beside it.
        network_block: how many inputs are measured side by side at most behind a network.
    """

    source: InputSource
    space: Space
    settings: Settings
    steps: Steps | None
    exact: Derivatives | None = None
    budget: int | None = None
    sharing: int = 1
    structure: DeflationPlan | None = None
    row_by_row: bool = False
    labels: KnownLabels | None = None
    interleaved: bool = False
    decoys: Mapping[int, Sequence[Decoy]] = field(default_factory=dict)
    network_block: int = NETWORK_BLOCK

    def block(self, model: Classifier, classes: int | None = None) -> int:
        """How many inputs are measured side by side at most; by derivatives, how many, fixed by index, share passes.

        Args:
            model: see ``block_size``.
            classes: K, where it is known.
        """
        if self.steps is None:
            return BLOCK
        row = max(self.space.lower.size * np.dtype(self.space.dtype).itemsize, 8 * (classes or 0))
        queries = self.settings.queries
        bit_by_bit = self.settings.adaptive or self.labels is not None
        return block_size(model, row, min(queries, AT_ONCE) if bit_by_bit else queries, self.network_block)

    def piece(self, model: Classifier) -> int:
        """How many inputs, fixed by index, one process is given at least: few, so that each has a share of a small run."""
        block = self.block(model)
        return block if self.steps is None or isinstance(model, NetworkClassifier) else min(PIECE, block)

    def window(self, most: int, sent: int) -> int:
        """How many inputs are measured side by side: at most as many as what is left of the budget surely finishes.

        Args:
            most: see ``block``.
            sent: rows of the run so far.
        """
        if self.budget is None:
            return most
        return max(1, min(most, affordable_inputs(self.budget - sent, self.settings) // self.sharing))


class Engine(Protocol):
    """Where a pass runs. Screening first and measuring the most sensitive inputs after are two passes of one engine."""

    def run(self, indices: NDArray[np.int64], work: Work) -> Generator[MeasuredInput | Part, None, None]:
        """Measure the inputs at ``indices`` (rising) and yield them as they finish, in any order.

        No number of an input depends on which others are measured, or on their order.

        Raises:
            BudgetExhausted, ModelFailure: no more can be measured; what was finished has been yielded.
        """
        ...


class RemoteEngine(Engine, Protocol):
    """An engine whose workers are other processes, with what they share."""

    def prepare(
        self,
        model: Classifier,
        budget: int | None,
        spent: Usage,
        ledger: tuple[str, str] | None,
        answers: tuple[str, bool] | None,
    ) -> Ledger:
        """Open what the workers share, and return it for this process's meter.

        Args:
            model: as opened here.
            budget: most rows in all.
            spent: what earlier processes of the run asked.
            ledger: path and fingerprint of an endpoint's ledger.
            answers: path of the answers to a local model's unfinished inputs, and whether the run goes on with them.
        """
        ...

    def answering(self) -> Classifier:
        """The model for what this process itself asks, answered where a crash ends no run (after ``prepare``)."""
        ...

    def close(self) -> None:
        """Let go of what the workers share."""
        ...


class LocalEngine:
    """This process, with the model behind its meter."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def run(self, indices: NDArray[np.int64], work: Work) -> Generator[MeasuredInput | Part, None, None]:
        """See ``Engine``; in the order of the inputs."""
        yield from measure_inputs(indices.tolist(), work, self._meter)


def measure_inputs(
    indices: Iterable[int], work: Work, meter: Meter, learner: JacobianLearner | None = None
) -> Iterator[MeasuredInput]:
    """Read and measure inputs, some side by side; one that cannot be read or does not fit is a failed result.

    Args:
        indices: rising.
        work: what is measured and how.
        meter: the door to this process's model.
        learner: learns from their random rows.
    """
    listed = list(indices)
    if work.row_by_row:
        meter.batch = 1
    if work.steps is None:
        yield from _by_derivatives(listed, work, meter)
        return
    if work.interleaved:
        meter.interleave(work.settings.seed)
    most, left = work.block(meter.model, meter.classes), listed
    decided = _decided(work, work.steps)
    rows = work.source.rows(listed)  # one after the other: a large file is passed through once
    while left:
        size = work.window(most, meter.usage.rows)
        block, left = {index: next(rows) for index in left[:size]}, left[size:]
        x: dict[int, NDArray[Any]] = {}
        for index, row in block.items():
            one = _fitted(index, row, work)
            if isinstance(one, MeasuredInput):
                yield _labelled(one, row)
            else:
                x[index] = one
        beside = [decoy for index in x for decoy in work.decoys.get(index, ())]
        for outcome in run_inputs(list(x), _opener(x, work, work.steps, learner, decided), _failing(x, work), meter, beside):
            yield _labelled(outcome, block[outcome.result.index])


def _by_derivatives(listed: Sequence[int], work: Work, meter: Meter) -> Iterator[MeasuredInput]:
    """Passes hold whole blocks, fixed by index, whichever inputs are wanted: last digits depend on who shares a pass."""
    exact = work.exact or Derivatives()
    wanted = set(listed)
    starts = sorted({index // BLOCK * BLOCK for index in listed})
    members = [i for start in starts for i in range(start, min(start + BLOCK, len(work.source)))]
    rows = work.source.rows(members)
    for _, block_indices in groupby(members, key=lambda index: index // BLOCK):
        block = {index: next(rows) for index in block_indices}
        fitted = {index: _fitted(index, row, work) for index, row in block.items()}
        x = {index: one for index, one in fitted.items() if not isinstance(one, MeasuredInput)}
        found = exact_inputs(
            list(x), np.stack(list(x.values())), meter, work.space,
            wanted=wanted, tolerance=exact.tolerance, seed=work.settings.seed, worst_directions=exact.directions,
        ) if x else iter(())  # fmt: skip
        for outcome in chain((one for one in fitted.values() if isinstance(one, MeasuredInput)), found):
            if outcome.result.index in wanted:
                yield _labelled(outcome, block[outcome.result.index])


def _fitted(index: int, row: Row, work: Work) -> NDArray[Any] | MeasuredInput:
    """The input as the model is fed, or why it cannot be."""
    try:
        if row.x is None:
            raise DataError(row.reason or "the input could not be read")
        return fitting(row.x, work.space)
    except DataError as error:
        return MeasuredInput(_failed(index, error), 0, 0)


def _opener(
    x: Mapping[int, NDArray[Any]],
    work: Work,
    steps: Steps,
    learner: JacobianLearner | None,
    decided: Sequence[tuple[int, NDArray[Any]]],
) -> Callable[[int], MeasurementFlow]:
    """What opens the flow of each of these inputs."""
    structure = work.structure

    def begin(i: int) -> MeasurementFlow:
        space = work.space.holding(x[i])
        if work.labels is not None:
            if work.settings.smooth is not None:
                return measure_smoothed(x[i], i, space, work.settings)
            return measure_labels(x[i], i, space, work.settings, work.labels)
        subspace, own = None, steps
        if structure is not None and space is work.space:
            subspace, own = structure.subspace(x[i], i, space), structure.steps(steps, i)
        return measure_input(InputContext(x[i], i, space, own, work.settings, subspace, decided), learner)

    return begin


def _decided(work: Work, steps: Steps) -> list[tuple[int, NDArray[Any]]]:
    """Inputs whose classes are known, towards which others may be displaced; none where nobody looks."""
    if not work.settings.witness:
        return []
    rows = work.source.rows([i for i, _ in steps.decided])
    fitted = [(k, _fitted(i, row, work)) for (i, k), row in zip(steps.decided, rows, strict=True)]
    return [(k, one) for k, one in fitted if not isinstance(one, MeasuredInput)]


def _failed(index: int, error: FimauditError) -> Sensitivity:
    flags = [UNANSWERED] if isinstance(error, InputFailed) and error.unanswered else []
    return Sensitivity(index=index, status="failed", method="none", reason=str(error), flags=flags)


def _failing(x: Mapping[int, NDArray[Any]], work: Work) -> Callable[[int, FimauditError], Sensitivity]:
    """What an input of these that failed looks like; of one with gaps it is said that it has some."""

    def failed(index: int, error: FimauditError) -> Sensitivity:
        if work.space.missing(x[index]) is None:
            return _failed(index, error)
        return _failed(index, ModelFailure(f"the input has missing values, which the model does not take: {error}"))

    return failed


def _labelled(outcome: MeasuredInput, row: Row) -> MeasuredInput:
    if row.y is None and row.group is None:
        return outcome
    result = outcome.result.model_copy(update={"label": row.y, "group": row.group})
    return MeasuredInput(result, outcome.rows, outcome.requests)
