"""Random directions: orthogonal to each other, of independent signs, or on levels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.estimate import Estimate
from fimaudit.estimation.secants import contrasts
from fimaudit.estimation.sketch import Sketch, estimate_sketches
from fimaudit.estimation.stopping import Decision, decide_threshold, next_look
from fimaudit.measurement.counterexample import Slope
from fimaudit.measurement.design import Design, MainAnswers
from fimaudit.measurement.distances import squared_distances
from fimaudit.measurement.energy import MAIN, Rungs, Signs, displaced, displaced_rungs, draw_signs, joined
from fimaudit.measurement.protocol import BatchedStep, Flow
from fimaudit.perturbations.orthonormal_rows import (
    ORTHONORMAL_FEATURES,
    ORTHONORMAL_LEAST,
    OrthonormalRows,
    orthonormal_fits,
    orthonormal_signs,
)
from fimaudit.perturbations.random_signs import generator
from fimaudit.perturbations.rows import PlainRows, RandomRows, RowRange

__all__ = ["Orthonormal", "Quantised", "Rademacher", "RandomDesign"]

Array = NDArray[np.float64]

#: Random models at a finite displacement: rows there that are asked again to learn the noise, how often, and how many
#: directions that leaves at least: six or fewer have no finite upper limit.
FAR_ROWS, FAR_REPEATS, FAR_LEAVES = 4, 4, 12


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
            distances=None if ctx.quality.random else squared_distances(answers, ctx.base_answers.base.mean(axis=0)),
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
                    away = self.ctx.step.widened(estimate).spectral.relative_half_width / settings.precision
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
    def _drawn(self) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        rng = generator(self.ctx.settings.seed, self.ctx.index, MAIN)
        return orthonormal_signs(rng, self.count, self.ctx.space.features)

    def rows_at(self, rho: float, count: int | None = None) -> OrthonormalRows:
        space, (chosen, per_feature, per_row) = self.ctx.space, self._drawn
        drawn = (chosen[:count], per_feature, per_row[:count])
        return OrthonormalRows(self.ctx.x, *drawn, space.shared_step(rho), space.box, space.dtype, self.ctx.settings.seed)

    def first_at(self, rhos: Sequence[float], count: int) -> Rungs:
        return joined(self.ctx.space, [self.rows_at(rho, count) for rho in rhos])


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
