"""Along which directions an input is displaced: the kinds of them, in the order in which they are tried."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.estimate import Estimate
from fimaudit.estimation.noise import VisibleClasses
from fimaudit.estimation.predictable import TINY
from fimaudit.estimation.secants import contrasts
from fimaudit.estimation.sketch import Exact, Sketch, estimate_sketch, estimate_sketches
from fimaudit.estimation.stopping import Decision, decide_threshold, half_width, next_look, sketch_serves
from fimaudit.measurement.context import DisplacedContext
from fimaudit.measurement.counterexample import Slope
from fimaudit.measurement.deflation import RANDOM, DeflatedRows, deflated_gradient, deflated_rows
from fimaudit.measurement.distances import squared_distances
from fimaudit.measurement.energy import MAIN, Rungs, Signs, displaced, displaced_rungs, draw_signs, joined
from fimaudit.measurement.full_jacobian import WholeJacobian, coordinate_reach, fewest_rows, fits, whole_jacobian
from fimaudit.measurement.least_squares import Pairs, antipodal_pairs, estimate_pairs
from fimaudit.measurement.protocol import BatchedStep, Flow
from fimaudit.perturbations.orthonormal_rows import (
    ORTHONORMAL_FEATURES,
    ORTHONORMAL_LEAST,
    OrthonormalRows,
    orthonormal_fits,
    orthonormal_signs,
)
from fimaudit.perturbations.random_signs import generator
from fimaudit.perturbations.rows import JoinedRows, PlainRows, RandomRows, RowRange

__all__ = ["DESIGNS", "Design", "MainAnswers", "RandomDesign", "first_applicable"]

Array = NDArray[np.float64]

#: Random models at a finite displacement: rows there that are asked again to learn the noise, how often, and how many
#: directions that leaves at least: six or fewer have no finite upper limit.
FAR_ROWS, FAR_REPEATS, FAR_LEAVES = 4, 4, 12
#: Width of a whole Jacobian's interval over its value, from which its two steps disagree by more than curvature explains.
DISAGREE = 0.2
#: Times the 75th percentile of the squared distances from the input, beyond which one lies behind a jump: regimes
#: hash_routing_3 and hash_routing_10 of benchmarks/regimes.py, and its smooth ones, which must not reach it.
FAR_JUMP = 40.0
#: One feature at a time is exact enough while noise adds less than this share to the norm.
BASIS_NOISE = 1e-3


@dataclass(frozen=True)
class MainAnswers:
    """What the main directions of one input showed.

    Attributes:
        design: the kind of directions.
        method: its name in reports.
        view: the measurable classes.
        estimate: the numbers; ``None`` when no answer differs from another.
        answers: (m, K) that limits are drawn from where nothing could be resolved.
        length: root mean square step of one feature, in units of the scale.
        used: rows, the base row included.
        factor: times the largest squared secant that a norm may be, where directions were not random.
        slope: a way to the nearest other answer, where it is known or was wanted.
        gradient: (d,) unbiased, of the log-odds of that answer; and as how many random directions it is noisy, if at all.
        jacobian: (d, C) of 2 sqrt(p), in units of the scale, where single features were asked.
        threshold: on which side of it the spectral norm was decided to lie.
        jumps: whether a few answers lie so far from the input's that they are on the other side of a jump.
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
    jumps: bool = False

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


class Deflated(Design):
    """Exact directions of a given subspace, and random ones in its complement."""

    name = "deflated"

    @cached_property
    def rows(self) -> DeflatedRows | None:
        """``None`` where they do not fit the box or the queries."""
        ctx = self.ctx
        if ctx.subspace is None:
            return None
        subspace = ctx.subspace[: max(0, (ctx.rows - RANDOM) // 2)]  # the leading ones come first
        if not len(subspace):
            return None
        count, orthogonal = ctx.rows - 2 * len(subspace), not ctx.step.heavy
        return deflated_rows(
            ctx.x, ctx.index, ctx.space, ctx.step.rho, count, ctx.settings.seed, subspace, orthogonal=orthogonal
        )

    @property
    def applies(self) -> bool:
        return self.rows is not None

    def measure(self) -> Flow[MainAnswers]:
        ctx, rows = self.ctx, self.rows
        assert rows is not None
        placed, step = rows.exact
        q, view = len(rows.subspace), ctx.view
        answers: Array = yield JoinedRows([PlainRows(placed), rows])
        exact, drawn = Exact(answers[:q], answers[q : 2 * q], step), answers[2 * q :]
        estimate = estimate_sketch(Sketch(view, drawn, rows.size, ctx.settings.confidence, rows.features, exact))
        jumps = some_jump(drawn, ctx.base_answers.base)
        main = MainAnswers(self, self.name, view, estimate, drawn, rows.size, len(answers) + 1, jumps=jumps)
        if not ctx.wants_slope or estimate is None or estimate.margin is None:
            return main
        kept = [int(np.flatnonzero(view.classes == k)[0]) for k in (estimate.margin.rival, view.top)]
        logs = np.log(np.maximum(view.table(answers)[:, kept], TINY))
        odds = logs[:, 0] - logs[:, 1]
        found = deflated_gradient(rows, step, odds[2 * q :], odds[:q] - odds[q : 2 * q])
        return replace(main, slope=found.slope(estimate.margin.radius.value), gradient=(found.whole, found.like))


class FullJacobian(Design):
    """Every feature alone: ``basis-central`` or ``basis-forward`` in reports."""

    name = "basis"
    exact = True

    @property
    def applies(self) -> bool:
        ctx, d = self.ctx, self.ctx.space.features
        if not ctx.by_class or not ctx.whole:
            return False
        settings = ctx.settings
        if sketch_serves(settings.precision, settings.threshold, settings.confidence, fewest_rows(d)):
            return False
        if ctx.step.finite is not None or (ctx.space.quantised and coordinate_reach(ctx.space) > ctx.steps.reach):
            return False
        if ctx.view.noise is None or ctx.step.energy <= 0:
            return True
        # One feature's change of the answers is sqrt(d) times smaller than that of all, and must drown the noise.
        return d**2 * ctx.view.noise.total <= 2 * BASIS_NOISE * ctx.step.rho**2 * ctx.step.energy

    def measure(self) -> Flow[MainAnswers]:
        ctx = self.ctx
        found = yield from self._jacobian()
        slope = _known_slope(found.descent, found.estimate)
        gradient = None if slope is None else (slope.gradient, None)
        base, factor = ctx.base_answers.base, 4.0 * ctx.space.features
        numbers = (found.estimate, base, found.length, found.rows, factor, slope, gradient)
        return MainAnswers(self, found.method, ctx.view, *numbers, jacobian=found.roots)

    def _jacobian(self) -> Flow[WholeJacobian]:
        """As well as the rows allow; with a precision, from as few as serve it."""
        ctx, rows, precision = self.ctx, self.ctx.rows, self.ctx.settings.precision
        least = fewest_rows(ctx.space.features)
        if precision is None or not fits(ctx.space.features, rows - least):
            return (yield from whole_jacobian(ctx.x, ctx.space, ctx.step.rho, rows, ctx.view))
        quick = yield from whole_jacobian(ctx.x, ctx.space, ctx.step.rho, least, ctx.view)
        if quick.estimate is not None and half_width(quick.estimate.spectral) <= precision:
            return quick
        better = yield from whole_jacobian(ctx.x, ctx.space, ctx.step.rho, rows - least, ctx.view)
        return replace(better, rows=better.rows + least)


class LeastSquares(Design):
    """Few features and noisy answers: antipodal pairs of random directions, more than features."""

    name = "least-squares"

    @cached_property
    def pairs(self) -> Pairs | None:
        """``None`` where they do not determine every feature."""
        ctx = self.ctx
        return antipodal_pairs(ctx.x, ctx.index, ctx.space, ctx.step.rho, ctx.rows, ctx.settings.seed)

    @property
    def applies(self) -> bool:
        ctx = self.ctx
        # A step of its own may bend the answers.
        linear = ctx.step.finite is None and ctx.step.above_noise and ctx.step.rho == ctx.steps.displacement
        return linear and ctx.by_class and not ctx.settings.adaptive and self.pairs is not None

    def measure(self) -> Flow[MainAnswers]:
        assert self.pairs is not None
        answers = yield self.pairs.rows
        estimate, descent = estimate_pairs(self.ctx.view, self.pairs, answers, self.ctx.settings.confidence)
        slope = _known_slope(descent, estimate)
        gradient = None if slope is None else (slope.gradient, len(answers))
        main = MainAnswers(self, self.name, self.ctx.view, estimate, answers, self.pairs.length, len(answers) + 1)
        jumps = not self.ctx.quality.random and some_jump(answers, self.ctx.base_answers.base)
        return replace(main, slope=slope, gradient=gradient, jumps=jumps)


class RandomDesign(Design):
    """Random directions, from which the numbers are estimated with the limits of sampling.

    Attributes:
        orthogonal: whether they are orthogonal to each other.
    """

    orthogonal: ClassVar[bool] = False

    @abstractmethod
    def rows_at(self, rho: float) -> RandomRows:
        """All directions at a displacement."""

    @abstractmethod
    def first_at(self, rhos: Sequence[float], count: int) -> Rungs:
        """The first so many of them at several displacements."""

    @cached_property
    def repeated(self) -> int:
        """Rows that are asked again to learn the noise, which may be another than at the input."""
        if not self.ctx.quality.random or self.ctx.step.finite is None:
            return 0
        return max(0, min(FAR_ROWS, (self.ctx.rows - FAR_LEAVES) // FAR_REPEATS))

    @property
    def count(self) -> int:
        """Directions."""
        return self.ctx.rows - self.repeated * FAR_REPEATS

    @cached_property
    def rows(self) -> RandomRows:
        """The main rows."""
        return self.rows_at(self.ctx.step.rho)

    def measure(self) -> Flow[MainAnswers]:
        ctx, rows = self.ctx, self.rows
        again: Array | None = None
        if self.repeated:
            again = yield PlainRows(np.repeat(rows.build(0, self.repeated), FAR_REPEATS, axis=0))
        threshold: Decision | None = None
        if ctx.settings.adaptive:
            answers, threshold = yield from self._until_known(again)
            used = len(answers) + 1
        else:
            answers = yield rows
            used = len(answers) + self.repeated * FAR_REPEATS + 1
        sketch = self._sketch(answers, again)
        estimate: Estimate | None = yield BatchedStep(estimate_sketches, sketch)
        main = MainAnswers(
            self, self.name, sketch.view, estimate, answers, sketch.length, used, threshold=threshold,
            jumps=not ctx.quality.random and some_jump(answers, ctx.base_answers.base),
        )  # fmt: skip
        if not ctx.wants_slope or estimate is None or estimate.margin is None:
            return main
        slope = Slope.of_rows(rows, ctx.space, sketch.view, answers, estimate.margin)
        return replace(main, slope=slope, gradient=(slope.gradient, used - 1))

    def _sketch(self, answers: Array, again: Array | None) -> Sketch:
        view = self.ctx.base_answers.view_of(answers)
        if again is not None:
            view = view.with_noise_of(again, FAR_REPEATS)
        features = self.ctx.space.features if self.orthogonal else None
        return Sketch(view, answers, self._length, self.ctx.settings.confidence, features)

    @cached_property
    def _length(self) -> float:
        """Root mean square step of one feature as it was really sent."""
        return self.ctx.space.length(self.rows.sent())

    def _until_known(self, again: Array | None) -> Flow[tuple[Array, Decision | None]]:
        """Ask bit by bit until the interval is narrow enough, or the threshold is decided, or all rows are asked."""
        rows, settings = self.rows, self.ctx.settings
        answers: Array = yield RowRange(rows, 0, next_look(0, len(rows)))
        while True:
            sketch, away = self._sketch(answers, again), None
            if settings.precision is not None:
                estimate: Estimate | None = yield BatchedStep(estimate_sketches, sketch)
                if estimate is not None:
                    away = half_width(self.ctx.step.widened(estimate).spectral) / settings.precision
                    if away <= 1.0:
                        return answers, None
            if settings.threshold is not None and not sketch.view.unmeasurable and sketch.length > 0:
                y = contrasts(np.sqrt(sketch.view.table(answers)) * (2.0 / sketch.length))
                decision = decide_threshold(y, settings.threshold, 1.0 - settings.confidence)
                if decision is not None:
                    return answers, decision
            if len(answers) == len(rows):
                return answers, None
            more = yield RowRange(rows, len(answers), next_look(len(answers), len(rows), away))
            answers = np.concatenate([answers, more])


class Orthonormal(RandomDesign):
    """Random directions orthogonal to each other.

    They serve linear answers. Over a long step one set of them would meet the same bends together, and their rows, which are
    no mere signs, would need the input moved farther from the edges of the box.
    """

    name = "orthonormal"
    orthogonal = True

    @property
    def applies(self) -> bool:
        space = self.ctx.space
        return not space.quantised and not self.ctx.step.heavy and orthonormal_fits(self.count, space.features)

    @property
    def count(self) -> int:
        """All but one where the rows are a few short of the whole Jacobian."""
        d, rows = self.ctx.space.features, self.ctx.rows
        short = ORTHONORMAL_LEAST < d <= rows <= ORTHONORMAL_FEATURES and not self.ctx.whole
        return d - 1 if short else super().count

    @cached_property
    def _drawn(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        rng = generator(self.ctx.settings.seed, self.ctx.index, MAIN)
        return orthonormal_signs(rng, self.count, self.ctx.space.features)

    def rows_at(self, rho: float) -> OrthonormalRows:
        space = self.ctx.space
        return OrthonormalRows(self.ctx.x, *self._drawn, space.step(rho), space.box, space.dtype)

    def first_at(self, rhos: Sequence[float], count: int) -> Rungs:
        return joined(self.ctx.space, [self.rows_at(rho).first(count) for rho in rhos])


class Rademacher(RandomDesign):
    """Independent random signs."""

    name = "rademacher"

    @property
    def applies(self) -> bool:
        return True

    @cached_property
    def _signs(self) -> Signs:
        return draw_signs(self.ctx.settings.seed, self.ctx.index, MAIN, self.count, self.ctx.x.size)

    def rows_at(self, rho: float) -> RandomRows:
        return displaced(self.ctx.x, self.ctx.space, self._signs, rho)

    def first_at(self, rhos: Sequence[float], count: int) -> Rungs:
        return displaced_rungs(self.ctx.x, self.ctx.space, self._signs.first(count), rhos)


class Quantised(Rademacher):
    """The same on the levels of features that have some."""

    name = "levels"

    @property
    def applies(self) -> bool:
        return self.ctx.space.quantised


#: In the order in which they are tried.
DESIGNS: tuple[type[Design], ...] = (Deflated, FullJacobian, LeastSquares, Orthonormal, Quantised, Rademacher)


def some_jump(answers: Array, base: Array) -> bool:
    """Whether the farthest of (m, K) answers lies behind a jump, seen from those to the input itself (repeats, K).

    >>> near = np.random.default_rng(0).normal(0.5, 1e-3, (50, 1))
    >>> some_jump(np.hstack([near, 1 - near]), np.array([[0.5, 0.5]]))
    False
    >>> near[7] = 0.8
    >>> some_jump(np.hstack([near, 1 - near]), np.array([[0.5, 0.5]]))
    True
    """
    distances = squared_distances(answers, base.mean(axis=0))
    return bool(distances.max() > FAR_JUMP * np.percentile(distances, 75) > 0)


def _known_slope(descent: Array | None, estimate: Estimate | None) -> Slope | None:
    """The way to another answer, where the whole Jacobian is known."""
    if descent is None or estimate is None or estimate.margin is None:
        return None
    return Slope(descent, estimate.margin.radius.value)
