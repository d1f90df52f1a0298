"""The pilot's questions: a ladder of displacements at a few inputs, a second pair of directions where one leaves a doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import FimauditError, InputFailed, ModelFailure, UsageError
from fimaudit.estimation.noise import OutputQuality
from fimaudit.measurement.energy import (
    FACTOR,
    Rungs,
    Signs,
    displaced,
    displaced_rungs,
    draw_pairs,
    is_centred,
    joined,
)
from fimaudit.measurement.ladder import LadderAnswers, PilotLadder, has_exact_answers, read_ladder
from fimaudit.measurement.plateau import ladder
from fimaudit.measurement.query_split import ON_TOP
from fimaudit.measurement.settings import Settings
from fimaudit.models.classifier import NetworkClassifier
from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import JoinedRows, PlainRows, Rows
from fimaudit.space import Space
from fimaudit.statistics.spread import evenly_spread

__all__ = ["CHECK_PAIRS", "LEAST_PILOT", "PILOT_INPUTS", "answers_each", "ask_ladder", "ladder_question"]

Array = NDArray[np.float64]

#: Inputs of the pilot, and pairs of directions at most; a second pair averages what rounding scatters.
PILOT_INPUTS, CHECK_PAIRS = 5, 2
#: Rows that a pilot may take however few the queries: one input, two pairs, every other rung of the 16 decades that float64
#: tells apart and some, and a random model's repeats.
LEAST_PILOT = 150
#: Inputs share a question up to so many bytes; behind a network they are in memory all at once.
TOGETHER_BYTES = 64 * 2**20
#: A step must be this many times the spacing of the model's floating-point numbers, so that it is really sent.
SPACINGS = 4.0


def ask_ladder(
    meter: Meter,
    x: NDArray[np.floating],
    flat: Array,
    space: Space,
    settings: Settings,
    quality: OutputQuality,
    *,
    sizes: tuple[float, float] | None = None,
    most_pairs: int = CHECK_PAIRS,
) -> PilotLadder:
    """Energies at about five inputs; a second pair of directions where the first leaves a doubt.

    Args:
        meter: the door to the model.
        x: (n, \\*shape) all inputs of the audit.
        flat: (n, d) their features that may change, in units of the scale.
        space: their domain.
        settings: the audit's settings.
        quality: what is known of the answers.
        sizes: the ``spread`` of ``flat``, where it is known.
        most_pairs: of directions at an input.
    """
    n = len(x)
    rungs = _rungs(flat, space, sizes)
    ways = 2 if space.quantised else 1
    most_rows = int(ON_TOP * n * settings.queries)
    allowed = most_rows - n * 2 * 2 * most_pairs  # the inputs' checks
    if allowed < 2 * len(rungs) * ways:
        rungs = rungs[(len(rungs) - 1) % 2 :: 2]  # every other one, the longest among them
    blocks_each = len(rungs) * ways
    # One pair shows jumps where the input is in its middle; two do elsewhere.
    few = evenly_spread(n, PILOT_INPUTS)
    centred = not (space.quantised and space.bounded) and all(is_centred(x[i], space, float(rungs[0])) for i in few)
    least = 1 if centred else most_pairs
    count = int(np.clip(allowed // (2 * least * blocks_each + quality.repeats), 1, min(PILOT_INPUTS, n)))
    chosen = evenly_spread(n, count).tolist()

    def pairs(rows: int) -> int:
        return int(np.clip((rows // count - quality.repeats) // (2 * blocks_each), least, most_pairs))

    def drawn(places: Sequence[int]) -> dict[int, Signs]:
        return {i: draw_pairs(settings.seed, i, 2 * most_pairs, x[0].size) for i in places}

    def ask(signs: Mapping[int, Signs], first: int, last: int, repeats: int) -> dict[int, LadderAnswers]:
        return _ask_inputs(meter, x, space, rungs, {i: _pairs(signs[i], first, last) for i in signs}, repeats)

    signs = drawn(chosen)
    first = least if has_exact_answers(quality) and not space.quantised else pairs(allowed)
    try:
        try:
            ladders = ask(signs, 0, first, quality.repeats)
        except InputFailed:
            others = [i for i in few.tolist() if i not in signs][:count]
            if not others or isinstance(meter.model, NetworkClassifier):
                raise
            signs |= drawn(others)  # where these few have no answers, others may
            ladders = ask({i: signs[i] for i in others}, 0, first, quality.repeats)
    except InputFailed as failure:
        raise failure.error from failure.error.__cause__
    asked = read_ladder(rungs, ladders, quality)
    # A verdict on the whole run is worth rows that the inputs' own measurements then go without.
    others = [i for i in few.tolist() if i not in signs][: max(0, most_rows - asked.rows) * len(ladders) // asked.rows]
    if others and asked.exact and not (asked.plain or space.quantised):
        signs |= drawn(others)
        with suppress(InputFailed):  # what the first inputs say is right, only less sure
            ladders = dict(sorted({**ladders, **ask({i: signs[i] for i in others}, 0, first, quality.repeats)}.items()))
        asked, count = read_ladder(rungs, ladders, quality), len(ladders)
    most = pairs(most_rows if asked.without_plateau and not space.quantised else allowed)
    if first >= most or asked.plain:
        return asked
    try:
        further = ask({i: signs[i] for i in ladders}, first, most, 0)
    except InputFailed as failure:
        # The first pair's energies are right, only less sure, unless a verdict rests on them.
        if asked.without_plateau:
            raise failure.error from failure.error.__cause__
        return asked
    both = {i: replace(ladders[i], more=further[i].first) for i in further}
    return read_ladder(rungs, {**ladders, **both}, quality)


def _pairs(signs: Signs, first: int, last: int) -> Signs:
    """Some of the antipodal pairs."""
    half = len(signs) // 2
    rows = np.r_[first:last, half + first : half + last]
    return Signs(signs.packed[rows], signs.phase[rows], signs.key)


def _ask_inputs(
    meter: Meter, x: NDArray[np.floating], space: Space, rhos: Array, signs: Mapping[int, Signs], repeats: int
) -> dict[int, LadderAnswers]:
    """The ladder at each input; inputs at which the model has no answers are left out."""
    blocks = [_ladder_rows(x[i], space.holding(x[i]), directions, rhos) for i, directions in signs.items()]
    answers = answers_each(
        meter, [ladder_question(x[i], space, these, repeats) for i, these in zip(signs, blocks, strict=True)]
    )
    return {
        i: LadderAnswers(these, a[:repeats], a[repeats:].reshape(len(these.lengths), -1, a.shape[1]))
        for i, these, a in zip(signs, blocks, answers, strict=True)
        if a is not None
    }


def ladder_question(x: NDArray[np.floating], space: Space, rungs: Rungs, repeats: int) -> Rows:
    """An input's rows: itself so many times, and its rungs."""
    itself = [PlainRows(np.repeat(x.astype(space.dtype)[None], repeats, axis=0))] if repeats else []
    return JoinedRows([*itself, rungs.rows])


def answers_each(
    meter: Meter, questions: Sequence[Rows], occasion: str | None = None, most_bytes: int = TOGETHER_BYTES
) -> list[Array | None]:
    """Answers to each question, asked together; ``None`` where the model has none, as that input's measurement will say.

    Raises:
        InputFailed: there is no answer to any.
        FimauditError: the same, because an endpoint failed as a whole.
    """
    answers: list[Array | None] = []
    refused: FimauditError | None = None
    together = max(1, most_bytes // (len(questions[0]) * questions[0].row_bytes))
    for first in range(0, len(questions), together):
        some = questions[first : first + together]
        try:
            found = meter.ask_each(some, occasion=occasion)
        except (ModelFailure, UsageError) as error:
            refused = error
            answers += [None] * len(some)
            continue
        answers += [None if isinstance(answer, InputFailed) else answer for answer in found]
        refused = next((answer for answer in found if isinstance(answer, InputFailed)), refused)
    if refused is not None and all(answer is None for answer in answers):
        raise refused
    return answers


def _ladder_rows(x: NDArray[np.floating], space: Space, signs: Signs, rhos: Array) -> Rungs:
    """The ladder; with levels, behind it the same directions at three times the length."""
    if not space.quantised:
        return displaced_rungs(x, space, signs, rhos)
    short = [displaced(x, space, signs, float(rho)) for rho in rhos]
    return joined(space, [*short, *(displaced(x, space, signs, FACTOR * float(rho), FACTOR) for rho in rhos)])


def _rungs(flat: Array, space: Space, sizes: tuple[float, float] | None) -> Array:
    """The ladder: no step shorter than the model's numbers or the input's levels can tell."""
    spacing = 0.0
    if np.dtype(space.dtype).kind == "f":
        scale = space.scale.ravel()[~space.frozen.ravel()]
        largest = np.maximum(flat.max(axis=0), -flat.min(axis=0)) * scale
        spacing = float(np.mean(np.spacing(largest.astype(space.dtype)).astype(np.float64) / scale))
    rungs = ladder(flat, space.features, SPACINGS * spacing, sizes)
    if not space.quantised:
        return rungs
    least = space.shortest
    top = max(float(rungs[-1]), least * 10.0)
    return np.asarray(least * 10.0 ** (0.25 * np.arange(int(np.floor(4 * np.log10(top / least))) + 1)))
