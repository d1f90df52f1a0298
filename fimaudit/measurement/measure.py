"""One input's measurement, as a conversation: it yields the rows it wants asked and receives their answers.

Nothing here calls a model. The caller (``auditing``) passes every row through the meter, runs many of these side by side,
and decides which rows share a request.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.domain import Space
from fimaudit.estimation.attribution import MOST_SKETCHED, feature_shares, listed
from fimaudit.estimation.estimate import Estimate, undetected
from fimaudit.estimation.noise import DEVIATIONS, SIGNAL, BaseAnswers, OutputQuality, VisibleClasses
from fimaudit.estimation.secants import contrasts, resolution
from fimaudit.estimation.sketch import Sketch, estimate_sketches
from fimaudit.estimation.stopping import decide_threshold, half_width, next_look, sketch_serves
from fimaudit.measurement.boundary import NotHeld
from fimaudit.measurement.counterexample import WITNESS_ROWS, Slope, find_witness
from fimaudit.measurement.deflation import RANDOM, deflated_rows, measure_deflated
from fimaudit.measurement.deflation_trial import JacobianLearner
from fimaudit.measurement.energy import MAIN, Rungs, displaced, displaced_rungs, draw_signs, joined
from fimaudit.measurement.full_jacobian import WholeJacobian, coordinate_reach, fewest_rows, fits, whole_jacobian
from fimaudit.measurement.input_step import InputStep, choose_displacement
from fimaudit.measurement.least_squares import antipodal_pairs, estimate_pairs
from fimaudit.measurement.outcome import MeasurementOutcome, below_detection, measured, unrepeatable
from fimaudit.measurement.pilot import Steps, choose_steps
from fimaudit.measurement.protocol import BatchedStep
from fimaudit.measurement.query_split import after_extras, after_finding
from fimaudit.measurement.recheck import OutlierRecheck
from fimaudit.measurement.scale_profile import Redisplaced, measure_profile, profile_rows
from fimaudit.measurement.settings import Settings
from fimaudit.perturbations.orthonormal_rows import (
    ORTHONORMAL_FEATURES,
    ORTHONORMAL_LEAST,
    OrthonormalRows,
    orthonormal_fits,
    orthonormal_signs,
)
from fimaudit.perturbations.quantised_rows import LevelRows
from fimaudit.perturbations.random_signs import generator
from fimaudit.perturbations.rows import PlainRows, RowRange, Rows
from fimaudit.perturbations.sign_rows import DisplacedRows
from fimaudit.results import SCREENED, FeatureShare, ScaleRung, Sensitivity, Witness

__all__ = ["MeasurementFlow", "OutputQuality", "Settings", "Steps", "choose_steps", "measure"]

Array = NDArray[np.float64]
MeasurementFlow = Generator[Rows | BatchedStep, Any, "Sensitivity"]

#: Random models at a finite displacement: rows there that are asked again to learn the noise, how often, and how many
#: directions that leaves at least: six or fewer have no finite upper limit.
FAR_ROWS, FAR_REPEATS, FAR_LEAVES = 4, 4, 12
#: Width of a whole Jacobian's interval over its value, from which its two steps disagree by more than curvature explains.
DISAGREE = 0.2
#: What answers of nothing but 0 and 1 are taken to be rounded to.
UNSEEN_QUANTUM = 0.01
#: One feature at a time is exact enough while noise adds less than this share to the norm.
BASIS_NOISE = 1e-3


def measure(
    x: NDArray[np.floating],
    index: int,
    space: Space,
    steps: Steps,
    settings: Settings,
    subspace: Array | None = None,
    learner: JacobianLearner | None = None,
) -> MeasurementFlow:
    """Measure one input.

    Args:
        x: the input, shape \\*shape, within the domain.
        index: its position in the data: directions depend on it and the seed alone.
        space: the domain.
        steps: the pilot's choice.
        settings: queries (rows, the base row included), confidence, seed.
        subspace: (q, d) orthonormal directions to measure exactly, where that can be done (``deflation``).
        learner: learns from the random rows.

    Returns:
        the finished ``Sensitivity``; limits cover the sampling of directions.
    """
    quality = steps.quality
    if quality.quantum_unknown:  # answers of 0 and 1 alone are rounded, nobody knows how far
        quality = replace(quality, quantum=UNSEEN_QUANTUM)
    base_answers, step = yield from choose_displacement(x, index, space, steps, settings.seed, quality)
    step.flags += [SCREENED] * settings.screening
    queries = after_finding(settings.queries, steps.share + step.spent, quality.repeats)
    whole = fits(space.features, queries - 1)
    if whole or not _deflates(base_answers, step):
        subspace = None
    extra = profile_rows(settings, whole or subspace is not None) + (WITNESS_ROWS if settings.witness else 0)
    queries = after_extras(queries, extra)
    recheck = OutlierRecheck(x.astype(space.dtype)[None], base_answers)
    main = None
    if subspace is not None:
        main = yield from recheck.record(_deflated(x, index, space, step, queries, settings, base_answers, subspace))
    if main is None:
        main = yield from recheck.record(_estimate(x, index, space, steps, step, queries, settings, base_answers, learner))
    outcome = MeasurementOutcome(index, main.view, main.method, step.rho, main.used, step.flags, finite=step.finite)
    estimate = main.estimate
    if estimate is None or not step.above_noise:
        limits = undetected(main.view, main.answers, _quantum(base_answers), main.length, settings.confidence, main.factor)
        return below_detection(outcome, limits, _noise_reason(main, step, settings, base_answers))
    doubt = main.method.startswith("basis") and _disagree(estimate)
    difference = yield from recheck.ask_again(doubt=doubt, left=queries - main.used)
    if difference is not None:
        return unrepeatable(index, main.method, step.flags, difference)
    if learner is not None and main.drawn is not None:
        learner.take(index, main.drawn, space, main.view, main.answers, main.length)
    error = step.change if main.method.startswith("basis") else step.error  # a basis has its own second step
    estimate = _widened(estimate, error, step)
    if settings.threshold is not None and not any(flag.endswith("_threshold") for flag in step.flags):
        lower, upper = estimate.spectral.lower, estimate.spectral.upper
        step.flags += ["above_threshold"] * (lower > settings.threshold) + ["below_threshold"] * (upper < settings.threshold)
    profile: list[ScaleRung] = []
    witness: Witness | None = None
    if settings.profile != "off" and estimate.margin is not None:
        local = None if main.at is None else (main.at, main.answers)
        profile = yield from measure_profile(x, index, space, steps, settings, base_answers, step.rho, local)
    if settings.witness and main.slope is not None:
        walked = yield from find_witness(x, space, main.slope, main.view.top)
        if isinstance(walked, NotHeld):
            outcome = replace(outcome, no_witness=walked.reason)
        else:
            witness = walked
    carried: list[FeatureShare] = []
    if main.slope is not None and listed(x):
        drawn = None if main.method.startswith("basis") else main.used - 1
        orthogonal = main.method == "orthonormal"
        unbiased, drawn = main.carried or (main.slope.gradient, drawn)
        carried = feature_shares(unbiased, np.flatnonzero(~space.frozen), drawn, orthogonal=orthogonal)
    return measured(replace(outcome, profile=profile, witness=witness, carried_by=carried), estimate, quality)


def _disagree(estimate: Estimate) -> bool:
    """Whether two steps of a whole Jacobian do."""
    both = [estimate.spectral, *([] if estimate.margin is None else [estimate.margin.radius])]
    return any(limits.upper - limits.lower > DISAGREE * limits.value for limits in both)


@dataclass(frozen=True)
class _MainAnswers:
    """What the main rows said."""

    method: str
    view: VisibleClasses
    estimate: Estimate | None
    answers: Array
    length: float
    used: int
    factor: float | None = None
    slope: Slope | None = None
    at: Redisplaced | None = None
    carried: tuple[Array, int] | None = None
    drawn: DisplacedRows | LevelRows | OrthonormalRows | None = None


def _deflates(base_answers: BaseAnswers, step: InputStep) -> bool:
    """Whether the input answers linearly and above the noise, class by class: else there is no Jacobian to catch."""
    still = base_answers.quality.top_k is None and not base_answers.view.unmeasurable
    return still and step.above_noise and step.finite is None and step.energy > 0


def _deflated(
    x: NDArray[np.floating],
    index: int,
    space: Space,
    step: InputStep,
    queries: int,
    settings: Settings,
    base_answers: BaseAnswers,
    subspace: Array,
) -> Generator[Rows, Array, _MainAnswers | None]:
    """Exact directions and random ones in their complement; ``None`` where they do not fit."""
    subspace = subspace[: max(0, (queries - 1 - RANDOM) // 2)]  # the leading ones come first
    count = queries - 1 - 2 * len(subspace)
    if not len(subspace):
        return None
    rows = deflated_rows(x, index, space, step.rho, count, settings.seed, subspace, orthogonal=not step.heavy)
    if rows is None:
        return None
    wanted = settings.witness or listed(x, MOST_SKETCHED)
    measured = yield from measure_deflated(rows, base_answers.view, settings.confidence, gradient=wanted)
    main = _MainAnswers(
        "deflated", base_answers.view, measured.estimate, measured.answers, measured.length, measured.used + 1
    )
    if measured.gradient is None or measured.estimate is None or measured.estimate.margin is None:
        return main
    slope = measured.gradient.slope(measured.estimate.margin.radius.value)
    return replace(main, slope=slope, carried=(measured.gradient.whole, measured.gradient.like))


def _estimate(
    x: NDArray[np.floating],
    index: int,
    space: Space,
    steps: Steps,
    step: InputStep,
    queries: int,
    settings: Settings,
    base_answers: BaseAnswers,
    learner: JacobianLearner | None,
) -> Generator[Rows | BatchedStep, Any, _MainAnswers]:
    """Choose the kind of directions, ask them, and estimate."""
    d, m = space.features, queries - 1
    view, quality = base_answers.view, base_answers.quality
    few = fits(d, m) and not sketch_serves(settings.precision, settings.threshold, settings.confidence, fewest_rows(d))
    if not view.unmeasurable and few and _basis_serves(view, step, steps, space) and quality.top_k is None:
        whole = yield from _whole(x, space, step.rho, m, view, settings.precision)
        slope = _downhill(whole.descent, whole.estimate)
        return _MainAnswers(whole.method, view, whole.estimate, base_answers.base, whole.length, whole.rows, 4.0 * d, slope)
    steady = (
        step.finite is None and step.above_noise and step.rho == steps.displacement
    )  # a step of its own may bend the answers
    if steady and not view.unmeasurable and quality.top_k is None and not settings.adaptive:
        pairs = antipodal_pairs(x, index, space, step.rho, m, settings.seed)
        if pairs is not None:
            answers = yield pairs.rows
            estimate, descent = estimate_pairs(view, pairs, answers, settings.confidence)
            return _MainAnswers(
                "least-squares", view, estimate, answers, pairs.length, len(answers) + 1, slope=_downhill(descent, estimate)
            )
    if ORTHONORMAL_LEAST < d <= m <= ORTHONORMAL_FEATURES and not fits(d, m) and not space.quantised and not step.heavy:
        m = d - 1  # a few rows short of the whole Jacobian: all orthonormal directions but one
    far = 0
    if quality.random and step.finite is not None:  # the noise may be another there
        far = max(0, min(FAR_ROWS, (m - FAR_LEAVES) // FAR_REPEATS))
    rows, at, method, features = _sketch(x, index, space, step, m - far * FAR_REPEATS, settings)
    louder = (yield PlainRows(np.repeat(rows.build(0, far), FAR_REPEATS, axis=0))) if far else None
    length = space.length(rows.sent())

    def sketch(answers: Array) -> Sketch:
        view = (
            base_answers.view_of(answers)
            if louder is None
            else base_answers.view_of(answers).with_noise_of(louder, FAR_REPEATS)
        )
        return Sketch(view, answers, length, settings.confidence, features)

    if not settings.adaptive:
        answers = yield rows
    else:
        answers = yield from _until(rows, sketch, settings, step)
        m = len(answers)
    done = sketch(answers)
    view = done.view
    estimate = yield BatchedStep(estimate_sketches, done)
    slope = None
    if (settings.witness or listed(x, MOST_SKETCHED)) and estimate is not None and estimate.margin is not None:
        slope = Slope.of_rows(rows, x, space, view, answers, estimate.margin)
    return _MainAnswers(method, view, estimate, answers, length, m + 1, slope=slope, at=at, drawn=rows)


def _downhill(descent: Array | None, estimate: Estimate | None) -> Slope | None:
    """The way to another answer, where the whole Jacobian is known."""
    if descent is None or estimate is None or estimate.margin is None:
        return None
    return Slope(descent, estimate.margin.radius.value)


def _whole(
    x: NDArray[np.floating], space: Space, rho: float, rows: int, view: VisibleClasses, precision: float | None
) -> Generator[Rows, Array, WholeJacobian]:
    """The whole Jacobian, as well as ``rows`` allow; with a precision, from as few as serve it."""
    least = fewest_rows(space.features)
    if precision is None or not fits(space.features, rows - least):
        return (yield from whole_jacobian(x, space, rho, rows, view))
    quick = yield from whole_jacobian(x, space, rho, least, view)
    if quick.estimate is not None and half_width(quick.estimate.spectral) <= precision:
        return quick
    better = yield from whole_jacobian(x, space, rho, rows - least, view)
    return replace(better, rows=better.rows + least)


def _until(
    rows: Rows, sketch: Callable[[Array], Sketch], settings: Settings, step: InputStep
) -> Generator[Rows | BatchedStep, Any, Array]:
    """Ask bit by bit until the interval is narrow enough, or the threshold is decided, or all rows are asked."""
    answers: Array = yield RowRange(rows, 0, next_look(0, len(rows)))
    while True:
        so_far, away = sketch(answers), None
        if settings.precision is not None:
            estimate = yield BatchedStep(estimate_sketches, so_far)
            if estimate is not None:
                away = half_width(_widened(estimate, step.error, step).spectral) / settings.precision
                if away <= 1.0:
                    return answers
        if settings.threshold is not None and not so_far.view.unmeasurable and so_far.length > 0:
            y = contrasts(np.sqrt(so_far.view.table(answers)) * (2.0 / so_far.length))
            verdict = decide_threshold(y, settings.threshold, 1.0 - settings.confidence)
            if verdict is not None:
                step.flags.append(f"{verdict}_threshold")
                return answers
        if len(answers) == len(rows):
            return answers
        more = yield RowRange(rows, len(answers), next_look(len(answers), len(rows), away))
        answers = np.concatenate([answers, more])


def _widened(estimate: Estimate, error: float, step: InputStep) -> Estimate:
    """Limits that also allow for the step's error, and for heavy scatter where there may be some."""
    return estimate.widened(error + step.heavy * estimate.heaviness)


def _sketch(
    x: NDArray[np.floating], index: int, space: Space, step: InputStep, count: int, settings: Settings
) -> tuple[DisplacedRows | LevelRows | OrthonormalRows, Redisplaced, str, int | None]:
    """Random directions of the kind that serves best, at its displacement and at others, its name, and d if orthogonal.

    Orthogonality serves linear answers. Over a long step one set of such directions would meet the same bends together,
    and their rows, which are no mere signs, would need the input moved farther from the edges of the box.
    """
    d = space.features
    if orthonormal_fits(count, d) and not space.quantised and not step.heavy:
        drawn = orthonormal_signs(generator(settings.seed, index, MAIN), count, d)

        def orthonormal(rho: float) -> OrthonormalRows:
            return OrthonormalRows(x, *drawn, space.step(rho), space.box, space.dtype)

        def again(rhos: Sequence[float], first: int) -> Rungs:
            return joined(space, [orthonormal(r).first(first) for r in rhos])

        return orthonormal(step.rho), again, "orthonormal", d
    signs = draw_signs(settings.seed, index, MAIN, count, x.size)

    def independent(rhos: Sequence[float], first: int) -> Rungs:
        return displaced_rungs(x, space, signs.first(first), rhos)

    return displaced(x, space, signs, step.rho), independent, "levels" if space.quantised else "rademacher", None


def _basis_serves(view: VisibleClasses, step: InputStep, steps: Steps, space: Space) -> bool:
    """Whether one feature at a time gives the local value: its change, sqrt(d) times smaller, must drown the noise."""
    if step.finite is not None or (space.quantised and coordinate_reach(space) > steps.reach):
        return False
    if view.noise is None or step.energy <= 0:
        return True
    return space.features**2 * view.noise.total <= 2 * BASIS_NOISE * step.rho**2 * step.energy


def _quantum(base_answers: BaseAnswers) -> float:
    return max(base_answers.quality.quantum, resolution(base_answers.base))


def _noise_reason(main: _MainAnswers, step: InputStep, settings: Settings, base_answers: BaseAnswers) -> str:
    """What stood in the way, and what would help."""
    quality, base = base_answers.quality, base_answers.base
    at = f"at a displacement of {step.rho:.3g}"
    tail = "the spectral norm lies between 0 and the upper limit"
    noise = main.view.noise
    if main.view.unmeasurable and quality.random:
        deviation = np.sort(DEVIATIONS * base.std(axis=0, ddof=1) / np.maximum(base.mean(axis=0), 1e-12))
        wanted = settings.queries * max(1.0, float(deviation[1])) ** 2
        return f"the model's noise hides the classes; about {wanted:,.0f} queries would resolve it for two of them; {tail}"
    if main.view.unmeasurable and quality.quantum > 0:
        return f"rounding to {quality.quantum:g} hides every class but the predicted one; {tail}"
    if noise is None or noise.total == 0 or main.estimate is None or not main.length:
        return f"the answers did not change measurably {at}; {tail}"
    share = max(main.estimate.trace.value, 1e-300) * main.length**2 / noise.total
    if quality.random:
        needed = settings.queries * ((1 + 1 / max(share, 1e-3)) / (1 + 1 / SIGNAL)) ** 2
        more = "more than " if share <= 1e-3 else "about "
        return (
            f"the model's noise is {1 / max(share, 1e-3):.2g} times the signal or more {at}; "
            f"{more}{needed:,.0f} queries would resolve it; {tail}"
        )
    decimals = int(np.ceil(0.5 * np.log10(SIGNAL / min(max(share, 1e-8), SIGNAL / 10))))
    return (
        f"rounding to {_quantum(base_answers):.2g} drowns the changes of the answers {at}; "
        f"about {max(1, decimals)} more decimals would resolve them; {tail}"
    )
