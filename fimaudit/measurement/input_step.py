"""One input's displacement: the common one where the input answers linearly there and above the noise, else its own."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.domain import Space
from fimaudit.estimation.noise import SIGNAL, BaseAnswers, OutputQuality, VisibleClasses
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
from fimaudit.measurement.pilot import LEVEL_CHANGE, Steps
from fimaudit.measurement.plateau import STILL, find_plateau
from fimaudit.measurement.protocol import BatchedStep
from fimaudit.perturbations.rows import JoinedRows, PlainRows, Rows

__all__ = ["MOST_SPENT", "InputStep", "choose_displacement"]

Array = NDArray[np.float64]

CHECK_CHANGE = 0.10
OWN_RUNGS = 4
#: Rows that finding an input's displacement takes at most: the check, and a whole ladder around it.
MOST_SPENT = 2 * CHECK_PAIRS * (2 + 2 * OWN_RUNGS - 1)
#: An input whose energy changes by more than this between all neighbouring rungs has no local value worth the name.
UNSTABLE = 0.5
#: From this ratio of signal to noise on, noise does not choose the displacement.
NOISE_FREE = 1e3


@dataclass
class InputStep:
    """The displacement of one input, and what finding it took.

    Attributes:
        rho: l2 length in units of the scale.
        change: of log energy between a third and three times the displacement, what a value may be off by.
        finite: why the value is one at a finite scale; ``None`` where it is local.
        spent: rows that finding it took, the base row not counted.
        energy: of the secants there.
        clear: whether the answers stand out from the noise.
        heavy: whether secants may scatter more than those of a linear function.
        flags: what was out of the ordinary.
    """

    rho: float
    change: float = 0.0
    finite: str | None = None
    spent: int = 0
    energy: float = 0.0
    above_noise: bool = True
    heavy: bool = False
    flags: list[str] = field(default_factory=list)

    @property
    def error(self) -> float:
        """Relative error that the step leaves: what a plateau may move, half to either side, and what the check saw."""
        return STILL / 2 + self.change


def choose_displacement(
    x: NDArray[np.floating], index: int, space: Space, steps: Steps, seed: int, quality: OutputQuality
) -> Generator[Rows | BatchedStep, Any, tuple[BaseAnswers, InputStep]]:
    """The answers to the input itself, and a displacement at which it answers linearly and above the noise.

    Args:
        x, index, space, steps: as for ``measurement.measure``.
        seed: of the audit.
        quality: what the answers are worth.
    """
    itself = PlainRows(np.repeat(x.astype(space.dtype)[None], quality.repeats, axis=0))
    rho = steps.displacement
    if steps.kind == "finite_scale":
        base = yield itself
        why = "the answers are piecewise constant, so a local value does not exist"
        return BaseAnswers(quality, base), InputStep(rho, finite=why, heavy=True)
    signs = draw_pairs(seed, index, 2 * CHECK_PAIRS, x.size)
    rungs = around(x, space, signs, rho)
    answers = yield JoinedRows([itself, rungs.rows])
    base_answers, around_it = BaseAnswers(quality, answers[: quality.repeats]), answers[quality.repeats :]
    energy, above_noise = yield BatchedStep(energies_above_noise_each, Answered(rungs, around_it, base_answers))
    spent = 2 * len(signs)
    view = base_answers.view_of(around_it)
    if view.noise is not None and not above_noise[0]:
        step = yield from _above_noise(x, space, signs, steps, base_answers, view, (float(energy[1]), bool(above_noise[1])))
        step.spent += spent
        return base_answers, step
    change = _change(*energy)
    if change <= (LEVEL_CHANGE if space.quantised else CHECK_CHANGE):
        return base_answers, InputStep(rho, change, spent=spent, energy=float(energy.mean()))
    if view.noise is not None and energy[0] * rungs.lengths[0] ** 2 < NOISE_FREE * view.noise.total:
        growth = _growth(float(energy[0]), float(energy[1]), FACTOR**2)
        step = _least(view, float(rungs.lengths[0]), space, (float(energy[0]), float(energy[1])), growth, steps.finest)
    elif space.quantised:
        step = yield from _own_levels(x, space, signs, rho, change, base_answers)
    else:
        step = yield from _own_step(x, space, signs, rho, energy, above_noise, base_answers)
    step.spent += spent
    return base_answers, step


def _own_levels(
    x: NDArray[np.floating], space: Space, signs: Signs, rho: float, change: float, base_answers: BaseAnswers
) -> Generator[Rows, Array, InputStep]:
    """With levels: go down to the sparsest directions, and if even they do not answer linearly, name the scale."""
    spent, energy = 0, 0.0
    if rho > space.shortest:
        rho = space.shortest
        rungs = around(x, space, signs, rho)
        answers = yield rungs.rows
        found, above_noise = energies_above_noise(Answered(rungs, answers, base_answers))
        spent, energy, change = len(answers), float(found[0]), _change(*np.where(above_noise, found, 0.0))
    if change <= 2 * LEVEL_CHANGE:
        return InputStep(rho, change, spent=spent, energy=energy, flags=["own_step"])
    why = "the shortest displacement that the input's levels allow is past the linear range"
    return InputStep(rho, 0.0, why, spent, energy, heavy=True)


def _above_noise(
    x: NDArray[np.floating],
    space: Space,
    signs: Signs,
    steps: Steps,
    base_answers: BaseAnswers,
    view: VisibleClasses,
    long: tuple[float, bool],
) -> Generator[Rows, Array, InputStep]:
    """The shortest displacement from the common one on at which the signal is 25 times the noise."""
    rho, at = steps.displacement, FACTOR * steps.displacement
    shortest, reach, before = rho, np.inf, 0.0
    energy, above_noise = long
    spent, following = 0, 0.0
    if not view.unmeasurable:
        powers = np.array([2.0]) if above_noise else np.arange(2.0, OWN_RUNGS + 1)
        rungs = rho * FACTOR**powers
        more, more_above = yield from energies(x, space, signs, rungs, base_answers)
        spent = len(rungs) * len(signs)
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
    h = float(displaced_rungs(x, space, signs, [at]).lengths[0])
    growth = max(_growth(energy, following, FACTOR), _growth(before, energy, FACTOR))
    step = _least(view, h, space, (energy, following), growth, shortest, reach)
    step.spent = spent
    return step


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
        return InputStep(own, 2 * bend, energy=energy[0], heavy=True, flags=["own_step"])
    why = "the noise of the answers hides the local value"
    return InputStep(own, finite=why, energy=energy[0], heavy=True, flags=["own_step"])


def _growth(short: float, long: float, factor: float) -> float:
    """The power of the displacement with which the energy rises over such a factor; 0 where it falls, or is not known."""
    return max(0.0, float(np.log(long / short) / np.log(factor))) if short > 0 and long > 0 else 0.0


def _change(short: float, long: float) -> float:
    """|log| of the ratio of the energies at a third and at three times the displacement."""
    if short == 0 or long == 0:
        return 0.0 if short == long else float("inf")
    return abs(float(np.log(short / long)))


def _own_step(
    x: NDArray[np.floating],
    space: Space,
    signs: Signs,
    rho: float,
    known: Array,
    above_noise: NDArray[np.bool_],
    base_answers: BaseAnswers,
) -> Generator[Rows, Array, InputStep]:
    """The best rung of one input, on a ladder of thirds around the common displacement, and the change of energy there."""
    powers = np.arange(-OWN_RUNGS, OWN_RUNGS + 1)
    rungs = rho * FACTOR ** powers.astype(float)
    energy = np.zeros(len(rungs))
    beside = np.abs(powers) == 1
    energy[beside] = np.where(above_noise, known, 0.0)
    missing = ~beside
    more, more_above = yield from energies(x, space, signs, rungs[missing], base_answers)
    energy[missing] = np.where(more_above, more, 0.0)
    spent = int(missing.sum()) * len(signs)
    plateau = find_plateau(energy[None], rungs, CHECK_CHANGE)
    if plateau is None:
        return InputStep(rho, float("inf"), spent=spent, energy=float(known.max()), flags=["unstable_step"])
    change, own, level = plateau.change, plateau.displacement, float(energy[plateau.first])
    if change <= UNSTABLE:
        return InputStep(own, change, None, spent, level, flags=["own_step"])
    quiet = base_answers.view.noise is None  # with noise an energy that never stands still is noise
    return InputStep(own, change, None, spent, level, above_noise=quiet, flags=["unstable_step"])
