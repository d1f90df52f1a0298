"""Inputs that are asked again through a run, to notice that another model answers than at its beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import PlainRows
from fimaudit.statistics.spread import evenly_spread

__all__ = ["Drift", "Sentinels", "judge"]

Array = NDArray[np.float64]

NOTE = "sentinels"
#: How often each sentinel is asked at the start, to learn how far answers to the same question lie apart.
REPEATS = 3
#: Inputs that are asked again.
SENTINELS = 4
#: A difference beyond so many times the largest one seen between repeats is drift.
BEYOND = 4.0
#: Total variation that float32 arithmetic and another batch explain; any other model moves answers further.
FLOOR = 1e-5


@dataclass(frozen=True)
class Drift:
    """A check that failed.

    Attributes:
        kind: ``changed``: another model answers; ``classes``: the same numbers in another order of classes;
            ``intermittent``: asked once more it answers as before, so part of the traffic goes elsewhere.
        distance: largest total variation between a sentinel's answer and its reference.
        tolerance: what the noise explains.
        sentinel: index of the input that differs most.
        inputs: inputs measured since the last good check: their results may mix two models.
        at_start: before any input was measured, so that the run is one of the model that answers now.
    """

    kind: Literal["changed", "classes", "intermittent"]
    distance: float
    tolerance: float
    sentinel: int
    inputs: tuple[int, ...]
    at_start: bool = False

    def sentence(self) -> str:
        """For the report's warnings."""
        what = {
            "changed": "another model answers than at the start",
            "classes": "the endpoint gives its classes in another order than at the start",
            "intermittent": "some of the requests are answered by another model (canary traffic, or a replica that differs)",
        }[self.kind]
        named = ", ".join(map(str, self.inputs[:20])) + (", ..." if len(self.inputs) > 20 else "")
        since = f"inputs {named} were measured since the last good check" if self.inputs else "no input was measured since"
        if self.at_start:
            since = "no input had been measured, and the run is one of the model that answered last"
        elif self.kind != "intermittent":
            since += "; --overwrite measures all of the model that answers now, --resume goes on once the first one is back"
        return (
            f"the endpoint drifted: {what} (input {self.sentinel}, asked again, differs by {self.distance:.2g} in total "
            f"variation, noise explains {self.tolerance:.2g}); {since}"
        )


def judge(reference: Array, answers: Array, tolerance: float) -> tuple[Literal["same", "classes", "changed"], float, int]:
    """Compare the sentinels' answers with their reference, each (sentinels, K).

    Returns:
        the verdict, the largest total variation, and the position of the sentinel with it.
    """
    if reference.shape != answers.shape:
        return "changed", 1.0, 0
    distance = np.abs(answers - reference).sum(axis=1) / 2
    worst = int(np.argmax(distance))
    if distance[worst] <= tolerance:
        return "same", float(distance[worst]), worst
    from scipy.optimize import linear_sum_assignment  # takes a while, and only a drift needs it

    # The order of the columns that fits best; the identity was just ruled out.
    cost = np.abs(answers[:, :, None] - reference[:, None, :]).sum(axis=0)
    order = linear_sum_assignment(cost.T)[1]
    reordered = np.abs(answers[:, order] - reference).sum(axis=1).max() / 2
    return ("classes" if reordered <= tolerance else "changed"), float(distance[worst]), worst


class Sentinels:
    """Asks the sentinels at the start, every so many rows, after each resume, and at the end.

    The rows count in the budget like any others: with the defaults 12 at the start and 4 in every 1000.

    Args:
        x: (n, \\*shape) inputs as the model is fed.
        meter: the door to the endpoint; the reference is kept in its ledger.
        every: rows between two checks.
        numbers: positions of ``x`` in the data, where it is a part of it.

    Use::

        sentinels = Sentinels(x, meter)
        sentinels.begin()                       # before the first input; asks at once when a run is resumed
        ...                                     # after each finished input or block of them:
        if sentinels.due() and (drift := sentinels.check(measured)) is not None: ...
        drift = sentinels.check(measured)       # at the end
    """

    def __init__(
        self,
        x: NDArray[Any],
        meter: Meter,
        *,
        every: int = 1000,
        numbers: NDArray[np.int64] | None = None,
    ) -> None:
        chosen = evenly_spread(len(x), SENTINELS).tolist()
        self.indices = chosen if numbers is None else [int(i) for i in numbers[chosen]]
        self._rows, self._meter, self._every = np.asarray(x)[chosen], meter, every
        self._reference: Array | None = None
        self.tolerance = FLOOR
        self.noise = 0.0
        self._checks = self._starts = 0
        self._good: set[int] = set()
        self._checked_at = 0
        self.drifts: list[Drift] = []

    def begin(self, first: Array | None = None) -> None:
        """Learn the reference and the noise, or take them over from the run that is resumed.

        Args:
            first: (K,) answer to the first sentinel before this, to notice a model that changed in between.

        Raises:
            BudgetExhausted, ModelFailure, UsageError: as ``Meter.ask``.
        """
        kept = self._meter.note(NOTE)
        if kept is not None:
            self._reference = np.array(kept["reference"], dtype=np.float64)
            self.tolerance, self.noise = float(kept["tolerance"]), float(kept["noise"])
            self._good, self._starts = set(kept["good"]), int(kept["starts"]) + 1
            self.drifts = [Drift(**{**d, "inputs": tuple(d["inputs"])}) for d in kept["drifts"]]
            self._checked_at = self._meter.usage.rows - self._every  # a resumed run asks again first
        else:
            answers = np.stack([self._ask(f"reference {i}") for i in range(REPEATS)])
            apart = np.abs(answers[:, None] - answers[None]).sum(axis=-1).max(axis=-1) / 2
            self.noise = float(apart.max())
            same = apart <= FLOOR
            if self.noise > FLOOR and (same.sum(axis=1) > 1).any():
                # Two agree to the last digits and one does not: that is no noise but another model, now and then or from
                # then on. What most of them say, or the last two, is the reference.
                agreeing = answers[same[int(np.argmax(same.sum(axis=1)))]]
                self._changed(apart, "changed" if same[-2, -1] else "intermittent")
                answers, self.noise = agreeing, 0.0
            self._reference = answers.mean(axis=0)
            self.tolerance = max(FLOOR, BEYOND * self.noise)
            if first is not None and not self.drifts and first.shape == self._reference[0].shape:
                far = float(np.abs(first - self._reference[0]).sum() / 2)
                if far > self.tolerance:
                    self._changed(np.array([far]), "changed")
            self._checked_at = self._meter.usage.rows
        self._keep()

    def _changed(self, apart: Array, kind: Literal["changed", "intermittent"]) -> None:
        self.drifts.append(Drift(kind, float(apart.max()), FLOOR, self.indices[0], (), at_start=True))

    def due(self) -> bool:
        """Whether ``every`` rows went by since the last check."""
        return self._meter.usage.rows - self._checked_at >= self._every

    def has_unchecked(self, measured: Sequence[int]) -> bool:
        """Whether inputs were measured since the last check, good or not: a kill may come between the two."""
        return not self._good.union(*(drift.inputs for drift in self.drifts)).issuperset(measured)

    def check(self, measured: Sequence[int]) -> Drift | None:
        """Ask the sentinels again.

        Args:
            measured: indices of all inputs measured so far.

        Returns:
            ``None`` when they answer as before, which clears ``measured``; else what changed.
        """
        if self._reference is None:
            raise RuntimeError("Sentinels.begin() was not called")
        self._checks += 1
        verdict, distance, worst = judge(self._reference, self._ask(f"check {self._checks}"), self.tolerance)
        drift = None
        if verdict == "same":
            self._good.update(measured)
        else:
            again = judge(self._reference, self._ask(f"check {self._checks} again"), self.tolerance)[0]
            suspects = tuple(i for i in measured if i not in self._good)
            kind: Literal["changed", "classes", "intermittent"] = "intermittent" if again == "same" else verdict
            drift = Drift(kind, distance, self.tolerance, self.indices[worst], suspects)
            self.drifts.append(drift)
        self._checked_at = self._meter.usage.rows
        self._keep()
        return drift

    def facts(self) -> dict[str, Any]:
        """For the report."""
        return {
            "sentinels": self.indices,
            "checks": self._checks,
            "noise": self.noise,
            "tolerance": self.tolerance,
            "drifts": [vars(drift) for drift in self.drifts],
        }

    def _ask(self, occasion: str) -> Array:
        # The number of starts keeps a resumed run from taking answers that were given before the break.
        return self._meter.ask([PlainRows(self._rows)], occasion=f"sentinels {self._starts} {occasion}")[0]

    def _keep(self) -> None:
        assert self._reference is not None
        state = {
            "reference": self._reference.tolist(), "tolerance": self.tolerance, "noise": self.noise, "starts": self._starts,
            "good": sorted(self._good), "drifts": [vars(drift) for drift in self.drifts],
        }  # fmt: skip
        self._meter.remember(NOTE, state)
