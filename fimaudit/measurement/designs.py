"""Along which directions an input is displaced: the kinds of them, in the order in which they are tried."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.estimate import Estimate
from fimaudit.estimation.predictable import TINY
from fimaudit.estimation.sketch import Exact, Sketch, estimate_sketch
from fimaudit.estimation.stopping import sketch_serves
from fimaudit.measurement.counterexample import Slope
from fimaudit.measurement.deflation import RANDOM, DeflatedRows, deflated_gradient, deflated_rows
from fimaudit.measurement.design import Design, MainAnswers
from fimaudit.measurement.distances import squared_distances
from fimaudit.measurement.full_jacobian import WholeJacobian, coordinate_reach, fewest_rows, fits, whole_jacobian
from fimaudit.measurement.least_squares import Pairs, antipodal_pairs, estimate_pairs
from fimaudit.measurement.protocol import Flow
from fimaudit.measurement.random_designs import Orthonormal, Quantised, Rademacher
from fimaudit.perturbations.rows import JoinedRows, PlainRows

__all__ = ["DESIGNS"]

Array = NDArray[np.float64]

#: One feature at a time is exact enough while noise adds less than this share to the norm.
BASIS_NOISE = 1e-3


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
        return self.ctx.subspace is not None and self.rows is not None

    def measure(self) -> Flow[MainAnswers]:
        ctx, rows = self.ctx, self.rows
        assert rows is not None
        placed, step = rows.exact
        q, view = len(rows.subspace), ctx.view
        answers: Array = yield JoinedRows([PlainRows(placed), rows])
        exact, drawn = Exact(answers[:q], answers[q : 2 * q], step), answers[2 * q :]
        estimate = estimate_sketch(Sketch(view, drawn, rows.size, ctx.settings.confidence, rows.features, exact))
        away = squared_distances(drawn, ctx.base_answers.base.mean(axis=0))
        main = MainAnswers(self, self.name, view, estimate, drawn, rows.size, len(answers) + 1, distances=away)
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
        unsure = found.rounding_error(ctx.view)
        return MainAnswers(self, found.method, ctx.view, *numbers, jacobian=found.roots, unsure=unsure)

    def _jacobian(self) -> Flow[WholeJacobian]:
        """As well as the rows allow; with a precision, from as few as serve it."""
        ctx = self.ctx
        rows, precision = ctx.rows, ctx.settings.precision
        least = fewest_rows(ctx.space.features)
        if precision is None or not fits(ctx.space.features, rows - least):
            return (yield from self._whole(rows))
        quick = yield from self._whole(least)
        if quick.estimate is not None:  # with all that the reported interval allows for, as far as it is known by now
            allowed = ctx.step.widened(quick.estimate, exact=True).widened(quick.rounding_error(ctx.view))
            if allowed.spectral.relative_half_width <= precision:
                return quick
        better = yield from self._whole(rows - least)
        return replace(better, rows=better.rows + least)

    def _whole(self, rows: int) -> Flow[WholeJacobian]:
        ctx = self.ctx
        return whole_jacobian(ctx.x, ctx.space, ctx.step.rho, rows, ctx.view)


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
        base = self.ctx.base_answers.base.mean(axis=0)
        away = None if self.ctx.quality.random else squared_distances(answers, base)
        return replace(main, slope=slope, gradient=gradient, distances=away)


#: In the order in which they are tried.
DESIGNS: tuple[type[Design], ...] = (Deflated, FullJacobian, LeastSquares, Orthonormal, Quantised, Rademacher)


def _known_slope(descent: Array | None, estimate: Estimate | None) -> Slope | None:
    """The way to another answer, where the whole Jacobian is known."""
    if descent is None or estimate is None or estimate.margin is None:
        return None
    return Slope(descent, estimate.margin.radius.value)
