"""Derivatives beside the function: do the model's own answers move as its derivatives say?

A gradient reversal, a custom backward, a detached part, a rounding inside: autograd then differentiates another function
than the one that answers. So at a point near each input, where exact ties of ReLU and max-pooling are broken, a few
directions u of length h are asked both ways, and in s = 2 sqrt(p)

    (s(x + u) - s(x - u)) / 2 = J u + O(h^3) + noise

is compared with derivatives pulled back from a few directions of class space. One step is enough where the two agree. Where
they do not, further steps show why: a disagreement by curvature shrinks with the step, h^2 a unit of length (h where ReLUs
bend), that of arithmetic noise does not grow with it, and what does neither is the derivative's, or that of a bend nearer
than any step. The latter is chance, which is rare at a second point; so an alarm counts when one of two further points
raises it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import InputFailed, ModelFailure
from fimaudit.estimation.secants import complete
from fimaudit.models.classifier import Classifier, Differentiable
from fimaudit.models.linearization import linearize
from fimaudit.models.meter import Meter
from fimaudit.perturbations.random_signs import generator
from fimaudit.perturbations.rows import PlainRows
from fimaudit.space import Space
from fimaudit.whitebox.measure import NOT_FINITE, inputs_together
from fimaudit.whitebox.result import WhiteBox

__all__ = ["MOST_ROWS", "SecantCheck", "arithmetic", "as_fed", "check_secants", "first_step", "in_half"]

Array = NDArray[np.float64]

#: Streams of the generator that no measurement uses, one a point. At one point 4 % of inputs of plain ReLU networks of 50
#: layers disagree by chance (tests/whitebox/test_secant_check.py).
STREAMS = (103, 104, 105)
#: Directions of an input: the steepest, and random signs. Directions of class space that are pulled back.
DIRECTIONS, COTANGENTS = 3, 4
#: Change of s over the first step, and what arithmetic may add to it, by the width of the numbers that are computed with.
CHANGE = 3e-4
ARITHMETIC = {4: 2e-6, 8: 1e-9}
#: Disagreement, as a share of the change, up to which the two are the same at once, and beyond which they are not.
AGREE, DISAGREE = 0.03, 0.06
#: The base point lies so many first steps from the input: far enough that few steps cross the ties that were broken.
AWAY = 30.0
#: The longest first step, as a share of the input's typical number.
LONGEST = 0.02
#: Further steps, in first steps. The two shortest show the noise; none is longer than this share of the typical number.
SHORTER, LONGER = (1 / 512, 1 / 64, 1 / 8), (8.0, 64.0)
FARTHEST = 0.25
#: A change is above the noise from so many times it on.
ABOVE_NOISE, NOISE = 5.0, 3.0
#: Curvature makes the disagreement of a unit of length grow by 64 from step to step, ReLUs make it grow by 8.
BENDS = 4.0
#: A change of 2 sqrt(p) from which on a model has nowhere to go: sqrt(8) is the longest.
ALTOGETHER = 0.2
#: Answers that change by less than this share of what the derivatives say stand still, as no curvature has it.
UNMOVED = 0.1
#: Rows that an input takes at most: steps both ways, passes, and the base point.
MOST_ROWS = len(STREAMS) * (2 * DIRECTIONS * (1 + len(SHORTER + LONGER)) + COTANGENTS + 1)


@dataclass(frozen=True)
class SecantCheck:
    """What the comparison at one input showed.

    Attributes:
        reason: why the derivatives are not those of the answers; ``None`` where they agree.
        rows: asked of the model, and counted.
        passes: through the model beside them, which are to be counted.
        requests: calls.
    """

    reason: str | None
    rows: int = 0
    passes: int = 0
    requests: int = 0

    def after(self, before: SecantCheck) -> SecantCheck:
        """This one at a further point, with what those before it took."""
        spent = (before.rows + self.rows, before.passes + self.passes, before.requests + self.requests)
        return SecantCheck(self.reason, *spent)


@dataclass
class _Point:
    """One input's base point and derivatives, and what its steps showed.

    Attributes:
        base: (d,) float64.
        pulled: (V, d) rows e^T J, J of 2 sqrt(p).
        classes: (V, K) the directions e.
        ways: (D, d) directions, of a root mean square of 1 in units of the first step.
        first: root mean square of a feature in the first step.
        unit: typical size of a number of the input.
        top: the predicted class.
        steps: what was asked so far.
    """

    base: Array
    pulled: Array
    classes: Array
    ways: Array
    first: float
    unit: float
    top: int
    steps: list[_Step]


class _Step(NamedTuple):
    """Length in first steps; disagreement, the larger of both changes, and that of the answers, root mean squares in s."""

    length: float
    off: float
    size: float
    moved: float


def check_secants(
    meter: Meter, x: NDArray[np.floating], found: Sequence[WhiteBox], space: Space, *, seed: int, indices: Sequence[int]
) -> list[SecantCheck]:
    """Compare derivatives with secants at each of these inputs, and where they disagree at further points beside it.

    Args:
        meter: the door to a ``Differentiable`` model; counts each row.
        x: (n, \\*shape) inputs that were measured together.
        found: what their derivatives gave.
        space: bounds are respected.
        seed, indices: key of the random directions.

    Raises:
        BudgetExhausted: the budget does not allow the rows.
        ModelFailure, TargetError: the derivative cannot be taken there.
    """
    out, places = [SecantCheck(None)] * len(indices), list(range(len(indices)))
    alarms = [0] * len(indices)
    for stream in STREAMS:
        if not places:
            break
        keys = [generator(seed, indices[place], stream) for place in places]
        some = ([found[place] for place in places], [indices[place] for place in places])
        for place, check in zip(places, _check_at_points(meter, x[places], *some, space, keys), strict=True):
            out[place] = check.after(out[place])
            alarms[place] += check.reason is not None
        places = [place for place in places if alarms[place] == 1]
    return [check if count > 1 else replace(check, reason=None) for check, count in zip(out, alarms, strict=True)]


def _check_at_points(
    meter: Meter,
    x: NDArray[np.floating],
    found: Sequence[WhiteBox],
    indices: Sequence[int],
    space: Space,
    rngs: Sequence[np.random.Generator],
) -> list[SecantCheck]:
    """The comparison at one point beside each input, which its generator chooses."""
    points = _points(meter, x, found, space, rngs)
    owners = list(indices)
    _ask(meter, points, owners, [[1.0] for _ in points], x.shape[1:], space)
    floor = arithmetic(meter.model)
    disagreeing = [place for place, point in enumerate(points) if not _agree(point.steps[0], floor)]
    some = [points[place] for place in disagreeing]
    further = [[*SHORTER, *(f for f in LONGER if f * point.first <= FARTHEST * point.unit)] for point in some]
    _ask(meter, some, [owners[place] for place in disagreeing], further, x.shape[1:], space)
    out = []
    for place, point in enumerate(points):
        rows, passes = 2 * DIRECTIONS * len(point.steps), len(point.pulled) + 1
        if in_half(meter.model):  # not asked through the meter
            rows, passes = 0, rows + passes
        reason = _verdict(sorted(point.steps), floor, in_half(meter.model)) if place in disagreeing else None
        out.append(SecantCheck(reason, rows, passes, len(point.steps)))
    return out


def _points(
    meter: Meter,
    x: NDArray[np.floating],
    found: Sequence[WhiteBox],
    space: Space,
    rngs: Sequence[np.random.Generator],
) -> list[_Point]:
    """Linearised base points, in as few passes as the meter's batch allows."""
    model: Differentiable = meter.model  # type: ignore[assignment]
    fed = np.dtype(model.info.dtype)
    flat = x.reshape(len(x), -1).astype(np.float64)
    units = [float(np.sqrt(np.mean(one**2))) or 1.0 for one in flat]
    firsts = [first_step(one.trace, unit) for one, unit in zip(found, units, strict=True)]
    flat_bases = np.stack([_near(one, first, space, rng) for one, first, rng in zip(flat, firsts, rngs, strict=True)])
    flat_bases = as_fed(flat_bases, model)
    fed_bases = flat_bases.reshape(x.shape).astype(fed)
    together = min(inputs_together(model, fed_bases), meter.batch or len(x))
    count = len(found[0].probabilities)
    size = min(COTANGENTS, count)
    points: list[_Point] = []
    for start in range(0, len(x), together):
        part = slice(start, start + together)
        at = linearize(model, fed_bases[part])
        log_p = at.log_probabilities
        classes = np.stack([_orthonormal(rng, size, count) for rng in rngs[part]])
        pulled = np.stack([at.pull(classes[:, v] * np.exp(log_p / 2)) for v in range(size)], axis=1)
        pulled = pulled.reshape(len(log_p), size, -1).astype(np.float64)
        for i, rows in enumerate(pulled):
            if not np.isfinite(rows).all():
                raise ModelFailure(NOT_FINITE)
            rows[:, space.frozen.ravel()] = 0.0  # what is held is neither displaced nor differentiated
            first, rng = first_step(float((rows**2).sum()), units[start + i]), rngs[start + i]
            ways = np.where(space.frozen.ravel(), 0.0, _ways(rows, rng, first))
            top = int(np.argmax(log_p[i]))
            base = flat_bases[start + i]
            points.append(_Point(base, rows, classes[i], ways, first, units[start + i], top, []))
    return points


def first_step(trace: float | None, unit: float) -> float:
    """Root mean square of a feature in the first step: s is to change by ``CHANGE``."""
    return min(CHANGE / float(np.sqrt(trace)) if trace else np.inf, LONGEST * unit)


def arithmetic(model: Classifier) -> float:
    """What the last digits of the numbers that a model computes with may add to a change of s."""
    return ARITHMETIC.get(np.dtype(model.info.dtype).itemsize, ARITHMETIC[4])


def _near(x: Array, first: float, space: Space, rng: np.random.Generator) -> Array:
    """A point beside the input, inside its bounds by the length of a step where there is room."""
    moved = x + first * AWAY * rng.uniform(0.3, 1.0, x.size) * rng.choice([-1.0, 1.0], x.size)
    low, high = space.lower.ravel(), space.upper.ravel()
    with np.errstate(invalid="ignore"):
        room = np.where(np.isfinite(high - low), np.minimum(first, (high - low) / 4), first)
    inside: Array = np.where(space.frozen.ravel(), x, np.clip(moved, low + room, high - room))
    return inside


def _orthonormal(rng: np.random.Generator, count: int, classes: int) -> Array:
    """(count, classes) orthonormal directions, scaled so that they carry the whole of a vector's length on average."""
    q, _ = np.linalg.qr(rng.standard_normal((classes, count)))
    return np.asarray(q.T * np.sqrt(classes / count))


def _ways(pulled: Array, rng: np.random.Generator, first: float) -> Array:
    """The steepest direction that the derivatives claim, over which s changes as over the first step, and random signs."""
    features = pulled.shape[1]
    ways = rng.choice([-1.0, 1.0], (DIRECTIONS, features))
    steep = pulled[int(np.argmax((pulled**2).sum(axis=1)))]
    slope = float(np.linalg.norm(steep))
    if slope > 0:
        length = min(CHANGE / slope, first * np.sqrt(features))
        ways[0] = steep / slope * (length / first)
    return ways


def _ask(
    meter: Meter,
    points: Sequence[_Point],
    owners: Sequence[int],
    steps: Sequence[Sequence[float]],
    shape: tuple[int, ...],
    space: Space,
) -> None:
    """Ask each point's steps both ways, all rows of a point in calls of its own, and keep what they show."""
    model: Differentiable = meter.model  # type: ignore[assignment]
    questions, kept = [], []
    for point, factors in zip(points, steps, strict=True):
        moves = np.concatenate([factor * point.first * point.ways for factor in factors])
        least = _spacing(model) * np.abs(point.base)
        moves = np.copysign(np.maximum(np.abs(moves), least * (moves != 0)), moves)
        ends = np.concatenate([point.base + moves, point.base - moves])
        rows = as_fed(np.clip(ends, space.lower.ravel(), space.upper.ravel()), model)
        kept.append(rows)
        questions.append(PlainRows(rows.reshape(-1, *shape).astype(model.info.dtype)))
    if not questions:
        return
    answers = _answers(meter, questions, owners)
    for point, factors, rows, answer in zip(points, steps, kept, answers, strict=True):
        if isinstance(answer, InputFailed):
            raise answer.error
        half = len(rows) // 2
        sent = (rows[:half] - rows[half:]) / 2
        roots = 2 * np.sqrt(np.maximum(complete(answer, point.top), 0.0))
        seen = ((roots[:half] - roots[half:]) / 2) @ point.classes.T
        claimed = sent @ point.pulled.T
        for factor, of_seen, of_claimed in zip(
            factors, np.split(seen, len(factors)), np.split(claimed, len(factors)), strict=True
        ):
            off, moved = _length(of_seen - of_claimed), _length(of_seen)
            point.steps.append(_Step(factor, off, max(moved, _length(of_claimed)), moved))


def _spacing(model: Differentiable) -> float:
    """Of the numbers that the model is fed, as a share of them."""
    inside = model.info.details.get("model_dtype")
    return 2.0**-7 if inside == "bfloat16" else float(np.finfo(model.info.dtype).eps)


def as_fed(rows: Array, model: Differentiable) -> Array:
    """The numbers that the model gets to see, in float64; numpy has no bfloat16, which is the first half of a float32."""
    if model.info.details.get("model_dtype") == "bfloat16":
        return (rows.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    return np.asarray(rows.astype(model.info.dtype), dtype=np.float64)


def in_half(model: Classifier) -> bool:
    return model.info.details.get("model_dtype", model.info.dtype) in ("float16", "bfloat16")


def _answers(meter: Meter, questions: Sequence[PlainRows], owners: Sequence[int]) -> list[Array | InputFailed]:
    """The answers, or those of the copy in float32 that half-precision networks are differentiated at."""
    model: Differentiable = meter.model  # type: ignore[assignment]
    if not in_half(model):
        return meter.ask_each(questions, owners=owners, occasion="secants")
    answers: list[Array | InputFailed] = []
    for question in questions:
        together = min(inputs_together(model, question.rows), meter.batch or len(question))
        pieces = []
        for start in range(0, len(question), together):
            piece = question.build(start, start + together)
            pieces.append(np.exp(linearize(model, piece).log_probabilities))
        answers.append(np.concatenate(pieces))
    return answers


def _length(values: Array) -> float:
    """Root mean square over directions of the length over classes."""
    return float(np.sqrt((values**2).sum(axis=1).mean()))


def _agree(step: _Step, floor: float) -> bool:
    return step.off <= AGREE * step.size + floor


def _verdict(steps: list[_Step], floor: float, known: bool) -> str | None:
    """Whether the shortest step whose change is above the noise disagrees, and not by curvature: a sentence, or ``None``."""
    noise = floor if known else max(NOISE * min(steps[0].off, steps[1].off), floor)
    for shorter, step, longer in zip(steps, steps[1:], steps[2:], strict=False):
        if step.size < ABOVE_NOISE * noise:
            # Noise makes no two agree: what does over so short a step is only as quiet as it may be.
            if step.size > noise and step.off <= DISAGREE * step.size:
                return None
            continue
        slope = step.off / step.length
        bends = longer.off / longer.length >= BENDS * slope
        # Answers that change altogether within a step cannot go on growing.
        bends |= longer.off > ALTOGETHER and slope >= BENDS * shorter.off / shorter.length
        unmoved = step.moved <= UNMOVED * step.size
        if step.off <= DISAGREE * step.size + noise or (bends and not unmoved):
            return None
        return (
            "the derivatives are not those of the answers (a backward of its own, a detached part or a rounding inside the "
            f"model): where these change by {step.moved:.2g} in 2 sqrt(p) over a short step, they are off by {step.off:.2g}"
        )
    return None
