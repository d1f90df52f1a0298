"""Before a run's inputs are measured: which directions are measured exactly, as kept by an earlier process or tried now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fimaudit.engines.driver import drive
from fimaudit.engines.work import Work, measure_inputs
from fimaudit.measurement.deflation_trial import (
    DeflationPlan,
    JacobianLearner,
    Trial,
    hindrance,
    most_directions,
    prefix,
    try_directions,
)
from fimaudit.measurement.pilot import Steps
from fimaudit.measurement.surrogates import Surrogates
from fimaudit.models.meter import Meter
from fimaudit.results import MeasuredInput
from fimaudit.storage.journal import Journal

__all__ = ["DeflationSetup", "Directions", "set_up_deflation"]

Array = NDArray[np.float64]
#: Models, or the first inputs of the audit itself.
Directions = Surrogates | Literal["learned"]

WITHOUT = "derivatives give the exact value without"


@dataclass(frozen=True)
class DeflationSetup:
    """What a run measures exactly.

    Attributes:
        structure: for its inputs; ``None`` where nothing is.
        facts: for the report and the journal.
        outcomes: of the inputs that were measured to learn from; all of them, or none.
    """

    structure: DeflationPlan | None
    facts: dict[str, Any]
    outcomes: Sequence[MeasuredInput] = ()

    def warnings(self) -> list[str]:
        """Why nothing is measured exactly."""
        note = self.facts.get("note")
        return [f"--surrogate is off: {note}"] if note else []


def set_up_deflation(
    source: Directions,
    work: Work,
    x: NDArray[Any],
    numbers: NDArray[np.int64],
    meter: Meter,
    journal: Journal | None,
) -> DeflationSetup:
    """Learn directions where they are to be learned, try them on a few inputs, and keep what was found.

    The inputs that are learned from are handed over when all of them are measured: an earlier process that was stopped
    before left none, and they are asked again.

    Args:
        source: of the directions.
        work: the pass without them.
        x, numbers: inputs that stand for all, and their positions.
        meter: the door to the model.
        journal: of the run folder.
    """
    if work.steps is None:
        return DeflationSetup(None, _facts(source, note=WITHOUT))
    steps, settings, space = work.steps, work.settings, work.space
    if journal is not None and journal.structure is not None:
        before = journal.structure
        return DeflationSetup(_structure(source, steps, before, journal.learned() if before["kept"] else None), before)
    inputs, most = len(work.source), most_directions(work.settings, space.features)
    note = hindrance(space, steps, settings)
    first, outcomes, learned = 0, list[MeasuredInput](), None
    if note is None and source == "learned":
        first = prefix(inputs)
        learner = JacobianLearner()
        outcomes = list(measure_inputs(range(first), work, meter, learner))
        learned = learner.directions(most)
        if not len(learned):
            note = f"{inputs} inputs are too few to learn directions from"
    trial = Trial(0)
    if note is None:
        some = {int(number): one for number, one in zip(numbers, x, strict=True) if number >= first}

        def subspaces(_: int, one: NDArray[Any]) -> Array:
            if isinstance(source, Surrogates):
                return source.directions(one, space, steps.displacement, most)
            assert learned is not None
            return learned

        trial = drive(try_directions(some, subspaces, space, steps, settings, inputs), meter)
        note = trial.note(most)
    kept = learned if trial.directions else None
    facts = _facts(source, trial, first, inputs, kept=kept is not None, note=note)
    if journal is not None:
        journal.keep_structure(facts, kept)
    return DeflationSetup(_structure(source, steps, facts, kept), facts, outcomes)


def _structure(source: Directions, steps: Steps, facts: dict[str, Any], learned: Array | None) -> DeflationPlan:
    models = source if isinstance(source, Surrogates) and facts["directions"] else None
    tried, inputs = facts["tried"], facts["inputs"]
    return DeflationPlan(facts["directions"], models, learned, facts["first"], steps.displacement, tried, inputs)


def _facts(
    source: Directions,
    trial: Trial | None = None,
    first: int = 0,
    inputs: int = 1,
    *,
    kept: bool = False,
    note: str | None = None,
) -> dict[str, Any]:
    """Plain data; ``exact_share`` and ``gain`` as in ``Trial``."""
    trial = trial or Trial(0)
    return {
        "source": "learned" if source == "learned" else "surrogate",
        "models": source.facts() if isinstance(source, Surrogates) else [],
        "directions": trial.directions,
        "caught": trial.exact_share,
        "expected_width": trial.gain,
        "first": first,
        "tried": trial.rows,
        "inputs": inputs,
        "kept": kept,
        "note": note,
    }


def portable(setup: DeflationSetup) -> DeflationSetup:
    """The same for processes on other machines."""
    return replace(setup, structure=setup.structure and setup.structure.portable())
