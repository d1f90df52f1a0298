"""Why an input has no value, or not the one that was hoped for, in words, and what would help."""

from __future__ import annotations

import numpy as np

from fimaudit.estimation.noise import DEVIATIONS, SIGNAL
from fimaudit.measurement.context import DisplacedContext
from fimaudit.measurement.design import MainAnswers

__all__ = [
    "BENT",
    "COUNTED",
    "DISAGREE",
    "FAR_STEP",
    "FELL",
    "FLIPPED",
    "JUMPED",
    "LONGER",
    "NOT_SMOOTH",
    "NO_CHANGE",
    "NO_SLOPE",
    "OUTSIDE",
    "OVERSTATED",
    "PARTIAL",
    "RIVAL_HIDDEN",
    "TOGETHER",
    "UNREPEATABLE",
    "WALKED",
    "WITNESSED",
    "undetected_reason",
]

PARTIAL = "the answers show some labels only, so the spectral norm is a lower bound of the model's"
RIVAL_HIDDEN = "a class that the answers hide may be the nearest rival, so the margin radius has no value"
OVERSTATED = (
    "the radius falls to {share:.0f} % of the local one at a displacement of {at:.3g}: "
    "the model is calmer at this input than around it, so the local radius overstates the distance"
)
UNREPEATABLE = (
    "asked again, one row around the input was answered differently (by {difference:.2g} in probability), which "
    "noise of one size does not explain: perhaps two versions of the model answer, and each can be audited alone; or an "
    "answer depends on the rows beside it"
)
JUMPED = "a few answers at a displacement of {at:.3g} lie far from all others, so the answers jump around the input"
BENT = (
    "the answers at a displacement of {at:.3g} lie farther apart than any slope leads, so the model bends over it; the "
    "numbers are those of there"
)
DISAGREE = (
    "steps of a displacement of {at:.3g} and of half of it give quite different slopes: the answers jump or bend there, and "
    "neither value is known"
)
TOGETHER = (
    "displacements of {at:.3g} of single features and of all at once give quite different slopes: the answers jump or bend "
    "there, and neither value is known"
)
FAR_STEP = "measured over {times:.2g} times the common displacement, over which this input does not answer linearly"
COUNTED = (
    "the answers come in steps of {step:.2g}, which rounding or votes may have made, so nothing between them is local; "
    "the numbers are those at a displacement of {at:.3g}"
)
LONGER = "the displacement of {at:.3g} is longer than the margin radius, so the numbers are not local"
OVERSTATES = "less than the lower limit of {lower:.3g} that the slope at the input gives, which overstates the distance"
WALKED = "a displacement of {at:.3g} along the slope changed the decision, " + OVERSTATES
FELL = (
    "along the slope the decision is even at {share:.0f} % of the distance at which a linear function would change it: "
    "the model is calmer at this input than around it, so the local radius overstates the distance"
)
FLIPPED = "a random displacement of {at:.3g} changed the decision, " + OVERSTATES
WITNESSED = "a displacement of {at:.3g} was found that changes the decision, " + OVERSTATES
OUTSIDE = "the domain ends at a distance of {at:.3g}, " + OVERSTATES
NO_SLOPE = "answers that jump have no slope, so the margin radius has no value"
SHORTER = "the margin radius would be shorter than that, where nothing is known of the answers, so it has no value"
NO_CHANGE = "answers that did not change say nothing of how far another decision is, so the margin radius has no lower limit"
NOT_SMOOTH = "nothing shows that the model is smooth there, so the margin radius has no lower limit"
#: What limits there are where nothing was detected.
LIMITS = "the spectral norm lies between 0 and the upper limit"
NO_LIMITS = "nothing shows that the model is smooth at shorter ones, so the spectral norm has no upper limit"
#: Shares of signal in noise below which a recommendation would be a guess.
LEAST_SHARE, LEAST_SHARE_ROUNDED = 1e-3, 1e-8


def undetected_reason(ctx: DisplacedContext, main: MainAnswers, *, known: bool) -> str:
    """Why the answers did not change measurably, and what would resolve them.

    Args:
        ctx: the input.
        main: what the main directions showed.
        known: whether the spectral norm has an upper limit.
    """
    return f"{_obstacle(ctx, main)}; {LIMITS if known else NO_LIMITS}"


def _obstacle(ctx: DisplacedContext, main: MainAnswers) -> str:
    quality, noise, queries = ctx.quality, main.view.noise, ctx.settings.queries
    at = f"at a displacement of {ctx.step.rho:.3g}"
    if main.view.unmeasurable and quality.random:
        base = ctx.base_answers.base
        deviation = np.sort(DEVIATIONS * base.std(axis=0, ddof=1) / np.maximum(base.mean(axis=0), 1e-12))
        wanted = queries * max(1.0, float(deviation[1])) ** 2
        return f"the model's noise hides the classes; about {wanted:,.0f} queries would resolve it for two of them"
    if ctx.steps.quality.quantum_unknown:
        return "the answers are 0 and 1, so that whatever they are rounded to hides every class but the predicted one"
    if main.view.unmeasurable and quality.quantum > 0:
        return f"rounding to {quality.quantum:g} hides every class but the predicted one"
    if noise is None or noise.total == 0 or main.estimate is None or not main.length:
        return f"the answers did not change measurably {at}"
    share = max(main.estimate.trace.value, 1e-300) * main.length**2 / noise.total
    if quality.random:
        least = max(share, LEAST_SHARE)
        needed = queries * ((1 + 1 / least) / (1 + 1 / SIGNAL)) ** 2
        more = "more than" if share <= LEAST_SHARE else "about"
        return (
            f"the model's noise is {1 / least:.2g} times the signal or more {at}; "
            f"{more} {needed:,.0f} queries would resolve it"
        )
    if main.estimate.trace.lower <= 0:
        return f"rounding to {ctx.quantum:.2g} drowns the changes of the answers {at}, if there are any"
    decimals = int(np.ceil(0.5 * np.log10(SIGNAL / min(max(share, LEAST_SHARE_ROUNDED), SIGNAL / 10))))
    return (
        f"rounding to {ctx.quantum:.2g} drowns the changes of the answers {at}; "
        f"about {max(1, decimals)} more decimals would resolve them"
    )
