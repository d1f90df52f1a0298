"""What a kind of directions is, and what the answers along them showed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.estimate import Estimate
from fimaudit.estimation.noise import VisibleClasses
from fimaudit.estimation.stopping import Decision
from fimaudit.measurement.context import DisplacedContext
from fimaudit.measurement.counterexample import Slope
from fimaudit.measurement.distances import spread
from fimaudit.measurement.protocol import Flow

__all__ = ["Design", "MainAnswers", "bends", "first_applicable", "some_jump"]

Array = NDArray[np.float64]

#: Width of a whole Jacobian's interval over its value, from which its two steps disagree by more than curvature explains.
DISAGREE = 0.2
#: Times the 75th percentile of the squared distances from the input, beyond which one lies behind a jump: regimes
#: hash_routing_3 and hash_routing_10 of benchmarks/regimes.py, and its smooth ones, which must not reach it.
FAR_JUMP = 40.0
#: Mean squared distance in sqrt(p) from the mean that no local displacement makes: linear models, however rounded, stay
#: below 0.03 (tests/measurement/test_number_formats.py).
FAR_AWAY = 0.05


@dataclass(frozen=True)
class MainAnswers:
    """What the main directions of one input showed.

    Attributes:
        design: the kind of directions.
        method: its name in reports.
        view: the measurable classes.
        estimate: the numbers; ``None`` when no answer differs from another.
        answers: (m, K) that limits are drawn from where nothing rose above the noise.
        length: root mean square step of one feature, in units of the scale.
        used: rows, the base row included.
        factor: times the largest squared secant that a norm may be, where directions were not random.
        slope: a way to the nearest other answer, where it is known or was wanted.
        gradient: (d,) unbiased, of the log-odds of that answer; and as how many random directions it is noisy, if at all.
        jacobian: (d, C) of 2 sqrt(p), in units of the scale, where single features were asked.
        threshold: on which side of it the spectral norm was decided to lie.
        distances: (m,) squared, in sqrt(p), of the answers from those to the input, where jumps are looked for.
        unsure: relative error of the norms that the limits do not hold yet.
    """

    design: Design
    method: str
    view: VisibleClasses
    estimate: Estimate | None
    answers: Array
    length: float
    used: int
    factor: float | None = None
    slope: Slope | None = None
    gradient: tuple[Array, int | None] | None = None
    jacobian: Array | None = None
    threshold: Decision | None = None
    distances: Array | None = None
    unsure: float = 0.0

    @cached_property
    def jumps(self) -> bool:
        """Whether a few answers lie so far from the input's that they are on the other side of a jump."""
        return self.distances is not None and some_jump(self.distances)

    @property
    def bends(self) -> bool:
        """Whether the answers lie farther from each other than the slope of any probabilities leads."""
        return bends(self.answers, self.distances)

    @property
    def steps_disagree(self) -> bool:
        """Whether the two steps of a whole Jacobian do."""
        if not self.design.exact or self.estimate is None:
            return False
        both = [self.estimate.spectral, *([] if self.estimate.margin is None else [self.estimate.margin.radius])]
        return any(limits.upper - limits.lower > DISAGREE * limits.value for limits in both)


class Design(ABC):
    """One kind of directions at one input. What ``applies`` draws, ``measure`` sends.

    Args:
        ctx: the input.

    Attributes:
        name: in reports.
        exact: whether every feature is measured, at two steps, so that only the step's error is left.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = False

    def __init__(self, ctx: DisplacedContext) -> None:
        self.ctx = ctx

    @property
    @abstractmethod
    def applies(self) -> bool:
        """Whether the input can be measured like this, and is if no design before this one can be used."""

    @abstractmethod
    def measure(self) -> Flow[MainAnswers]:
        """Ask, and estimate."""


def first_applicable(designs: Sequence[type[Design]], ctx: DisplacedContext) -> Design:
    """The first that applies; the last one always does."""
    return next(design for design in (kind(ctx) for kind in designs) if design.applies)


def some_jump(distances: Array) -> bool:
    """Whether the farthest of answers lies behind a jump, from the squared distances (m,) of all from the input's.

    >>> near = np.random.default_rng(0).normal(0.5, 1e-3, 50) ** 2
    >>> some_jump(near)
    False
    >>> near[7] = 40.0
    >>> some_jump(near)
    True
    """
    place, largest = 3 * (len(distances) - 1) // 4, float(distances.max())
    if largest <= FAR_JUMP * np.partition(distances, place)[place]:  # nearly always, and the percentile is no smaller
        return False
    return bool(largest > FAR_JUMP * np.percentile(distances, 75) > 0)


def bends(answers: Array, distances: Array | None = None) -> bool:
    """Whether (m, K) answers at displaced inputs lie farther from each other than the slope of any probabilities leads.

    Args:
        answers: to the displaced inputs.
        distances: (m,) squared, in sqrt(p), of the answers from one of all, such as the input's, where they are known.

    >>> ahead = np.array([0.5, 0.3, 0.52, 0.28])
    >>> bends(np.stack([ahead, 1 - ahead], axis=1)), bends(np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]))
    (False, True)
    """
    # |sqrt(a) - sqrt(b)|^2 <= |a - b|, and no point is nearer to all than their mean.
    total = np.abs(answers - answers[:1]).sum() if distances is None else distances.sum()
    return bool(total > FAR_AWAY * len(answers)) and bool(spread(answers).mean() > FAR_AWAY)  # hardly ever far from any
