"""One input's measurement, as a conversation: it yields the rows it wants asked and receives their answers.

Nothing here calls a model. The caller (``auditing``) passes every row through the meter, runs many of these side by side,
and decides which rows share a request.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fimaudit.adaptive import decide_threshold, half_width, next_look
from fimaudit.directions import (
    DisplacedRows,
    JoinedRows,
    OrthonormalRows,
    PlainRows,
    RowRange,
    Rows,
    generator,
    orthonormal_signs,
)
from fimaudit.domain import Space
from fimaudit.estimates import Estimate, estimate_sketch, undetected
from fimaudit.findings import Outcome, found, not_found
from fimaudit.jacobian import coordinate_reach, fits, whole_jacobian
from fimaudit.levels import LevelRows
from fimaudit.noise import DEVIATIONS, SIGNAL, Quality, View
from fimaudit.pilot import CHECK_PAIRS, LEVEL_CHANGE, ON_TOP, Steps, choose_steps
from fimaudit.probes import FACTOR, MAIN, Signs, around, displaced, draw_pairs, draw_signs, energies, heard
from fimaudit.profile import Redisplaced, measure_profile, profile_rows
from fimaudit.results import Sensitivity
from fimaudit.secants import contrasts, resolution
from fimaudit.settings import Settings
from fimaudit.spectrum import Limits, spectral_limits
from fimaudit.steps import STILL, find_plateau
from fimaudit.witness import WITNESS_ROWS, Slope, find_witness

__all__ = ["Conversation", "Quality", "Settings", "Steps", "choose_steps", "measure"]

Array = NDArray[np.float64]
Conversation = Generator[Rows, Array, "Sensitivity"]

CHECK_CHANGE = 0.10
OWN_RUNGS = 4
#: An input whose energy changes by more than this between all neighbouring rungs has no local value worth the name.
UNSTABLE = 0.5
#: Orthonormal directions pay once they cover this share of the space, and their table is kept below this many features.
ORTHONORMAL_SHARE = 0.1
ORTHONORMAL_FEATURES = 2048
#: Fewer orthonormal directions are not random enough for their limits (6 % misses at nominal 2.5 % with 2 of 10).
ORTHONORMAL_LEAST = 16
#: The base row and two directions: one contrast.
LEAST = 3
#: From this ratio of signal to noise on, noise does not choose the displacement.
NOISE_FREE = 1e3
#: Up to this many features are measured one by one even where fewer random rows may do.
FEW = 30
#: What answers of nothing but 0 and 1 are taken to be rounded to.
UNSEEN_QUANTUM = 0.01
#: One feature at a time is exact enough while noise adds less than this share to the norm.
BASIS_NOISE = 1e-3


@dataclass
class _Step:
    """The displacement of one input, and what finding it took."""

    rho: float
    change: float = 0.0
    finite: str | None = None
    spent: int = 0
    energy: float = 0.0
    clear: bool = True
    heavy: bool = False
    flags: list[str] = field(default_factory=list)


def measure(x: NDArray[np.floating], index: int, space: Space, steps: Steps, settings: Settings) -> Conversation:
    """Measure one input.

    Args:
        x: the input, shape \\*shape, within the domain.
        index: its position in the data: directions depend on it and the seed alone.
        space: the domain.
        steps: the pilot's choice.
        settings: queries (rows, the base row included), confidence, seed.

    Returns:
        the finished ``Sensitivity``; limits cover the sampling of directions.
    """
    quality = steps.quality
    if quality.unseen:  # answers of 0 and 1 alone are rounded, nobody knows how far
        quality = replace(quality, quantum=UNSEEN_QUANTUM)
    base, step = yield from _choose_step(x, index, space, steps, settings, quality)
    over = max(0, steps.share + step.spent - int(ON_TOP * settings.queries)) + quality.repeats - 1
    queries = max(LEAST, settings.queries // 2, settings.queries - over)
    extra = profile_rows(settings, fits(space.features, queries - 1)) + (WITNESS_ROWS if settings.witness else 0)
    queries = max(LEAST, queries // 2, queries - extra)
    told = yield from _estimate(x, index, space, steps, step, queries, settings, quality, base)
    outcome = Outcome(index, told.view, told.method, step.rho, told.used, step.flags, finite=step.finite)
    estimate = told.estimate
    if estimate is None or not step.clear:
        limits = undetected(told.view, told.answers, _quantum(quality, base), told.length, settings.confidence, told.factor)
        return not_found(outcome, limits, _noise_reason(told, step, settings, quality, base))
    error = step.change if told.method.startswith("basis") else _step_error(step)  # a basis has its own second step
    estimate = estimate.widened(error + step.heavy * estimate.heaviness)
    if settings.threshold is not None and not any(flag.endswith("_threshold") for flag in step.flags):
        lower, upper = estimate.spectral.lower, estimate.spectral.upper
        step.flags += ["above_threshold"] * (lower > settings.threshold) + ["below_threshold"] * (upper < settings.threshold)
    profile, witness = [], None
    if settings.profile != "off" and estimate.margin is not None:
        local = None if told.at is None else (told.at, told.answers)
        profile = yield from measure_profile(x, index, space, steps, settings, quality, base, step.rho, local)
    if settings.witness and told.slope is not None:
        witness = yield from find_witness(x, space, told.slope, told.view.top)
    return found(replace(outcome, profile=profile, witness=witness), estimate, quality)


def _step_error(step: _Step) -> float:
    """Relative error that the step leaves: what a plateau may move, half to either side, and what the check saw."""
    return STILL / 2 + step.change


@dataclass(frozen=True)
class _Told:
    """What the main rows said."""

    method: str
    view: View
    estimate: Estimate | None
    answers: Array
    length: float
    used: int
    factor: float | None = None
    slope: Slope | None = None
    at: Redisplaced | None = None


def _estimate(
    x: NDArray[np.floating],
    index: int,
    space: Space,
    steps: Steps,
    step: _Step,
    queries: int,
    settings: Settings,
    quality: Quality,
    base: Array,
) -> Generator[Rows, Array, _Told]:
    """Choose the kind of directions, ask them, and estimate."""
    d, m = space.features, queries - 1
    view = quality.view(base, base[:0])
    adaptive = settings.precision is not None or settings.threshold is not None
    few = fits(d, m) and (not adaptive or d <= FEW)
    if not view.blind and few and _basis_serves(view, step, steps, space) and quality.top_k is None:
        whole = yield from whole_jacobian(x, space, step.rho, m, view)
        slope = None
        if whole.descent is not None and whole.estimate is not None and whole.estimate.margin is not None:
            slope = Slope(whole.descent, whole.estimate.margin.radius.value)
        return _Told(whole.method, view, whole.estimate, base, whole.length, whole.rows, 4.0 * d, slope)
    if ORTHONORMAL_LEAST < d <= m <= ORTHONORMAL_FEATURES and not fits(d, m) and not space.quantised:
        m = d - 1  # a few rows short of the whole Jacobian: all orthonormal directions but one
    at, method, features = _sketch(x, index, space, m, settings)
    rows = at(step.rho, m)
    length = space.length(rows.sent())
    if not adaptive:
        answers = yield rows
    else:
        answers = yield from _until(rows, base, length, features, quality, settings, step)
        m = len(answers)
    if quality.top_k is not None:
        view = quality.view(base, answers)
    estimate = estimate_sketch(view, answers, length, settings.confidence, features)
    slope = None
    if settings.witness and estimate is not None and estimate.margin is not None:
        slope = Slope.of_rows(rows, x, space, view, answers, estimate.margin)
    return _Told(method, view, estimate, answers, length, m + 1, slope=slope, at=at)


def _until(
    rows: Rows, base: Array, length: float, features: int | None, quality: Quality, settings: Settings, step: _Step
) -> Generator[Rows, Array, Array]:
    """Ask bit by bit until the interval is narrow enough, or the threshold is decided, or all rows are asked."""
    answers = yield RowRange(rows, 0, next_look(0, len(rows)))
    while True:
        view = quality.view(base, answers)
        if not view.blind and length > 0:
            y = contrasts(np.sqrt(view.table(answers)) * (2.0 / length))
            if settings.precision is not None and y.any():
                limits, _ = spectral_limits(y, settings.confidence, features)
                up = float(np.exp(min(_step_error(step), 1.0)))
                if half_width(Limits(limits.value, limits.lower / up, limits.upper * up)) <= settings.precision:
                    return answers
            if settings.threshold is not None:
                verdict = decide_threshold(y, settings.threshold, 1.0 - settings.confidence)
                if verdict is not None:
                    step.flags.append(f"{verdict}_threshold")
                    return answers
        if len(answers) == len(rows):
            return answers
        more = yield RowRange(rows, len(answers), next_look(len(answers), len(rows)))
        answers = np.concatenate([answers, more])


def _sketch(
    x: NDArray[np.floating], index: int, space: Space, count: int, settings: Settings
) -> tuple[Redisplaced, str, int | None]:
    """Random directions of the kind that serves best, its name, and d where they are orthogonal to each other."""
    d = space.features
    if max(ORTHONORMAL_SHARE * d, ORTHONORMAL_LEAST) <= count < d <= ORTHONORMAL_FEATURES and not space.quantised:
        drawn = orthonormal_signs(generator(settings.seed, index, MAIN), count, d)

        def orthonormal(rho: float, first: int) -> OrthonormalRows:
            return OrthonormalRows(x, *drawn, space.step(rho), space.lower, space.upper, space.dtype).first(first)

        return orthonormal, "orthonormal", d
    signs = draw_signs(settings.seed, index, MAIN, count, x.size)

    def independent(rho: float, first: int) -> DisplacedRows | LevelRows:
        return displaced(x, space, signs.first(first), rho)

    return independent, "levels" if space.quantised else "rademacher", None


def _basis_serves(view: View, step: _Step, steps: Steps, space: Space) -> bool:
    """Whether one feature at a time gives the local value: its change, sqrt(d) times smaller, must drown the noise."""
    if step.finite is not None or (space.quantised and coordinate_reach(space) > steps.reach):
        return False
    if view.noise is None or step.energy <= 0:
        return True
    return space.features**2 * view.noise.total <= 2 * BASIS_NOISE * step.rho**2 * step.energy


def _quantum(quality: Quality, base: Array) -> float:
    return max(quality.quantum, resolution(base))


def _choose_step(
    x: NDArray[np.floating], index: int, space: Space, steps: Steps, settings: Settings, quality: Quality
) -> Generator[Rows, Array, tuple[Array, _Step]]:
    """The base row's answers, and a displacement at which this input answers linearly and above the noise."""
    here = PlainRows(np.repeat(x.astype(space.dtype)[None], quality.repeats, axis=0))
    rho = steps.displacement
    if steps.kind == "finite_scale":
        base = yield here
        why = "the answers are piecewise constant, so a local value does not exist"
        return base, _Step(rho, finite=why, heavy=True)
    signs = draw_pairs(settings.seed, index, 2 * CHECK_PAIRS, x.size)
    blocks = around(x, space, signs, rho)
    answers = yield JoinedRows([here, *blocks])
    base = answers[: quality.repeats]
    energy, clear = heard(space, blocks, np.split(answers[quality.repeats :], 2), quality, base)
    spent = 2 * len(signs)
    view = quality.view(base, answers[quality.repeats :])
    if view.noise is not None and not clear[0]:
        step = yield from _above_noise(x, space, signs, steps, quality, base, view, (energy[1], clear[1]))
        step.spent += spent
        return base, step
    change = _change(*energy)
    if change <= (LEVEL_CHANGE if space.quantised else CHECK_CHANGE):
        return base, _Step(rho, change, spent=spent, energy=float(energy.mean()))
    if view.noise is not None and energy[0] * space.length(blocks[0].sent()) ** 2 < NOISE_FREE * view.noise.total:
        step = _least(view, blocks[0], space, (float(energy[0]), float(energy[1])), steps.finest)
    elif space.quantised:
        step = yield from _own_levels(x, space, signs, rho, change, quality, base)
    else:
        step = yield from _own_step(x, space, signs, rho, energy, clear, quality, base)
    step.spent += spent
    return base, step


def _own_levels(
    x: NDArray[np.floating], space: Space, signs: Signs, rho: float, change: float, quality: Quality, base: Array
) -> Generator[Rows, Array, _Step]:
    """With levels: go down to the sparsest directions, and if even they do not answer linearly, name the scale."""
    spent, energy = 0, 0.0
    if rho > space.shortest:
        rho = space.shortest
        blocks = around(x, space, signs, rho)
        answers = yield JoinedRows(blocks)
        found, clear = heard(space, blocks, np.split(answers, 2), quality, base)
        spent, energy, change = len(answers), float(found[0]), _change(*np.where(clear, found, 0.0))
    if change <= 2 * LEVEL_CHANGE:
        return _Step(rho, change, spent=spent, energy=energy, flags=["own_step"])
    why = "the shortest displacement that the input's levels allow is past the linear range"
    return _Step(rho, 0.0, why, spent, energy, heavy=True)


def _above_noise(
    x: NDArray[np.floating],
    space: Space,
    signs: Signs,
    steps: Steps,
    quality: Quality,
    base: Array,
    view: View,
    long: tuple[float, bool],
) -> Generator[Rows, Array, _Step]:
    """The shortest displacement from the common one on at which the signal is 25 times the noise."""
    rho, at = steps.displacement, FACTOR * steps.displacement
    energy, clear = long
    spent, following = 0, 0.0
    if not view.blind:
        powers = np.array([2.0]) if clear else np.arange(2.0, OWN_RUNGS + 1)
        rungs = rho * FACTOR**powers
        more, hear = yield from energies(x, space, signs, rungs, quality, base)
        spent = len(rungs) * len(signs)
        if clear:
            following = float(more[0])
        elif hear.any():
            first = int(np.argmax(hear))
            clear, energy, at = True, float(more[first]), float(rungs[first])
            following = float(more[first + 1]) if first + 1 < len(rungs) else 0.0
    if not clear or view.noise is None:
        far = steps.reach if np.isfinite(steps.reach) and steps.reach > 0 else rho
        return _Step(far, spent=spent, clear=False)
    reached = displaced(x, space, signs, at)
    step = _least(view, reached, space, (energy, following), rho)
    step.spent = spent
    return step


def _least(view: View, rows: DisplacedRows | LevelRows, space: Space, energy: tuple[float, float], shortest: float) -> _Step:
    """The shortest displacement at which the signal is 25 times the noise, from the energies at ``rows`` and beyond."""
    assert view.noise is not None
    h = space.length(rows.sent())
    at = h * float(np.sqrt(space.features))
    own = max(shortest, at * float(np.sqrt(SIGNAL * view.noise.cautious / (energy[0] * h**2))))
    # From ``at`` to the longer displacement the energy changes by this much; what is left of it at ``own``:
    bend = _change(*energy) / 2 * min(1.0, own / at)
    if bend <= CHECK_CHANGE:
        return _Step(own, 2 * bend, energy=energy[0], heavy=True, flags=["own_step"])
    why = "the noise of the answers hides the local value"
    return _Step(own, finite=why, energy=energy[0], heavy=True, flags=["own_step"])


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
    clear: NDArray[np.bool_],
    quality: Quality,
    base: Array,
) -> Generator[Rows, Array, _Step]:
    """The best rung of one input, on a ladder of thirds around the common displacement, and the change of energy there."""
    powers = np.arange(-OWN_RUNGS, OWN_RUNGS + 1)
    rungs = rho * FACTOR ** powers.astype(float)
    energy = np.zeros(len(rungs))
    beside = np.abs(powers) == 1
    energy[beside] = np.where(clear, known, 0.0)
    missing = ~beside
    more, hear = yield from energies(x, space, signs, rungs[missing], quality, base)
    energy[missing] = np.where(hear, more, 0.0)
    spent = int(missing.sum()) * len(signs)
    plateau = find_plateau(energy[None], rungs, CHECK_CHANGE)
    if plateau is None:
        return _Step(rho, float("inf"), spent=spent, energy=float(known.max()), flags=["unstable_step"])
    change, own, level = plateau.change, plateau.displacement, float(energy[plateau.first])
    if change <= UNSTABLE:
        return _Step(own, change, None, spent, level, flags=["own_step"])
    quiet = quality.view(base, base[:0]).noise is None  # with noise an energy that never stands still is noise
    return _Step(own, change, None, spent, level, clear=quiet, flags=["unstable_step"])


def _noise_reason(told: _Told, step: _Step, settings: Settings, quality: Quality, base: Array) -> str:
    """What stood in the way, and what would help."""
    at = f"at a displacement of {step.rho:.3g}"
    tail = "the spectral norm lies between 0 and the upper limit"
    noise = told.view.noise
    if told.view.blind and quality.random:
        deviation = np.sort(DEVIATIONS * base.std(axis=0, ddof=1) / np.maximum(base.mean(axis=0), 1e-12))
        wanted = settings.queries * max(1.0, float(deviation[1])) ** 2
        return f"the model's noise hides the classes; about {wanted:,.0f} queries would resolve it for two of them; {tail}"
    if told.view.blind and quality.quantum > 0:
        return f"rounding to {quality.quantum:g} hides every class but the predicted one; {tail}"
    if noise is None or told.estimate is None or not told.length:
        return f"the answers did not change measurably {at}; {tail}"
    share = max(told.estimate.trace.value, 1e-300) * told.length**2 / noise.total
    if quality.random:
        needed = settings.queries * ((1 + 1 / max(share, 1e-3)) / (1 + 1 / SIGNAL)) ** 2
        more = "more than " if share <= 1e-3 else "about "
        return (
            f"the model's noise is {1 / max(share, 1e-3):.2g} times the signal or more {at}; "
            f"{more}{needed:,.0f} queries would resolve it; {tail}"
        )
    decimals = int(np.ceil(0.5 * np.log10(SIGNAL / min(max(share, 1e-8), SIGNAL / 10))))
    return (
        f"rounding to {_quantum(quality, told.view.base[None]):.2g} drowns the changes of the answers {at}; "
        f"about {max(1, decimals)} more decimals would resolve them; {tail}"
    )
