"""What an engine is asked to do, and how a process that holds a model does its share: the same code on every engine."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fimaudit.data.arrays import Row, Source, fitting
from fimaudit.domain import Space
from fimaudit.engines.driver import block_size, run_inputs
from fimaudit.errors import DataError, FimauditError
from fimaudit.measurement.deflation_trial import Lessons, Structure
from fimaudit.measurement.measure import Conversation, measure
from fimaudit.measurement.pilot import Steps
from fimaudit.measurement.settings import Settings
from fimaudit.models.classifier import Classifier
from fimaudit.models.meter import Meter
from fimaudit.results import Outcome, Sensitivity
from fimaudit.storage.parts import Part
from fimaudit.whitebox.inputs import BLOCK, exact_inputs

__all__ = ["Derivatives", "Engine", "LocalEngine", "Work", "measure_inputs"]


#: Rows of one input that adaptive measurement, which asks bit by bit, is taken to ask at once.
AT_ONCE = 64


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
        budget: of the run, for it decides which inputs share calls.
        structure: which directions are measured exactly in each input; ``None`` for none.
    """

    source: Source
    space: Space
    settings: Settings
    steps: Steps | None
    exact: Derivatives | None = None
    budget: int | None = None
    structure: Structure | None = None

    def block(self, model: Classifier) -> int:
        """How many inputs, fixed by index, share calls."""
        if self.steps is None:
            return BLOCK
        row = self.space.lower.size * np.dtype(self.space.dtype).itemsize
        queries = self.settings.queries
        return block_size(model, row, min(queries, AT_ONCE) if self.settings.adaptive else queries, self.budget)


class Engine(Protocol):
    """Where a pass runs. Screening first and measuring the most sensitive inputs after are two passes of one engine."""

    def run(self, indices: NDArray[np.int64], work: Work) -> Generator[Outcome | Part, None, None]:
        """Measure the inputs at ``indices`` (rising, whole blocks) and yield them as they finish, in any order.

        Raises:
            BudgetExhausted, ModelFailure: no more can be measured; what was finished has been yielded.
        """
        ...


class LocalEngine:
    """This process, with the model behind its meter."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def run(self, indices: NDArray[np.int64], work: Work) -> Generator[Outcome | Part, None, None]:
        """See ``Engine``; in the order of the inputs."""
        yield from measure_inputs(indices.tolist(), work, self._meter)


def measure_inputs(indices: Iterable[int], work: Work, meter: Meter, lessons: Lessons | None = None) -> Iterator[Outcome]:
    """Read and measure inputs in blocks fixed by index; one that cannot be read or does not fit is a failed result.

    Args:
        indices: rising.
        work: what is measured and how.
        meter: the door to this process's model.
        lessons: learns from their random rows.
    """
    size = work.block(meter.model)
    listed = list(indices)
    rows = work.source.rows(listed)  # one after the other: a large file is passed through once
    for _, members in groupby(listed, key=lambda index: index // size):
        block = {index: next(rows) for index in members}
        x: dict[int, NDArray[Any]] = {}
        for index, row in block.items():
            try:
                if row.x is None:
                    raise DataError(row.reason or "the input could not be read")
                x[index] = fitting(row.x, work.space)
            except DataError as error:
                yield _labelled(Outcome(_failed(index, error), 0, 0), row)
        for outcome in _measured(x, work, meter, size, lessons):
            yield _labelled(outcome, block[outcome.result.index])


def _measured(
    x: Mapping[int, NDArray[Any]], work: Work, meter: Meter, size: int, lessons: Lessons | None
) -> Iterator[Outcome]:
    if not x:
        return iter(())
    steps = work.steps
    if steps is None:
        exact = work.exact or Derivatives()
        return exact_inputs(
            list(x), np.stack(list(x.values())), meter,
            tolerance=exact.tolerance, seed=work.settings.seed, worst_directions=exact.directions,
        )  # fmt: skip
    structure = work.structure

    def begin(i: int) -> Conversation:
        plane, own = None, steps
        if structure is not None:
            plane, own = structure.plane(x[i], i, work.space), structure.steps(steps, i)
        return measure(x[i], i, work.space, own, work.settings, plane, lessons)

    return run_inputs(x, begin, _failed, meter, size)


def _failed(index: int, error: FimauditError) -> Sensitivity:
    return Sensitivity(index=index, status="failed", method="none", reason=str(error))


def _labelled(outcome: Outcome, row: Row) -> Outcome:
    if row.y is None and row.group is None:
        return outcome
    result = outcome.result.model_copy(update={"label": row.y, "group": row.group})
    return Outcome(result, outcome.rows, outcome.requests)
