"""Rows that are asked among those of the inputs, to see later whether they are still answered alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import InputFailed
from fimaudit.models.meter import DECOYS, Meter
from fimaudit.perturbations.rows import PlainRows

__all__ = ["Decoy", "ask_decoys", "keep_answers", "known_answers"]


@dataclass(frozen=True)
class Decoy:
    """One row at one time of the run.

    Attributes:
        row: (\\*shape) as the model is sent it.
        number: under which the row is asked anew; no two of a run have the same, and no copy of a row within a block.
    """

    row: NDArray[Any]
    number: int

    @property
    def rows(self) -> PlainRows:
        """The row as a block of its own."""
        return PlainRows(self.row[None])

    @property
    def name(self) -> str:
        """Under which the run keeps the answer."""
        return f"decoy {self.number}"


def known_answers(decoy: Decoy, meter: Meter) -> NDArray[np.float64] | None:
    """(K,) answer that the run has kept, if it was asked."""
    kept = meter.note(decoy.name)
    return None if kept is None else np.array(kept, dtype=np.float64)


def ask_decoys(decoys: Iterable[Decoy], meter: Meter) -> None:
    """Ask those that were not asked yet, each in a call of its own."""
    missing = [decoy for decoy in decoys if meter.note(decoy.name) is None]
    if missing:
        blocks, numbers = [decoy.rows for decoy in missing], [decoy.number for decoy in missing]
        keep_answers(missing, meter.ask_each(blocks, owners=[DECOYS] * len(missing), again=numbers), meter)


def keep_answers(decoys: Sequence[Decoy], answers: Sequence[NDArray[np.float64] | InputFailed], meter: Meter) -> None:
    """Keep what was answered; what failed is asked again at the end."""
    for decoy, answer in zip(decoys, answers, strict=True):
        if not isinstance(answer, InputFailed):
            meter.remember(decoy.name, answer[0].tolist())
