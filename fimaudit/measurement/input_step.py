"""One input's displacement: the common one where the input answers linearly there and above the noise, else its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.noise import SIGNAL, BaseAnswers, VisibleClasses
from fimaudit.measurement.context import InputContext, InputStep
from fimaudit.measurement.energy import (
    FACTOR,
    Answered,
    RungReadings,
    Signs,
    around,
    displaced_rungs,
    draw_pairs,
    read_pairs,
    read_rungs,
    read_rungs_each,
)
from fimaudit.measurement.ladder import DWARFS, JUMPS, QUIET, QUIET_IN_NOISE
from fimaudit.measurement.ladder_questions import CHECK_PAIRS
from fimaudit.measurement.pilot import BELOW, LEVEL_CHANGE, REASONS
from fimaudit.measurement.protocol import BatchedStep, Flow
from fimaudit.measurement.surface import FALLS, JUMPING, ROUGHNESS, SurfaceKind, jump_variance, slope_of
from fimaudit.perturbations.rows import JoinedRows, PlainRows

__all__ = ["MOST_SPENT", "find_step"]

Array = NDArray[np.float64]

#: An input keeps the common displacement where its energy changes by no more from a third of it to three times it, and else
#: has a ladder of its own, of so many rungs to either side.
CHECK_CHANGE, OWN_RUNGS = 0.10, 4
#: Rows that finding an input's displacement takes at most: the check, and a whole ladder around it.
MOST_SPENT = 2 * CHECK_PAIRS * (2 + 2 * OWN_RUNGS - 1)
#: The even share of a rung that an input's own displacement may have.
OWN_QUIET = 0.10
#: Behind noise nothing is known of shorter displacements: longer than this share of the data's spread one is not local.
#: What it leaves: regime answers_of_3_decimals of benchmarks/regimes.py.
FAR = 0.3
HIDDEN = "the noise of the answers hides the local value"
#: Signal over noise that is enough for each row that has the signs of another: m rows of d features leave m / 2^d, rounding
#: then adds 1 / sqrt(m) to the relative error of the norm, and sampling has sqrt(2 / m).
ROUNDED_ALIKE = 8.0
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

    def read(self, rungs: Array) -> Flow[RungReadings]:
        """Ask along these directions at each displacement."""
        return read_rungs(self.ctx.x, self.ctx.space, self.signs, rungs, self.base_answers)

    @property
    def alike(self) -> float:
        """Times the noise that the signal must rise above, where directions have the same signs: their rounding is the same.

        Of few features many rows are the same but for their number, and no number of them averages their rounding out.
        """
        ctx = self.ctx
        same = 0.0 if ctx.quality.random else ctx.settings.queries / 2.0 ** min(ctx.space.features, 64)
        return max(1.0, ROUNDED_ALIKE * same / SIGNAL)

    @property
    def mixed(self) -> float:
        """sum_k p_k (1 - p_k)."""
        base = self.base_answers.view.base
        return float((base * (1 - base)).sum())


def find_step(ctx: InputContext) -> Flow[tuple[BaseAnswers, InputStep]]:
    """The answers to the input itself, and a displacement at which it answers linearly and above the noise."""
    quality, space, rho = ctx.quality, ctx.space, ctx.steps.displacement
    itself = PlainRows(ctx.repeated(quality.repeats))
    if ctx.steps.kind == "finite_scale":
        base = yield itself
        surface = ctx.steps.surface
        flags = ("kinked",) if surface == "kinked" else ()
        return BaseAnswers(quality, base), InputStep(rho, finite=ctx.steps.why, heavy=True, flags=flags, surface=surface)
    signs = draw_pairs(ctx.settings.seed, ctx.index, 2 * CHECK_PAIRS, ctx.x.size)
    rungs = yield from around(ctx.x, space, signs, rho)
    answers = yield JoinedRows([itself, rungs.rows])
    base_answers, around_it = BaseAnswers(quality, answers[: quality.repeats]), answers[quality.repeats :]
    near: RungReadings = yield BatchedStep(read_rungs_each, Answered(rungs, around_it, base_answers))
    energy, above_noise = near.energy, near.above_noise
    spent = 2 * len(signs)
    short, long = float(energy[0]), float(energy[1])
    check, view, change = _Check(ctx, signs, base_answers), base_answers.view_of(around_it), _change(short, long)
    even_share = near.shortest_even_share
    if view.noise is not None and not above_noise[0]:
        step = yield from _step_above_noise(check, view, long, bool(above_noise[1]))
    elif change <= (LEVEL_CHANGE if space.quantised else CHECK_CHANGE) and not (
        even_share > (QUIET if view.noise is None else QUIET_IN_NOISE)
    ):
        energy_here = (short + long) / 2
        if view.noise is None and not space.quantised:
            return base_answers, InputStep(rho, change, spent=spent, energy=energy_here, bend=ctx.steps.bend)
        step = InputStep(rho, change, energy=energy_here)
    elif view.noise is not None and energy[0] * rungs.lengths[0] ** 2 < NOISE_FREE * view.noise.total:
        growth = _growth(short, long, FACTOR**2)
        step = _least(check, view, float(rungs.lengths[0]), (short, long), growth, ctx.steps.finest)
        if even_share > QUIET_IN_NOISE:  # and nothing was asked between that displacement and the shorter one
            step = replace(step, finite=HIDDEN, heavy=True, behind_noise=False)
    elif space.quantised:
        step = yield from _own_levels(check, near)
    else:
        step = yield from _own_step(check, near)
    if view.noise is not None and step.finite is None and step.rho > FAR * ctx.steps.size and not space.quantised:
        step = replace(step, finite=HIDDEN, behind_noise=True, heavy=True)
    return base_answers, replace(step, spent=step.spent + spent)


def _own_levels(check: _Check, found: RungReadings) -> Flow[InputStep]:
    """With levels: go down to the sparsest directions, and if even they do not answer linearly, name the scale."""
    ctx = check.ctx
    rho, spent = ctx.steps.displacement, 0
    if rho > ctx.space.shortest:
        rho = ctx.space.shortest
        rungs = yield from around(ctx.x, ctx.space, check.signs, rho)
        answers = yield rungs.rows
        found = read_pairs(Answered(rungs, answers, check.base_answers))
        spent = len(answers)
    energy, change = float(found.energy[0]), _change(*found.energy_above_noise)
    if change <= 2 * LEVEL_CHANGE and not found.shortest_even_share > QUIET:
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
        found = yield from check.read(rungs)
        more, more_above = found.energy, found.above_noise
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
    return replace(_least(check, view, h, (energy, following), growth, shortest, reach), spent=spent)


def _least(
    check: _Check,
    view: VisibleClasses,
    h: float,
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
    at, noise = h * float(np.sqrt(check.ctx.space.features)), check.alike * view.noise.cautious
    own = max(shortest, at * float((SIGNAL * noise / (energy[0] * h**2)) ** (1.0 / (2.0 + growth))))
    # From ``at`` to the longer displacement the energy changes by this much; what is left of it at ``own``:
    bend = _change(*energy) / 2 * min(1.0, own / at)
    if bend <= CHECK_CHANGE and own <= reach:
        return InputStep(own, 2 * bend, energy=energy[0], heavy=True, flags=("own_step",))
    return InputStep(own, finite=HIDDEN, behind_noise=True, energy=energy[0], heavy=True, flags=("own_step",))


def _growth(short: float, long: float, factor: float) -> float:
    """The power of the displacement with which the energy rises over such a factor; 0 where it falls, or is not known."""
    return max(0.0, math.log(long / short) / math.log(factor)) if short > 0 and long > 0 else 0.0


def _change(short: float, long: float) -> float:
    """|log| of the ratio of the energies at a third and at three times the displacement."""
    if short == 0 or long == 0:
        return 0.0 if short == long else math.inf
    return abs(math.log(short / long))


def _own_step(check: _Check, near: RungReadings) -> Flow[InputStep]:
    """The displacement nearest the common one at which the input answers linearly, on a ladder of thirds around that.

    An input that answers linearly nowhere stays at the common displacement, and its numbers are those of there.

    Args:
        check: the input.
        near: what its answers say at a third and at three times the common displacement.
    """
    rho = check.ctx.steps.displacement
    powers = np.arange(-OWN_RUNGS, OWN_RUNGS + 1)
    rungs = rho * FACTOR ** powers.astype(float)
    missing = np.abs(powers) != 1
    far = yield from check.read(rungs[missing])
    every = RungReadings(*(_merged(missing, near, far, name) for name in ("energy", "above_noise", "even", "odd")))
    spent = int(missing.sum()) * len(check.signs)
    place = _nearest_linear(every, powers)
    if place is None:
        surface, largest = _surface(every, rungs), float(near.energy.max())
        named = "kinked" if surface == "kinked" else "jumps" if surface in JUMPING else None
        flags = ("unstable_step", *([] if named is None else [named]))
        exact = check.base_answers.view.noise is None  # behind noise, answers that are linear nowhere are noise
        return InputStep(rho, 0.0, REASONS[surface], spent, largest, exact, heavy=True, flags=flags, surface=surface)
    own, energy = float(rungs[place]), float(every.energy[place])
    jump = _jump_below(check, every, place)
    if jump > ROUGHNESS:
        why = BELOW.format(first=own, jump=jump)
        return InputStep(own, 0.0, why, spent, energy, heavy=True, flags=("own_step",))
    return InputStep(own, _drift(every, place), None, spent, energy, flags=("own_step",))


def _merged(missing: NDArray[np.bool_], near: RungReadings, far: RungReadings, name: str) -> NDArray[Any]:
    """One array of readings, the rungs beside the common displacement from ``near``."""
    out = np.empty(len(missing), dtype=getattr(far, name).dtype)
    out[~missing], out[missing] = getattr(near, name), getattr(far, name)
    return out


def _nearest_linear(every: RungReadings, powers: NDArray[np.int64]) -> int | None:
    """The quiet rung nearest the common displacement with quiet neighbours of the same energy; ``None`` for none.

    One with such neighbours on both sides is preferred to one that has the energy of a single one.
    """
    above_noise, share = every.above_noise & (every.energy > 0), every.even_share
    changes = np.abs(np.diff(np.log(np.where(above_noise, every.energy, 1.0))))
    pairs = above_noise[:-1] & above_noise[1:] & (changes <= CHECK_CHANGE)
    quiet, quieter = ~(share > QUIET), ~(share > OWN_QUIET)
    below, above = np.r_[False, pairs & quiet[:-1]], np.r_[pairs & quiet[1:], False]
    for beside in (below & above, below | above):
        places = np.flatnonzero(beside & above_noise & quieter)
        if places.size:
            return int(places[np.argmin(np.abs(powers[places]))])
    return None


def _drift(every: RungReadings, place: int) -> float:
    """What the energy changes towards either neighbour that is above the noise."""
    sides = [abs(place - 1), min(place + 1, len(every.energy) - 1)]
    return max(_change(float(every.energy[place]), float(every.energy[one])) for one in sides if every.above_noise[one])


def _jump_below(check: _Check, every: RungReadings, place: int) -> float:
    """Standard deviation of log p in the jumps on the rungs before ``place``, 0 where none jumps."""
    jumping = (every.even_share[:place] >= JUMPS) | (every.energy[:place] > DWARFS * every.energy[place])
    if not jumping.any() or check.mixed <= 1e-12 or check.base_answers.view.noise is not None:
        return 0.0
    centred = np.ones(place, dtype=np.bool_)  # where it is not, jumps are larger than this says
    variance = jump_variance(every.even[:place], every.odd[:place], centred, check.mixed)[jumping]
    return float(np.sqrt(np.nanmax(variance, initial=0.0)))


def _surface(every: RungReadings, rungs: Array) -> SurfaceKind:
    """What an input is that answers linearly over no displacement."""
    shares = every.even_share[np.isfinite(every.even_share)]
    if (every.energy == 0).any() and (every.energy > 0).any():
        return "piecewise_constant"
    if slope_of(every.energy_above_noise, rungs) <= FALLS:
        return "rough"
    return "kinked" if shares.size and float(np.median(shares)) > QUIET else "curved"
