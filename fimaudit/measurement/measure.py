"""One input's measurement, as a flow: it yields the rows it wants asked and receives their answers.

Nothing here calls a model. Whoever drives the flow passes every row through the meter, runs many of these side by side, and
decides what runs beside it; no call holds rows of two inputs.
"""

from __future__ import annotations

from fimaudit.measurement.additivity import KINKED, Joint, norm_error, unexplained_shares
from fimaudit.measurement.boundary import NotHeld
from fimaudit.measurement.context import DisplacedContext, InputContext
from fimaudit.measurement.counterexample import find_witness
from fimaudit.measurement.deflation_trial import JacobianLearner
from fimaudit.measurement.design import MainAnswers, first_applicable
from fimaudit.measurement.designs import DESIGNS
from fimaudit.measurement.explain import TOGETHER
from fimaudit.measurement.input_step import find_step
from fimaudit.measurement.outcome import below_detection, measured, steps_disagree, unrepeatable
from fimaudit.measurement.protocol import BatchedStep, Flow, MeasurementFlow, side_by_side
from fimaudit.measurement.random_designs import RandomDesign
from fimaudit.measurement.recheck import OutlierRecheck
from fimaudit.measurement.scale_profile import Profile, measure_profile
from fimaudit.measurement.slope_walk import SlopeWalk, walk_slope
from fimaudit.results import Witness

__all__ = ["measure_input"]

#: Where two steps of a whole Jacobian differ by more, as a share of the limits that they give, neither is a value.
ALIKE = 0.25
#: Where joint displacements leave more unexplained by single features, one of the two met a jump.
UNEXPLAINED = 0.5


def measure_input(ctx: InputContext, learner: JacobianLearner | None = None) -> MeasurementFlow:
    """Measure one input.

    Args:
        ctx: the input, and all that decides how it is measured.
        learner: learns from the random rows.

    Returns:
        the finished ``Sensitivity``; limits cover the sampling of directions.
    """
    base_answers, step = yield from find_step(ctx)
    ctx = ctx.at(base_answers, step)
    recheck = OutlierRecheck(ctx)
    main = yield from recheck.record(first_applicable(DESIGNS, ctx).measure())
    nothing_moved = main.estimate is None or not main.estimate.spectral.upper > 0
    if main.estimate is None or nothing_moved or not step.above_noise:
        if step.has_slope:
            return below_detection(ctx, main)
        profile = yield from measure_profile(ctx, main)
        return below_detection(ctx, main, profile.rungs, (yield from _find_counterexample(ctx, main)))
    if (difference := (yield from recheck.ask_again(main))) is not None:
        return unrepeatable(ctx, main, difference)
    if main.design.exact and main.estimate.spectral.lower < ALIKE * main.estimate.spectral.upper:
        return steps_disagree(ctx, main, (yield from _find_counterexample(ctx, main)))
    if learner is not None and isinstance(main.design, RandomDesign):
        learner.take(ctx.index, main.design.rows, ctx.space, main.view, main.answers, main.length)
    walks = ctx.settings.profile != "off" or ctx.settings.witness
    profile, *walked = yield from side_by_side([measure_profile(ctx, main), *([walk_slope(ctx, main)] * walks)])
    if (share := (yield from _unexplained(ctx, main, profile))) > UNEXPLAINED:
        return steps_disagree(ctx, main, (yield from _find_counterexample(ctx, main)), TOGETHER)
    walk = walked[0] if walked else None
    witness = yield from _find_counterexample(ctx, main, walk)
    estimate = step.widened(main.estimate, exact=main.design.exact).widened(norm_error(share) + main.unsure)
    return measured(ctx, main, estimate, profile.rungs, walk, witness, kinked=share >= KINKED)


def _unexplained(ctx: DisplacedContext, main: MainAnswers, profile: Profile) -> Flow[float]:
    """Share of joint displacements' answers that single features do not explain; 0 where nothing can be said."""
    if main.jacobian is None or profile.first is None or main.view.noise is not None or ctx.space.quantised:
        return 0.0
    share: float = yield BatchedStep(unexplained_shares, Joint(ctx.space, profile.first, main.jacobian))
    return share


def _find_counterexample(
    ctx: DisplacedContext, main: MainAnswers, walk: SlopeWalk | None = None
) -> Flow[Witness | NotHeld | None]:
    """A displacement that changes the decision, where one is wanted and a way to it is known.

    Where the answers have a slope, the way is along it; else towards the nearest input that is decided otherwise.
    """
    if not ctx.settings.witness:
        return None
    slope = main.slope if ctx.step.has_slope else ctx.way_to_other(main.view.top)
    if slope is None:
        return None
    asked = None if walk is None else walk.asked
    top, random = main.view.top, ctx.quality.random
    return (yield from find_witness(ctx.x, ctx.space, slope, top, tells=ctx.tells, asked=asked, random=random))
