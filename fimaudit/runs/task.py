"""What a run measures: the inputs, their domain, and how each is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.data.arrays import InputSource
from fimaudit.engines.driver import NETWORK_BLOCK
from fimaudit.engines.work import Derivatives
from fimaudit.measurement.settings import Settings
from fimaudit.models.classes import ClassLabels
from fimaudit.runs.deflation_setup import Directions
from fimaudit.space import Space
from fimaudit.storage.result_store import MOST_INLINE, PART_INPUTS

__all__ = ["RunSizes", "Task"]


@dataclass(frozen=True)
class RunSizes:
    """How many inputs a run holds at once; no number of an input depends on it.

    Attributes:
        most_inline: above this many inputs results go to disk in parts, and the report's own list stays empty.
        part_inputs: how many inputs such a part holds at most.
        network_block: how many inputs are measured side by side at most behind a network.
    """

    most_inline: int = MOST_INLINE
    part_inputs: int = PART_INPUTS
    network_block: int = NETWORK_BLOCK


@dataclass(frozen=True)
class Task:
    """What is measured.

    Attributes:
        source: all inputs, as admitted by the domain where they are in memory.
        x: (m, \\*shape) inputs that stand for all of them in the pilot: all that are in memory, a sample of a stream.
        numbers: (m,) their positions in the data.
        space: the domain.
        settings: each input's measurement.
        exact: measure by derivatives; ``None`` from probabilities alone.
        integrity: check afterwards whether answers are those of one function whose slopes reach its decisions.
        interleaved: calls of the inputs that are asked side by side go out in random turns.
        insist: by derivatives or not at all: an input whose derivatives are not those of the answers has failed. Else it is
            measured from probabilities.
        focus: screen all inputs, and measure in full those that may be among so many most sensitive ones.
        surrogates: where directions come from that are measured exactly; ``None`` for none.
        labels: measure from labels alone.
        classes: the model's classes, by which the inputs' labels were matched.
        y: labels as columns of the answer, of the inputs in memory or those that stand for a stream.
        sizes: how many inputs are held at once.
    """

    source: InputSource
    x: NDArray[Any]
    numbers: NDArray[np.int64]
    space: Space
    settings: Settings
    exact: Derivatives | None = None
    focus: int | None = None
    surrogates: Directions | None = None
    insist: bool = False
    labels: bool = False
    classes: ClassLabels = field(default_factory=ClassLabels)
    y: NDArray[np.int64] | None = None
    integrity: bool = False
    interleaved: bool = False
    sizes: RunSizes = RunSizes()
