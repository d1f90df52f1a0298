"""A handful of questions before the measurement: does the model answer, how many classes, how repeatable, how rounded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import ModelFailure, TargetError, UsageError
from fimaudit.estimation.noise import REPEATABLE, REPEATS, OutputQuality
from fimaudit.models.classifier import NetworkClassifier
from fimaudit.models.links import output_resolution
from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import PlainRows

__all__ = ["Preflight", "look", "not_deterministic"]

#: Inputs asked together, the first one among them twice, to see whether an answer depends on its company and its place.
COMPANY = 3
#: And where rows cost nothing but time: calls of so many rows, a full one last.
SIZES = (2, 7, 32)


@dataclass(frozen=True)
class Preflight:
    """What a few answers tell.

    Attributes:
        classes: columns of an answer.
        repeat_difference: largest difference of probability between two times the same rows asked in the same company.
        batch_difference: largest difference of probability between a row asked alone and in a batch.
        output_quantum: 10^-t when all answers are rounded to t decimals, else 0.
        rows: rows asked.
        exact: the answers are the model's own values, surely not rounded.
    """

    classes: int
    repeat_difference: float
    batch_difference: float
    output_quantum: float
    rows: int
    exact: bool = False

    @property
    def random(self) -> bool:
        """Whether the same row asked twice is answered differently."""
        return self.repeat_difference > REPEATABLE

    def quality(self, top_k: int | None) -> OutputQuality:
        """What the answers are worth, for the measurement."""
        if self.random:  # neither rounding nor company can be known beside noise
            return OutputQuality(random=True, top_k=top_k)
        return OutputQuality(self.output_quantum, top_k=top_k, batch_effect=self.batch_difference, exact=self.exact)

    def facts(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)

    def warnings(self) -> list[str]:
        """Sentences for the user."""
        out = []
        if self.random:
            out.append(not_deterministic(f"the same row asked twice differs by {self.repeat_difference:.2g} in probability"))
        elif self.batch_difference > REPEATABLE:
            out.append(
                f"an answer depends on the batch it is asked in (by up to {self.batch_difference:.2g} in probability); "
                "the batch size is kept fixed"
            )
        if self.output_quantum > 0:
            out.append(f"the answers are rounded to {self.output_quantum:g}; what the rounding hides is not measured")
        return out


def not_deterministic(why: str) -> str:
    """What a random model means for the measurement."""
    then = f"each input's own noise is measured by asking it {REPEATS} times, and taken off"
    return f"the model is not deterministic: {why}; {then}"


def look(meter: Meter, x: NDArray[Any], dtype: str, *, thorough: bool = False) -> Preflight:
    """Ask the first input alone, again, in company, and its company again.

    Args:
        meter: the door to the model.
        x: (n, \\*shape) inputs.
        dtype: what the model is fed.
        thorough: ask a model on this machine in calls of several sizes, a full one last.

    Raises:
        TargetError: a local model raised.
        ModelFailure: an endpoint did not answer.
        OutputError, LinkError: its answers are no distributions.
    """
    first = x[:1].astype(dtype)
    network = isinstance(meter.model, NetworkClassifier)
    company = _company(x, COMPANY, dtype)
    rows = 2 + 2 * COMPANY
    try:
        alone = meter.ask([PlainRows(first)])[0]
        again = meter.ask([PlainRows(first)], occasion="repeat")[0]
        try:
            together = meter.ask([PlainRows(company)])[0]
        except (ModelFailure, UsageError):  # another input may be at fault; its own measurement will say so
            x = first
            company, rows = _company(x, COMPANY, dtype), rows + COMPANY
            together = meter.ask([PlainRows(company)])[0]
        together_again = meter.ask([PlainRows(company)], occasion="repeat together")[0]
        seen = [together]
        if thorough and not network:
            sizes = sorted({*SIZES, meter.batch_rows(first.nbytes)})
            seen += [meter.ask([PlainRows(_company(x, size, dtype))])[0] for size in sizes if size > 1]
    except ModelFailure as exc:
        if network:
            raise  # it answers perhaps tomorrow: what was sent stays counted
        raise TargetError(f"the model cannot be asked: {exc}") from exc
    return Preflight(
        classes=alone.shape[1],
        repeat_difference=float(max(np.abs(alone - again).max(), np.abs(together - together_again).max())),
        batch_difference=float(max(np.abs(answers[[0, -1]] - alone).max() for answers in seen)),
        output_quantum=0.0 if meter.model.info.exact else output_resolution(np.concatenate([alone, *seen])),
        rows=rows,
        exact=meter.model.info.exact,
    )


def _company(x: NDArray[Any], size: int, dtype: str) -> NDArray[Any]:
    """So many rows, of which the first and the last are the first input and the others other inputs."""
    places = np.arange(size) % len(x)
    places[-1] = 0
    return x[places].astype(dtype)
