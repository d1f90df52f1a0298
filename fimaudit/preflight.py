"""A handful of questions before the measurement: does the model answer, how many classes, how repeatable, how rounded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.classifier import NetworkClassifier
from fimaudit.errors import BudgetExhausted, FimauditError, ModelFailure, TargetError
from fimaudit.meter import Meter
from fimaudit.noise import REPEATS, Quality, rounding
from fimaudit.rows import PlainRows

__all__ = ["Preflight", "look"]

#: Inputs asked together, to see whether an answer depends on its company.
COMPANY = 3
#: Differences of repeated answers up to here are rounding of float32.
REPEATABLE = 1e-6


@dataclass(frozen=True)
class Preflight:
    """What a few answers tell.

    Attributes:
        classes: columns of an answer.
        repeat_difference: largest difference of probability between two times the same row asked alone.
        batch_difference: largest difference between a row asked alone and in a batch.
        output_quantum: 10^-t when all answers are rounded to t decimals, else 0.
        rows: rows asked.
    """

    classes: int
    repeat_difference: float
    batch_difference: float
    output_quantum: float
    rows: int

    @property
    def random(self) -> bool:
        """Whether the same row asked twice is answered differently."""
        return self.repeat_difference > REPEATABLE

    def quality(self, top_k: int | None) -> Quality:
        """What the answers are worth, for the measurement."""
        return Quality(0.0 if self.random else self.output_quantum, self.random, top_k)

    def facts(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)

    def warnings(self) -> list[str]:
        """Sentences for the user."""
        out = []
        if self.random:
            out.append(
                f"the model is not deterministic: the same row asked twice differs by {self.repeat_difference:.2g} in "
                f"probability; each input's own noise is measured by asking it {REPEATS} times, and taken off"
            )
        elif self.batch_difference > REPEATABLE:
            out.append(
                f"an answer depends on the batch it is asked in (by up to {self.batch_difference:.2g} in probability); "
                "the batch size is kept fixed"
            )
        if self.output_quantum > 0:
            out.append(f"the answers are rounded to {self.output_quantum:g}; what the rounding hides is not measured")
        return out


def look(meter: Meter, x: NDArray[Any], dtype: str) -> Preflight:
    """Ask the first inputs alone, again, and in company.

    Raises:
        TargetError: a local model raised.
        ModelFailure: an endpoint did not answer.
        OutputError, LinkError: its answers are no distributions.
    """
    first = x[:1].astype(dtype)
    company = x[np.arange(COMPANY) % len(x)].astype(dtype)
    before = meter.usage.rows
    try:
        alone = meter.ask([PlainRows(first)])[0]
        again = meter.ask([PlainRows(first)], occasion="repeat")[0]
        try:
            together = meter.ask([PlainRows(company)])[0]
        except BudgetExhausted:
            raise
        except FimauditError:  # another input may be at fault; its own measurement will say so
            together = meter.ask([PlainRows(np.repeat(first, COMPANY, axis=0))])[0]
    except ModelFailure as exc:
        if isinstance(meter.model, NetworkClassifier):
            raise  # it answers perhaps tomorrow: what was sent stays counted
        raise TargetError(f"the model cannot be asked: {exc}") from exc
    return Preflight(
        classes=alone.shape[1],
        repeat_difference=float(np.abs(alone - again).max()),
        batch_difference=float(np.abs(alone[0] - together[0]).max()),
        output_quantum=rounding(np.concatenate([alone, together])),
        rows=meter.usage.rows - before,
    )
