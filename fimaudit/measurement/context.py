"""One input on its way through a measurement: what the run knows of it, and what finding its displacement adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.attribution import MOST_SKETCHED, listed
from fimaudit.estimation.estimate import Estimate
from fimaudit.estimation.noise import BaseAnswers, OutputQuality, VisibleClasses
from fimaudit.estimation.secants import resolution
from fimaudit.measurement.counterexample import WHOLE_WAY, Slope
from fimaudit.measurement.full_jacobian import fits
from fimaudit.measurement.pilot import Steps
from fimaudit.measurement.plateau import FLAT
from fimaudit.measurement.query_split import after_extras, after_finding, profile_directions
from fimaudit.measurement.settings import Settings
from fimaudit.measurement.surface import JUMPING, SurfaceKind
from fimaudit.results import SCREENED
from fimaudit.space import Space

__all__ = ["DisplacedContext", "InputContext", "InputStep"]

Array = NDArray[np.float64]

#: What answers of nothing but 0 and 1 are taken to be rounded to.
UNKNOWN_QUANTUM = 0.01
#: Rounding that hardly moves where two classes are even.
FINE = 1e-5
#: An own displacement so many times longer or shorter than the common one is named.
MUCH = 3.5


@dataclass(frozen=True)
class InputStep:
    """The displacement of one input, and what finding it took.

    Attributes:
        rho: l2 length in units of the scale.
        change: of log energy between a third and three times the displacement, what a value may be off by.
        finite: why the value is one at a finite scale; ``None`` where it is local.
        spent: rows that finding it took, the base row not counted.
        energy: mean squared secant of 2 sqrt(p) there.
        above_noise: whether the answers stand out from the noise.
        heavy: whether secants may scatter more than those of a linear function.
        flags: what was out of the ordinary.
        surface: what the answers are around the input.
        behind_noise: whether it is at a finite scale because noise hides what shorter displacements show.
        bend: of log energy, what the pilot says that a step of this length bends it by at most; of an input that answers as
            linearly as those do.
    """

    rho: float
    change: float = 0.0
    finite: str | None = None
    spent: int = 0
    energy: float = 0.0
    above_noise: bool = True
    heavy: bool = False
    flags: tuple[str, ...] = ()
    surface: SurfaceKind = "smooth"
    behind_noise: bool = False
    bend: float | None = None

    @property
    def has_slope(self) -> bool:
        """Whether a slope says how far another decision is: answers that jump have none."""
        return self.surface not in JUMPING

    @property
    def error(self) -> float:
        """Relative error that the step leaves: what a plateau may move, half to either side, and what the check saw."""
        return FLAT / 2 + self.change

    @property
    def norm_error(self) -> float:
        """The same of the norms alone, whose energy pilot and check both looked at.

        Each of the two limits the whole of it, so the larger one will do: the check compares a ninefold range of lengths,
        and what bends with the length to any power from 0.44 on bends by no more than that at the displacement itself.

        >>> InputStep(0.1, change=0.01, bend=0.005).norm_error, InputStep(0.1, change=0.01).norm_error
        (0.01, 0.025)
        """
        return self.error if self.bend is None else min(self.error, max(self.bend, self.change))

    def widened(self, estimate: Estimate, *, exact: bool = False) -> Estimate:
        """Limits that also allow for the step's error, and for heavy scatter where there may be some.

        Args:
            estimate: from answers at this displacement.
            exact: whether it comes from a second step of its own, as a whole Jacobian does.
        """
        if exact:
            return estimate.widened(self.change + self.heavy * estimate.heaviness)
        heavy = self.heavy * estimate.heaviness
        return estimate.widened(self.norm_error + heavy, self.error + heavy)


@dataclass(frozen=True)
class InputContext:
    """One input, and all that decides how it is measured.

    Attributes:
        x: the input, shape \\*shape, within the domain.
        index: its position in the data: directions depend on it and the seed alone.
        space: the domain.
        steps: the pilot's choice.
        settings: what the user chose.
        subspace: (q, d) orthonormal directions to measure exactly, where that can be done (``deflation``).
        decided: inputs whose classes the pilot saw, by class.
    """

    x: NDArray[Any]
    index: int
    space: Space
    steps: Steps
    settings: Settings
    subspace: Array | None = None
    decided: Sequence[tuple[int, NDArray[Any]]] = ()

    def way_to_other(self, decision: int) -> Slope | None:
        """Towards the nearest input that is decided otherwise, over the features that may change; ``None`` for none."""
        free = ~self.space.frozen.ravel()
        base, scale = self.x.ravel()[free].astype(np.float64), self.space.scale.ravel()[free]
        ways = [(one.ravel()[free].astype(np.float64) - base) / scale for k, one in self.decided if k != decision]
        known = [Slope(way, length / WHOLE_WAY) for way in ways if (length := float(np.linalg.norm(way))) > 0]
        return min(known, key=lambda slope: slope.expected, default=None)

    @property
    def quality(self) -> OutputQuality:
        """What the answers are worth; those of 0 and 1 alone are rounded, nobody knows how far."""
        known = self.steps.quality
        return replace(known, quantum=UNKNOWN_QUANTUM) if known.quantum_unknown else known

    def repeated(self, times: int) -> NDArray[Any]:
        """(times, \\*shape) the input as the model is sent it."""
        return np.repeat(self.x.astype(self.space.dtype)[None], times, axis=0)

    def at(self, base_answers: BaseAnswers, step: InputStep) -> DisplacedContext:
        """The same with its displacement, and with the queries that are left when profile and witness have theirs."""
        queries = after_finding(self.settings.queries, self.steps.share + step.spent, base_answers.quality.repeats)
        whole = fits(self.space.features, after_extras(queries, self.settings, separate=True) - 1)
        linear = step.above_noise and step.finite is None and step.energy > 0
        by_class = self.quality.top_k is None and not base_answers.view.unmeasurable
        subspace = self.subspace if linear and by_class and not whole else None
        split = (queries, self.settings, whole or subspace is not None or not step.has_slope)
        return DisplacedContext(
            self.x, self.index, self.space, self.steps, self.settings, subspace, self.decided,
            base_answers=base_answers, step=step, queries=after_extras(*split), by_class=by_class,
            whole=whole, profiled=profile_directions(*split),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DisplacedContext(InputContext):
    """An input whose displacement is known.

    Attributes:
        base_answers: the answers to the input itself.
        step: its displacement.
        queries: rows for its main directions, the base row included.
        by_class: whether each answer shows the same measurable classes, so that there is a Jacobian to measure.
        whole: whether they suffice for the whole Jacobian and its check, beside a profile.
        profiled: directions of a rung of its profile; 0 for none.
    """

    base_answers: BaseAnswers
    step: InputStep
    queries: int
    by_class: bool
    whole: bool
    profiled: int

    @property
    def rows(self) -> int:
        """Displaced rows for the main directions."""
        return self.queries - 1

    @property
    def view(self) -> VisibleClasses:
        """The measurable classes at the input."""
        return self.base_answers.view

    @property
    def far_from_common(self) -> float | None:
        """How many times the common displacement its own is, where it is more than three times away from it either way."""
        times = self.step.rho / self.steps.displacement
        return None if 1 / MUCH < times < MUCH else times

    @property
    def quantum(self) -> float:
        """What the answers are rounded to, as far as is known or seen here."""
        return max(self.quality.quantum, resolution(self.base_answers.base, self.quality.spacing))

    @property
    def tells(self) -> bool:
        """Whether log-odds along a slope say where the decision will change: not if they jump, are random, or are coarse."""
        coarse = self.space.quantised or self.quality.relative > 0 or self.quantum > FINE
        return self.step.has_slope and not self.quality.random and not coarse

    @property
    def wants_slope(self) -> bool:
        """Whether the gradient towards the nearest other answer is used: to check the radius, or to name features."""
        return self.settings.witness or self.settings.profile != "off" or listed(self.x, MOST_SKETCHED)

    @property
    def flags(self) -> list[str]:
        """What was out of the ordinary before the main directions were asked."""
        return [*self.step.flags, SCREENED] if self.settings.screening else [*self.step.flags]
