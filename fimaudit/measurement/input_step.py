"""One input's displacement: the common one where the input answers linearly there and above the noise, else its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fimaudit.domain import Space
from fimaudit.estimation.noise import SIGNAL, BaseAnswers, VisibleClasses
from fimaudit.measurement.context import InputContext, InputStep
from fimaudit.measurement.energy import (
    FACTOR,
    Answered,
    Signs,
    around,
    displaced_rungs,
    draw_pairs,
    energies,
    energies_above_noise,
    energies_above_noise_each,
)
from fimaudit.measurement.ladder import CHECK_PAIRS
from fimaudit.measurement.pilot import LEVEL_CHANGE
from fimaudit.measurement.plateau import find_plateau
from fimaudit.measurement.protocol import BatchedStep, Flow
from fimaudit.perturbations.rows import JoinedRows, PlainRows

__all__ = ["MOST_SPENT", "find_step"]

Array = NDArray[np.float64]

CHECK_CHANGE = 0.10
OWN_RUNGS = 4
#: Rows that finding an input's displacement takes at most: the check, and a whole ladder around it.
MOST_SPENT = 2 * CHECK_PAIRS * (2 + 2 * OWN_RUNGS - 1)
#: An input whose energy changes by more than this between all neighbouring rungs has no local value worth the name.
UNSTABLE = 0.5
#: From this ratio of signal to noise on, noise does not choose the displacement.
NOISE_FREE = 1e3


@dataclass(frozen=True)
class _Check:
    """What is known of an input whose displacement is looked for.

    Attributes:
        ctx: the input.
        signs: directions of the check.
        base_answers: the answers to the input itself.
    """

    ctx: InputContext
    signs: Signs
    base_answers: BaseAnswers

    def energies(self, rungs: Array) -> Flow[tuple[Array, NDArray[np.bool_]]]:
        """Energy along these directions at each displacement, and whether it stands out from the noise."""
        return energies(self.ctx.x, self.ctx.space, self.signs, rungs, self.base_answers)


def find_step(ctx: InputContext) -> Flow[tuple[BaseAnswers, InputStep]]:
    """The answers to the input itself, and a displacement at which it answers linearly and above the noise."""
    quality, space, rho = ctx.quality, ctx.space, ctx.steps.displacement
    itself = PlainRows(ctx.repeated(quality.repeats))
    if ctx.steps.kind == "finite_scale":
        base = yield itself
        why = "the answers are piecewise constant, so a local value does not exist"
        return BaseAnswers(quality, base), InputStep(rho, finite=why, heavy=True)
    signs = draw_pairs(ctx.settings.seed, ctx.index, 2 * CHECK_PAIRS, ctx.x.size)
    rungs = around(ctx.x, space, signs, rho)
    answers = yield JoinedRows([itself, rungs.rows])
    base_answers, around_it = BaseAnswers(quality, answers[: quality.repeats]), answers[quality.repeats :]
    energy, above_noise = yield BatchedStep(energies_above_noise_each, Answered(rungs, around_it, base_answers))
    spent = 2 * len(signs)
    short, long = float(energy[0]), float(energy[1])
    check, view, change = _Check(ctx, signs, base_answers), base_answers.view_of(around_it), _change(short, long)
    if view.noise is not None and not above_noise[0]:
        step = yield from _step_above_noise(check, view, long, bool(above_noise[1]))
    elif change <= (LEVEL_CHANGE if space.quantised else CHECK_CHANGE):
        step = InputStep(rho, change, energy=float(energy.mean()))
    elif view.noise is not None and energy[0] * rungs.lengths[0] ** 2 < NOISE_FREE * view.noise.total:
        growth = _growth(short, long, FACTOR**2)
        step = _least(view, float(rungs.lengths[0]), space, (short, long), growth, ctx.steps.finest)
    elif space.quantised:
        step = yield from _own_levels(check, change)
    else:
        step = yield from _own_step(check, energy, above_noise)
    return base_answers, replace(step, spent=step.spent + spent)


def _own_levels(check: _Check, change: float) -> Flow[InputStep]:
    """With levels: go down to the sparsest directions, and if even they do not answer linearly, name the scale."""
    ctx = check.ctx
    rho, spent, energy = ctx.steps.displacement, 0, 0.0
    if rho > ctx.space.shortest:
        rho = ctx.space.shortest
        rungs = around(ctx.x, ctx.space, check.signs, rho)
        answers = yield rungs.rows
        found, above_noise = energies_above_noise(Answered(rungs, answers, check.base_answers))
        spent, energy, change = len(answers), float(found[0]), _change(*np.where(above_noise, found, 0.0))
    if change <= 2 * LEVEL_CHANGE:
        return InputStep(rho, change, spent=spent, energy=energy, flags=("own_step",))
    why = "the shortest displacement that the input's levels allow is past the linear range"
    return InputStep(rho, 0.0, why, spent, energy, heavy=True)


def _step_above_noise(check: _Check, view: VisibleClasses, energy: float, above_noise: bool) -> Flow[InputStep]:
    """The shortest displacement from the common one on at which the signal is 25 times the noise.

    Args:
        check: the input.
        view: the measurable classes there.
        energy: at three times the common displacement.
        above_noise: whether that stands out.
    """
    ctx, steps = check.ctx, check.ctx.steps
    rho, at = steps.displacement, FACTOR * steps.displacement
    shortest, reach, before = rho, np.inf, 0.0
    spent, following = 0, 0.0
    if not view.unmeasurable:
        powers = np.array([2.0]) if above_noise else np.arange(2.0, OWN_RUNGS + 1)
        rungs = rho * FACTOR**powers
        more, more_above = yield from check.energies(rungs)
        spent = len(rungs) * len(check.signs)
        if above_noise:
            following = float(more[0])
        elif more_above.any():
            first = int(np.argmax(more_above))
            before = float(more[first - 1]) if first else energy
            above_noise, energy, at = True, float(more[first]), float(rungs[first])
            # It did not stand out at a third of that, and what is seen so far away may be of there alone.
            shortest, reach = at / FACTOR, steps.reach if _change(before, energy) <= 2 * CHECK_CHANGE else 0.0
            following = float(more[first + 1]) if first + 1 < len(rungs) else 0.0
    if not above_noise or view.noise is None:
        far = steps.reach if np.isfinite(steps.reach) and steps.reach > 0 else rho
        return InputStep(far, spent=spent, above_noise=False)
    h = float(displaced_rungs(ctx.x, ctx.space, check.signs, [at]).lengths[0])
    growth = max(_growth(energy, following, FACTOR), _growth(before, energy, FACTOR))
    return replace(_least(view, h, ctx.space, (energy, following), growth, shortest, reach), spent=spent)


def _least(
    view: VisibleClasses,
    h: float,
    space: Space,
    energy: tuple[float, float],
    growth: float,
    shortest: float,
    reach: float = np.inf,
) -> InputStep:
    """The shortest displacement at which the signal is 25 times the noise, from the energies at steps h and beyond.

    The energy is taken to fall below h as steeply as it rises about it, by the power ``growth``. The value found is local up
    to ``reach``, where the two energies differ little.
    """
    assert view.noise is not None
    at = h * float(np.sqrt(space.features))
    own = max(shortest, at * float((SIGNAL * view.noise.cautious / (energy[0] * h**2)) ** (1.0 / (2.0 + growth))))
    # From ``at`` to the longer displacement the energy changes by this much; what is left of it at ``own``:
    bend = _change(*energy) / 2 * min(1.0, own / at)
    if bend <= CHECK_CHANGE and own <= reach:
        return InputStep(own, 2 * bend, energy=energy[0], heavy=True, flags=("own_step",))
    why = "the noise of the answers hides the local value"
    return InputStep(own, finite=why, energy=energy[0], heavy=True, flags=("own_step",))


def _growth(short: float, long: float, factor: float) -> float:
    """The power of the displacement with which the energy rises over such a factor; 0 where it falls, or is not known."""
    return max(0.0, float(np.log(long / short) / np.log(factor))) if short > 0 and long > 0 else 0.0


def _change(short: float, long: float) -> float:
    """|log| of the ratio of the energies at a third and at three times the displacement."""
    if short == 0 or long == 0:
        return 0.0 if short == long else float("inf")
    return abs(float(np.log(short / long)))


def _own_step(check: _Check, known: Array, above_noise: NDArray[np.bool_]) -> Flow[InputStep]:
    """The best rung of one input, on a ladder of thirds around the common displacement, and the change of energy there.

    Args:
        check: the input.
        known: (2,) energies at a third and at three times the common displacement.
        above_noise: (2,) whether they stand out.
    """
    rho = check.ctx.steps.displacement
    powers = np.arange(-OWN_RUNGS, OWN_RUNGS + 1)
    rungs = rho * FACTOR ** powers.astype(float)
    energy = np.zeros(len(rungs))
    beside = np.abs(powers) == 1
    energy[beside] = np.where(above_noise, known, 0.0)
    missing = ~beside
    more, more_above = yield from check.energies(rungs[missing])
    energy[missing] = np.where(more_above, more, 0.0)
    spent = int(missing.sum()) * len(check.signs)
    plateau = find_plateau(energy[None], rungs, CHECK_CHANGE)
    if plateau is None:
        return InputStep(rho, float("inf"), spent=spent, energy=float(known.max()), flags=("unstable_step",))
    change, own, level = plateau.change, plateau.displacement, float(energy[plateau.first])
    if change <= UNSTABLE:
        return InputStep(own, change, None, spent, level, flags=("own_step",))
    exact = check.base_answers.view.noise is None  # with noise an energy that has no plateau is noise
    return InputStep(own, change, None, spent, level, above_noise=exact, flags=("unstable_step",))
