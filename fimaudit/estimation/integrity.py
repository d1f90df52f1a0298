"""Whether answers are those of one function whose slopes reach its decisions: four statistics with their error rates.

Each is a true statement about the function that was asked, so none needs to know how a vendor changes answers. What they
were measured on, and what no question can distinguish from an honest model, is said in ``docs/integrity.md``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = [
    "ERROR",
    "FAR_WITHIN",
    "HONEST_CEILING",
    "HONEST_FAR_WITHIN",
    "HONEST_JUMP",
    "HONEST_SHORT_SLOPE",
    "JUMP",
    "PILED",
    "SHORT_SLOPE",
    "at_ceiling",
    "ceiling_rounded",
    "detection_probability",
    "false_alarm",
    "fewest_findings",
    "history_matters",
    "history_threshold",
    "is_jump",
    "jump_share",
    "log_difference",
    "log_odds",
    "noticed_group",
    "reaches_one",
    "runner_up_movement",
    "slope_reach",
]

Array = NDArray[np.float64]

#: Probabilities below this count as 0, and of odds with one below that nothing is said.
VISIBLE, HIDDEN = 1e-6, 1e-30
#: Two answers to one row that differ by more, in log p, than this and than so many times what repeats differ by.
DIFFERENT, TIMES_NOISE = 1e-3, 5.0
#: What other rows of a call move an answer by may be more than was seen; a rounding may fall the other way.
TIMES_BATCH_EFFECT, ROUNDINGS = 4.0, 1.5
#: A jump of log-odds at a decision boundary is one above this share of the gap at the input, and beside so many times
#: what the slope at the input makes of the distance that is left; and one that halving the distance does not take away.
JUMP, STEEPER, REMAINS = 0.05, 4.0, 0.25
#: Share of the gap that the slope at an input would take over a way that really ends at another decision.
SHORT_SLOPE = 0.4
#: A real change of decision nearer than this share of the radius' lower limit.
FAR_WITHIN = 0.7
#: How often one input of an honest model shows each: above what was seen (0 of 1,180 jumps; 6.5 % short slopes and at most
#: one in 1,730 refuted radii with the worst of 19 networks).
HONEST_JUMP, HONEST_SHORT_SLOPE, HONEST_FAR_WITHIN = 0.01, 0.065, 1 / 1730
#: Two largest probabilities are one number where they differ by less than this share of what is left beside the largest of
#: all; of an answer that leaves less than this nothing is said.
SAME_TOP, LEFT = 1e-4, 1e-4
#: By how much the second largest number must move, as a share of what is left, to show that a largest one does not.
PILED = 0.05
#: How often a run of an honest model shows a ceiling: none of 11,700 draws of 16 inputs did (0.03 % at 95 % confidence).
HONEST_CEILING = 0.001
#: A run of an honest model is contradicted by each of them at most so often; of ``history`` a noisy one.
ERROR = 0.01


def fewest_findings(looked_at: int, honest: float) -> int:
    """The least k for which k or more of so many inputs of an honest model would show it with at most ``ERROR``.

    P(Binomial(n, honest) >= k) <= ERROR.

    >>> fewest_findings(8, HONEST_SHORT_SLOPE), fewest_findings(4, HONEST_JUMP)
    (4, 2)
    >>> fewest_findings(16, HONEST_FAR_WITHIN), fewest_findings(100, HONEST_FAR_WITHIN)
    (1, 2)
    """
    counts = np.arange(1, looked_at + 1)
    enough = special.betainc(counts, looked_at - counts + 1, honest) <= ERROR
    return int(counts[np.argmax(enough)]) if enough.any() else looked_at + 1


def false_alarm(looked_at: int, honest: float) -> float:
    """Probability that ``fewest`` or more of so many inputs of an honest model show it.

    >>> round(false_alarm(4, HONEST_JUMP), 4), round(false_alarm(8, HONEST_SHORT_SLOPE), 4), false_alarm(0, HONEST_JUMP)
    (0.0006, 0.001, 0.0)
    """
    need = fewest_findings(looked_at, honest)
    return float(special.betainc(need, looked_at - need + 1, honest)) if need <= looked_at else 0.0


def log_difference(first: Array, second: Array, quantum: float = 0.0, batch_effect: float = 0.0) -> float:
    """The largest difference of log p between answers (n, K) to the same rows.

    Args:
        first, second: the answers.
        quantum: what they are rounded to; one may be rounded the other way.
        batch_effect: difference of probability that the other rows of a call were seen to make.

    >>> round(log_difference(np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])), 3)
    0.693
    """
    allowed = ROUNDINGS * quantum + TIMES_BATCH_EFFECT * batch_effect
    high, low = np.maximum(first, second), np.minimum(first, second) + allowed
    seen = (high > VISIBLE) & (high > low)
    return float(np.log(np.where(seen, high, 1.0) / np.where(seen, np.maximum(low, VISIBLE), 1.0)).max(initial=0.0))


def history_matters(difference: float, noise: float, batch_effect_logs: float = 0.0) -> bool:
    """Whether the same rows were answered otherwise the second time, beyond what repeats differ by.

    Args:
        difference: ``log_difference`` of the answers on the way out and back.
        noise: the same of repeats of the way back.
        batch_effect_logs: difference of log p that the other rows of a call were seen to make.

    >>> history_matters(0.5, 0.0), history_matters(0.5, 0.2)
    (True, False)
    """
    return difference > history_threshold(noise, batch_effect_logs)


def detection_probability(share: float, pairs: int) -> float:
    """Probability that a second version, to which a ``share`` of the calls goes at random, answers one of some pair alone.

    1 - (1 - 2 s (1 - s))^n over n pairs of calls with the same rows. A version that is chosen by the row answers both calls
    of a pair and is not noticed so.

    >>> round(detection_probability(0.1, 3), 2), round(detection_probability(0.5, 3), 3)
    (0.45, 0.875)
    """
    return float(1.0 - (1.0 - 2.0 * share * (1.0 - share)) ** pairs)


def noticed_group(share: float, size: int, groups: int) -> float:
    """Probability that a second version, to which a ``share`` of the rows goes at random, answers some of a group only.

    1 - (s^n + (1 - s)^n)^m over m groups of n rows that differ in a last digit.

    >>> round(noticed_group(0.1, 9, 4), 3), round(noticed_group(0.5, 9, 4), 3)
    (0.977, 1.0)
    """
    return float(1.0 - (share**size + (1.0 - share) ** size) ** groups) if size else 0.0


def history_threshold(noise: float, batch_effect_logs: float = 0.0) -> float:
    """Difference of log p from which ``history_matters``.

    >>> history_threshold(0.0), history_threshold(0.2)
    (0.001, 1.0)
    """
    return max(DIFFERENT, TIMES_NOISE * noise, TIMES_BATCH_EFFECT * batch_effect_logs)


def log_odds(answers: Array, decision: int, other: int, quantum: float = 0.0) -> tuple[Array, Array]:
    """(log p_decision - log p_other, what rounding may have moved it by) of answers (n, K).

    >>> odds, moved = log_odds(np.array([[0.8, 0.2]]), 0, 1, 0.01)
    >>> odds.round(3).tolist(), moved.round(4).tolist()
    ([1.386], [0.0625])
    """
    floor = max(quantum / 2, 1e-300)
    two = np.maximum(answers[:, [decision, other]], floor)
    return np.log(two[:, 0] / two[:, 1]), quantum * (1.0 / two).sum(axis=1)


def jump_share(before: Array, after: Array, decision: int, other: int, gap: float, quantum: float = 0.0) -> float:
    """How far the log-odds fall between two neighbouring rows, as a share of the gap at the input; at least, if noisy.

    A continuous function has a tie where its decision changes, so that this goes to 0 with the distance of the rows.

    Args:
        before, after: (repeats, K) answers on either side of the boundary.
        decision, other: the classes there.
        gap: log-odds between them at the input.
        quantum: what the answers are rounded to.

    >>> round(jump_share(np.array([[0.6, 0.4]]), np.array([[0.4, 0.6]]), 0, 1, 2.0), 3)
    0.405
    """
    first, moved_first = log_odds(before, decision, other, quantum)
    last, moved_last = log_odds(after, decision, other, quantum)
    noise = np.ptp(first) + np.ptp(last)
    return float((first.min() - last.max() - noise - moved_first.max() - moved_last.max()) / gap)


def is_jump(first: float, second: float, left: float, radius: float) -> bool:
    """Whether a jump is one: large, not taken away by halving the distance, and not explained by the slope at the input.

    Args:
        first, second: ``jump_share`` before and after the distance was halved several times.
        left: distance of the two rows in the end, in the unit of the radius.
        radius: margin radius of the input.

    >>> is_jump(0.4, 0.4, 1e-3, 1.0), is_jump(0.4, 0.01, 1e-3, 1.0)
    (True, False)
    """
    return first > JUMP and second > JUMP + STEEPER * left / radius and second > REMAINS * first


def at_ceiling(tops: Array, largest: float) -> NDArray[np.bool_]:
    """Which largest probabilities (n,) are the ``largest`` of all, to its last digits.

    >>> at_ceiling(np.array([0.9, 0.9 - 1e-7, 0.89]), 0.9).tolist()
    [True, True, False]
    """
    return np.asarray(tops > largest - SAME_TOP * (1.0 - largest))


def ceiling_rounded(largest: float, quantum: float) -> bool:
    """Whether several largest probabilities may be the ``largest`` of all by rounding.

    >>> ceiling_rounded(0.9, 0.0), ceiling_rounded(0.9, 0.01)
    (False, True)
    """
    return quantum > SAME_TOP * (1.0 - largest)


def reaches_one(largest: float) -> bool:
    """Whether the ``largest`` probability of all leaves too little to speak of a ceiling.

    >>> reaches_one(0.9), reaches_one(0.99995)
    (False, True)
    """
    return 1.0 - largest <= LEFT


def runner_up_movement(answers: Array, largest: float) -> float:
    """By how much the second largest number moves among answers (n, K) at a ceiling, as a share of what is left.

    An honest softmax has a constant largest probability only where the sum of all others is constant: where they all are.

    >>> runner_up_movement(np.array([[0.9, 0.09, 0.01], [0.9, 0.06, 0.04], [0.5, 0.5, 0.0]]), 0.9)
    0.3
    """
    piled = answers[at_ceiling(answers.max(axis=1, initial=0.0), largest)] if len(answers) else answers
    if len(piled) < 2:
        return 0.0
    rest = np.sort(piled, axis=1)[:, :-1]
    return round(float(np.ptp(rest[:, -1] / rest.sum(axis=1))), 6)


def slope_reach(
    at_input: Array, at_step: Array, decision: int, other: int, step: float, distance: float, quantum: float = 0.0
) -> float | None:
    """Share of the gap that the slope at an input takes over a way that really ends at another decision; at most, if noisy.

    Q = (g(0) - g(h)) / h x distance / g(0) with g = log p_decision / p_other: 1 for a linear function. A monotone
    recalibration m -> M(m) of the margin leaves the distance and multiplies Q by its elasticity m M'(m) / M(m).

    Args:
        at_input, at_step: (repeats, K) answers at the input, and a step along the way.
        decision, other: the classes at the two ends of the way.
        step, distance: lengths of the step and of the way.
        quantum: what the answers are rounded to.

    Returns:
        ``None`` where the input itself is not decided for the first class, or one of the two is hidden.

    >>> at_input, at_step = np.array([[0.8, 0.2]]), np.array([[0.75, 0.25]])
    >>> round(slope_reach(at_input, at_step, 0, 1, 0.1, 0.5), 3)
    1.038
    """
    if min(at_input[:, [decision, other]].min(), at_step[:, [decision, other]].min()) <= max(quantum / 2, HIDDEN):
        return None
    start, moved_start = log_odds(at_input, decision, other, quantum)
    end, moved_end = log_odds(at_step, decision, other, quantum)
    gap = float(start.mean())
    if not gap > 0 or not step > 0:
        return None
    noise = np.ptp(start) + np.ptp(end)
    fall = float(start.max() - end.min() + noise + moved_start.max() + moved_end.max())
    return fall / step * distance / gap
