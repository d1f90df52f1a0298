"""What an answer is worth: the classes that can be measured, and the noise that rounding or a random model adds.

Work is done on 2 sqrt(p). A class that is rounded to a quantum r carries a variance of r^2 / (12 p) there, as long as it
is ten quanta or more; below that a quantum is a jump and no noise model holds, so such classes are pooled into a rest. The
noise of a random model is measured by asking the same row several times. Merging classes never raises the Fisher
information (data processing), so what is measured on pooled answers is a lower bound, which in practice keeps 98-100 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.grouping import stacked
from fimaudit.estimation.secants import complete, resolution
from fimaudit.number_format import FLOAT64_SPACING, narrowed

__all__ = [
    "REPEATABLE",
    "REPEATABLE_LOGS",
    "REPEATS",
    "SIGNAL",
    "BaseAnswers",
    "Noise",
    "OutputQuality",
    "VisibleClasses",
    "tables_of_each",
]

Array = NDArray[np.float64]

#: From this share of the predicted class's probability on, the spacing of the numbers matters to the gap between two
#: (tests/estimation/test_margin.py: test_the_spacing_of_numbers_counts_beside_a_near_tie).
NEAR = 0.999
#: Differences of probability between answers to the same row, and of its logarithm, up to which they are rounding.
REPEATABLE, REPEATABLE_LOGS = 1e-6, 1e-3
#: Times the base row is asked when the model is random.
REPEATS = 8
#: A rounded class is measurable when it is this many quanta large; a random one when it is this many deviations large
#: (coverage at each: benchmarks/conditions.py).
QUANTA = 10.0
DEVIATIONS = 8.0
#: Standard errors that a probability at the input may be off by, where it is the mean of several answers.
OF_A_MEAN = 2.0
#: Measured energy over noise energy from which a step is long enough: signal 25 times the noise.
SIGNAL = 26.0

#: A thousand trees vote in thousandths: from this step on votes look like rounding (tests/measurement/test_surface.py).
VOTES = 2.0**-10


@dataclass(frozen=True)
class OutputQuality:
    """What the first questions showed about the model's answers.

    Attributes:
        quantum: the answers are rounded to multiples of it; 0 when they are not.
        random: the same row asked twice is answered differently.
        top_k: only so many labels are shown in an answer, the last column being the rest; ``None`` when all are.
        relative: standard deviation of log p, as half-precision arithmetic gives it; 0 when it hardly matters.
        deviation: typical standard deviation of a random model's probabilities, so that few repeats do not look too quiet.
        quantum_unknown: the answers were all 0 and 1, so that their rounding is unknown.
        exact: the answers are surely not rounded, whatever they look like.
        spacing: distance of neighbouring numbers just below 1 in the format of the answers.
        batch_effect, batch_effect_logs: largest difference of probability, and of its log, that other rows in a call made.
        surely_rounded: the pilot saw that rounding made the steps of the answers, not votes.
    """

    quantum: float = 0.0
    random: bool = False
    top_k: int | None = None
    relative: float = 0.0
    deviation: float = 0.0
    quantum_unknown: bool = False
    batch_effect: float = 0.0
    batch_effect_logs: float = 0.0
    exact: bool = False
    spacing: float = FLOAT64_SPACING
    surely_rounded: bool = False

    @property
    def repeats(self) -> int:
        """How often the base row is asked."""
        return REPEATS if self.random else 1

    @property
    def may_be_votes(self) -> bool:
        """Whether answers come in steps so long that trees or neighbours may have made them by their votes, not rounding."""
        return self.quantum >= VOTES and not self.surely_rounded

    def view(self, base: Array, answers: Array) -> VisibleClasses:
        """What can be measured at one input.

        Args:
            base: (repeats, K) answers to the input itself.
            answers: (m, K) answers to its neighbours: they matter where labels drop out of a list.
        """
        base_answers = base[0] if len(base) == 1 else base.mean(axis=0)
        quantum = max(self.quantum, resolution(base_answers[None], self.spacing))
        if quantum == 0 and not self.random and self.top_k is None:
            view = VisibleClasses(base_answers, int(np.argmax(base_answers)), np.arange(len(base_answers)))
            if (base_answers >= NEAR * base_answers[view.top]).sum() > 1:
                view = replace(view, error=np.maximum(_spacing(base_answers), self.batch_effect))
            if self.relative == 0:
                return view
            return replace(view, noise=Noise(self.relative**2 * base_answers * (1 - base_answers), None))
        deviation = (
            np.maximum(base.std(axis=0, ddof=1), self.deviation / 2) if len(base) > 1 else np.zeros(len(base_answers))
        )
        least = np.maximum(QUANTA * quantum, DEVIATIONS * deviation)
        if self.top_k is None:
            top, kept = int(np.argmax(base_answers)), base_answers >= least
            most = (base_answers + quantum / 2 + 3 * deviation)[~kept]
            ceiling = float(most.max()) if most.size else 0.0
        else:
            top = int(np.argmax(base_answers[:-1]))
            shown = np.append((base[:, :-1] > 0).all(axis=0) & (answers[:, :-1] > 0).all(axis=0), False)
            ceiling = float(base_answers[shown].min()) if shown.any() else 1.0
            kept = shown & (base_answers >= least)
        noisy = quantum > 0 or self.random
        error = quantum / 2 + OF_A_MEAN * deviation / np.sqrt(len(base)) if noisy else None
        view = VisibleClasses(
            base_answers, top, np.flatnonzero(kept), ceiling, rest=not kept.all(), noisy=noisy, error=error
        )
        if view.rest:
            left = view.table(base)[:, -1]
            spread = float(left.std(ddof=1)) if len(left) > 1 else 0.0
            if float(left.mean()) <= max(QUANTA * quantum, DEVIATIONS * spread, 1e-300):
                view = replace(view, rest=False)
        if not noisy:
            return view
        variance = residuals = None
        if quantum > 0:
            p = np.maximum(view.table(base_answers[None])[0], quantum)
            terms = np.ones(len(p))
            if view.rest:
                terms[-1] = max(1, len(view.classes))  # the rest is 1 minus all others, each of them rounded
            variance = terms * quantum**2 / (12 * p)
        if len(base) > 1:
            roots = 2 * np.sqrt(view.table(base))
            residuals = (roots - roots.mean(axis=0)) / np.sqrt(len(base) - 1)
        return replace(view, noise=Noise(variance, residuals))


def _spacing(p: Array) -> Array:
    """How far the numbers lie apart in which probabilities came, float32 where it holds all of them."""
    return np.asarray(np.spacing(narrowed(p)), dtype=np.float64)


@dataclass(frozen=True)
class BaseAnswers:
    """What is known at one input before it is displaced.

    Attributes:
        quality: what the answers are worth.
        base: (repeats, K) answers to the input itself.
    """

    quality: OutputQuality
    base: Array

    def view_of(self, answers: Array) -> VisibleClasses:
        """What can be measured, given the answers (m, K) to neighbours, which matter where labels drop out."""
        return self.view if self.quality.top_k is None else self.quality.view(self.base, answers)

    @cached_property
    def plain(self) -> bool:
        """Whether every class can be measured, so that the columns are those of the completed answers."""
        return self.quality.top_k is None and self.view.plain

    @cached_property
    def view(self) -> VisibleClasses:
        """What can be measured as far as the answers to the input itself tell."""
        return self.quality.view(self.base, self.base[:0])


@dataclass(frozen=True)
class Noise:
    """Covariance of one answer's 2 sqrt(p): a diagonal and, where it was sampled, residuals^T residuals."""

    variance: Array | None
    residuals: Array | None

    def along(self, direction: Array) -> float:
        """u^T N u for a direction u (C,) in class space."""
        total = 0.0
        if self.variance is not None:
            total += float((self.variance * direction**2).sum())
        if self.residuals is not None:
            total += float(((self.residuals @ direction) ** 2).sum())
        return total

    @cached_property
    def diagonal(self) -> Array:
        """Variance of each class."""
        parts = []
        if self.variance is not None:
            parts.append(self.variance)
        if self.residuals is not None:
            parts.append((self.residuals**2).sum(axis=0))
        return np.asarray(sum(parts[1:], parts[0]))

    @property
    def spread(self) -> float:
        """Relative standard error of the noise itself: rounding is known, repeats are a sample."""
        return 0.0 if self.residuals is None else float(np.sqrt(2.0 / (len(self.residuals) - 1)))

    @property
    def cautious(self) -> float:
        """Sum over classes, a standard error more than sampled."""
        return self.total * (1 + self.spread)

    @cached_property
    def total(self) -> float:
        """Sum over classes."""
        return float(self.diagonal.sum())


@dataclass(frozen=True)
class VisibleClasses:
    """The measurable classes of one input, the rest pooled, and the noise of an answer.

    Attributes:
        base: (K,) probabilities at the input, averaged over repeats.
        top: the predicted class.
        classes: (C',) measurable classes.
        ceiling: no hidden class has more probability than this.
        rest: whether a last column holds what is left of 1.
        noisy: whether answers are rounded or random, so that small parts of them mean nothing.
        noise: of one answer; ``None`` for exact ones.
        error: (K,) what each of ``base`` may be off by; ``None`` for exact ones, but where classes are all but tied.
    """

    base: Array
    top: int
    classes: NDArray[np.int64]
    ceiling: float = 0.0
    rest: bool = False
    noisy: bool = False
    noise: Noise | None = None
    error: Array | None = None

    def gaps(self, classes: NDArray[np.int64]) -> tuple[Array, Array] | None:
        """Least and largest log(p_top / p_k) >= 0 that the answers to the input allow for each of some classes.

        >>> error = np.full(2, 0.005)  # rounded to 2 decimals
        >>> low, high = VisibleClasses(np.array([0.51, 0.49]), 0, np.arange(2), error=error).gaps(np.arange(2))
        >>> low.round(3).tolist(), high.round(3).tolist()
        ([0.0, 0.02], [0.0, 0.06])
        """
        if self.error is None:
            return None
        p, off, tiny = self.base[classes], self.error[classes], np.finfo(np.float64).tiny
        top, of_top = self.base[self.top], self.error[self.top]
        with np.errstate(divide="ignore"):
            low = np.log(np.maximum(top - of_top, tiny)) - np.log(p + off)
            high = np.log(top + of_top) - np.log(np.maximum(p - off, tiny))
        other = classes != self.top
        return np.where(other, np.maximum(low, 0.0), 0.0), np.where(other, np.maximum(high, 0.0), 0.0)

    @property
    def whole(self) -> bool:
        """Whether no class is hidden."""
        return len(self.classes) == len(self.base)

    @property
    def unmeasurable(self) -> bool:
        """Whether nothing can be measured: the predicted class is hidden, or stands alone."""
        return len(self.classes) + self.rest < 2 or not self.place.size

    @cached_property
    def place(self) -> NDArray[np.int64]:
        """Where the predicted class stands among the columns of ``table``; empty when it is hidden."""
        return np.array([self.top]) if self.whole else np.flatnonzero(self.classes == self.top)

    @property
    def plain(self) -> bool:
        """Whether the measurable columns are those of the completed answers."""
        return self.whole and not self.noisy and not self.unmeasurable

    @cached_property
    def kind(self) -> tuple[int, bool, bool]:
        """What views whose columns are worked on together have in common."""
        return len(self.classes) + self.rest, self.plain, self.unmeasurable

    @cached_property
    def columns(self) -> Array:
        """(C,) measurable columns of the input."""
        return np.asarray(self.table(self.base[None])[0])

    def table(self, answers: Array) -> Array:
        """(m, K) answers to (m, C) measurable columns."""
        if self.whole:
            return answers if self.noisy else complete(answers, self.top)
        kept = answers[:, self.classes]
        if not self.rest:
            return kept
        if self.noisy:
            return np.hstack([kept, np.maximum(1.0 - kept.sum(axis=1, keepdims=True), 0.0)])
        left = np.maximum(np.delete(answers, self.classes, axis=1).sum(axis=1, keepdims=True), 0.0)
        table = np.hstack([kept, left])
        return complete(table, int(self.place[0])) if self.place.size else table

    def with_noise_of(self, answers: Array, repeats: int) -> VisibleClasses:
        """With the noise that repeated answers (rows, each ``repeats`` times in a row) show, where that is the larger."""
        if self.unmeasurable or self.noise is None:
            return self
        roots = 2 * np.sqrt(self.table(answers)).reshape(-1, repeats, len(self.classes) + self.rest)
        scatter = (roots - roots.mean(axis=1, keepdims=True)).reshape(len(answers), -1)
        measured = Noise(None, scatter / np.sqrt(len(roots) * (repeats - 1)))
        return replace(self, noise=measured) if measured.total > self.noise.total else self

    def above_noise(self, energy: float, step: float) -> bool:
        """Whether the energy of secants over ``step`` (of one feature) stands out from the noise."""
        return energy > 0 and (self.noise is None or energy * step**2 >= SIGNAL * self.noise.cautious)


def tables_of_each(views: Sequence[VisibleClasses], answers: Sequence[Array]) -> Array:
    """(n, m, C) measurable columns of n inputs' answers (m, K): of views of one ``kind``.

    >>> view = VisibleClasses(np.array([0.6, 0.4]), 0, np.arange(2))
    >>> tables_of_each([view, view], [np.array([[0.5, 0.25]])] * 2).tolist()
    [[[0.75, 0.25]], [[0.75, 0.25]]]
    """
    if views[0].plain:
        return complete(stacked(answers), np.array([view.top for view in views]))
    return stacked([view.table(one) for view, one in zip(views, answers, strict=True)])
