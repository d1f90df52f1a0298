"""The pilot's questions: a ladder of displacements at a few inputs, and a second look at the answers that stand out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.domain import Space
from fimaudit.errors import FimauditError, InputFailed, ModelFailure, UsageError
from fimaudit.estimation.noise import REPEATABLE, REPEATABLE_LOGS, BaseAnswers, OutputQuality
from fimaudit.measurement.distances import differences, squared_distances
from fimaudit.measurement.energy import (
    FACTOR,
    Answered,
    Rungs,
    Signs,
    displaced,
    displaced_rungs,
    draw_pairs,
    even_share,
    is_centred,
    joined,
    read_rungs_each,
)
from fimaudit.measurement.plateau import FLAT, Plateau, find_plateau, ladder
from fimaudit.measurement.query_split import ON_TOP
from fimaudit.measurement.settings import Settings
from fimaudit.models.links import output_resolution
from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import JoinedRows, PlainRows, Rows

__all__ = [
    "CHECK_PAIRS",
    "DWARFS",
    "JUMPS",
    "LEAST_PILOT",
    "PILOT_INPUTS",
    "QUIET",
    "QUIET_IN_NOISE",
    "SUSPECTS",
    "LadderAnswers",
    "PilotLadder",
    "ask_ladder",
    "look_again",
]

Array = NDArray[np.float64]

PILOT_INPUTS = 5
CHECK_PAIRS = 2
#: Rows that a pilot may take however few the queries: one input, two pairs, every other rung of the 16 decades that float64
#: tells apart and some, and a random model's repeats.
LEAST_PILOT = 150
#: One pair is enough where exact answers show a plateau of so many rungs (a decade): a second could only move the
#: displacement along it, where the energy is flat. Rounding scatters the energies themselves, so that a plateau may
#: end by chance; two pairs average that.
PLAIN_RUNGS = 4
#: Rows of each pilot input that are asked again, to see whether they are answered the same.
SUSPECTS = 3
AGAIN, ONCE_MORE = "second look", "third look"
#: Inputs share a question up to so many bytes; behind a network they are in memory all at once.
TOGETHER_BYTES = 64 * 2**20
#: A step must be this many times the spacing of the model's floating-point numbers, so that it is really sent.
SPACINGS = 4.0
#: An energy that changes more than this from rung to rung has no plateau at all.
NO_PLATEAU = 0.15
#: Percentile of the inputs that agree where the answers are quiet over a long run of rungs.
MOST_INPUTS = 50.0
#: Inputs that must say something of a rung.
KNOWN_INPUTS = 0.6
#: The even share up to which a linear function explains the answers, on so many neighbouring rungs at least; behind rounding
#: and noise, whose own even share is 3/4, it may be larger (tests/measurement/test_surface.py).
QUIET, QUIET_IN_NOISE, QUIET_RUNGS = 0.15, 0.25, 3
#: The even share from which the answers on a rung jump, and how many times an energy it must have to count beside it.
JUMPS, DWARFS = 0.30, 3.0
#: How far a lone jump stands above the plateau, between rungs within this factor of it: regime hash_routing_3 of
#: benchmarks/regimes.py, and its smooth ones, which show none.
LONE, BESIDE = 8.0, 2.0


@dataclass(frozen=True)
class PilotLadder:
    """What the pilot's answers say.

    Attributes:
        rungs: (rungs,) displacements.
        raw: (inputs, rungs) energies.
        above_noise: (inputs, rungs) whether they stand out from the noise.
        even, odd: (inputs, rungs) mean squared even and odd part of the antipodal pairs; NaN where that cannot be said.
        stretched: (inputs, rungs) with levels, the energies at three times the length; else (inputs, 0).
        base: (inputs, K) the answers to the inputs.
        quality: what the answers are worth.
        rows: asked.
        ladders: the answers, by input.
    """

    rungs: Array
    raw: Array
    above_noise: NDArray[np.bool_]
    even: Array
    odd: Array
    stretched: Array
    base: Array
    quality: OutputQuality
    rows: int
    ladders: Mapping[int, LadderAnswers]

    @cached_property
    def energy(self) -> Array:
        """What stands out, 0 elsewhere."""
        return np.where(self.above_noise, self.raw, 0.0)

    @cached_property
    def even_share(self) -> Array:
        """(rungs,) median over the inputs of |e|^2 over |e|^2 + |o|^2; NaN where too few inputs say something."""
        each = even_share(self.even, self.odd, self.above_noise)
        known = np.isfinite(each)
        enough = known.mean(axis=0) >= KNOWN_INPUTS
        return np.array([np.median(e[k]) if e_ok else np.nan for e, k, e_ok in zip(each.T, known.T, enough, strict=True)])

    @cached_property
    def quiet(self) -> NDArray[np.bool_]:
        """(rungs,) where a linear function explains the answers: the even share is small, there and on rungs beside it.

        Where the even share is not known, nothing speaks against it.
        """
        small = ~(self.even_share > self.most_even) & ~self.below_jumps
        return small if not self.exact else in_runs(small, QUIET_RUNGS)

    @cached_property
    def below_jumps(self) -> NDArray[np.bool_]:
        """(rungs,) whether longer displacements meet jumps that dwarf what is seen, and still longer ones are quiet again.

        That is the inside of a cell, not the model. Jumps at the end of the ladder are its curvature.
        """
        level = np.median(self.energy, axis=0)
        quiet = in_runs(~(self.even_share > self.most_even), QUIET_RUNGS)
        last = int(np.flatnonzero(quiet).max(initial=-1))
        jumping = (self.even_share >= JUMPS) & (np.arange(len(level)) < last)
        dwarfed = jumping[None, :] & (level[None, :] > DWARFS * level[:, None])
        return np.asarray(np.triu(dwarfed, 1).sum(axis=1) >= QUIET_RUNGS)

    @cached_property
    def plateau(self) -> Plateau | None:
        """Of ``energy``, over the quiet rungs: that of nearly all inputs, or a long one of most of them.

        Where answers are quiet over more than a decade, inputs whose energy wavers (at kinks, or in the last digits of a
        saturated answer) are left to a displacement of their own.
        """
        found = find_plateau(self.energy, self.rungs, quiet=self.quiet)
        if found is None or found.change <= NO_PLATEAU or not self.exact:
            return found
        known_quiet = self.quiet & np.isfinite(self.even_share)
        most = find_plateau(self.energy, self.rungs, NO_PLATEAU, known_quiet, MOST_INPUTS)
        return found if most is None or most.change > NO_PLATEAU or most.last - most.first < PLAIN_RUNGS else most

    @cached_property
    def lone_jumps(self) -> int:
        """Times that one rung of an input stands far above its plateau while the rungs beside it do not.

        A share of the rows is answered by something else, so rare that most displacements do not meet it: by another
        version, or across a cell's boundary.
        """
        if self.plateau is None:
            return 0
        level = np.median(self.energy[:, self.plateau.first : self.plateau.last + 1], axis=1, keepdims=True)
        over = self.energy / np.where(level > 0, level, np.inf)
        share = even_share(self.even, self.odd, self.above_noise)
        alike = (over > 1 / BESIDE) & (over < BESIDE)
        lone = (over > LONE) & (share >= JUMPS)
        return int((lone[:, 1:-1] & alike[:, :-2] & alike[:, 2:]).sum())

    @cached_property
    def jumps_beyond(self) -> bool:
        """Whether a plateau too short to be sure of ends where answers jump: then it may be the inside of a cell."""
        found = self.plateau
        if found is None or found.last - found.first >= QUIET_RUNGS or found.last + 1 >= len(self.rungs):
            return False
        level = np.median(self.energy, axis=0)
        return bool(self.even_share[found.last + 1] >= JUMPS and level[found.last + 1] > LONE * level[found.last])

    @property
    def most_even(self) -> float:
        """The even share up to which a linear function explains the answers."""
        return QUIET if self.exact else QUIET_IN_NOISE

    @property
    def exact(self) -> bool:
        """Whether nothing is known of the answers but that they are numbers as the model has them."""
        return _exact(self.quality)

    @property
    def without_plateau(self) -> bool:
        """Whether the energy is flat nowhere."""
        return self.plateau is None or self.plateau.change > NO_PLATEAU

    @property
    def plain(self) -> bool:
        """Whether answers are exact and their plateau cannot be mistaken."""
        found = self.plateau
        return (
            self.exact
            and found is not None
            and found.change <= FLAT
            and found.last - found.first >= PLAIN_RUNGS
            and bool(np.isfinite(self.even_share[found.first : found.last + 1]).all())
        )


def ask_ladder(
    meter: Meter, x: NDArray[np.floating], flat: Array, space: Space, settings: Settings, quality: OutputQuality
) -> PilotLadder:
    """Energies at about five inputs; a second pair of directions where the first leaves a doubt.

    Args:
        meter: the door to the model.
        x: (n, \\*shape) all inputs of the audit.
        flat: (n, d) their features that may change, in units of the scale.
        space: their domain.
        settings: the audit's settings.
        quality: what is known of the answers.
    """
    n = len(x)
    rungs = _rungs(flat, space)
    ways = 2 if space.quantised else 1
    most_rows = int(ON_TOP * n * settings.queries)
    allowed = most_rows - n * 2 * 2 * CHECK_PAIRS  # the inputs' checks
    if allowed < 2 * len(rungs) * ways:
        rungs = rungs[(len(rungs) - 1) % 2 :: 2]  # every other one, the longest among them
    blocks_each = len(rungs) * ways
    # One pair shows jumps where the input is in its middle; two do elsewhere.
    few = _spread_over(n, min(PILOT_INPUTS, n))
    centred = not (space.quantised and space.bounded) and all(is_centred(x[i], space, float(rungs[0])) for i in few)
    least = 1 if centred else CHECK_PAIRS
    count = int(np.clip(allowed // (2 * least * blocks_each + quality.repeats), 1, min(PILOT_INPUTS, n)))
    chosen = _spread_over(n, count)

    def pairs(rows: int) -> int:
        return int(np.clip((rows // count - quality.repeats) // (2 * blocks_each), least, CHECK_PAIRS))

    signs = {i: draw_pairs(settings.seed, i, 2 * CHECK_PAIRS, x[0].size) for i in chosen}
    first = least if _exact(quality) and not space.quantised else pairs(allowed)
    try:
        ladders = _ask_inputs(meter, x, space, rungs, {i: _pairs(signs[i], 0, first) for i in chosen}, quality.repeats)
    except InputFailed as failure:
        raise failure.error from failure.error.__cause__
    asked = _pilot_ladder(rungs, ladders, quality)
    # A verdict on the whole run is worth rows that the inputs' own measurements then go without.
    most = pairs(most_rows if asked.without_plateau and not space.quantised else allowed)
    if first >= most or asked.plain:
        return asked
    try:
        others = _ask_inputs(meter, x, space, rungs, {i: _pairs(signs[i], first, most) for i in ladders}, 0)
    except InputFailed as failure:
        # The first pair's energies are right, only less sure, unless a verdict rests on them.
        if asked.without_plateau:
            raise failure.error from failure.error.__cause__
        return asked
    both = {i: replace(ladders[i], more=others[i].first) for i in others}
    return _pilot_ladder(rungs, {**ladders, **both}, quality)


def _spread_over(n: int, count: int) -> list[int]:
    """So many of n positions, evenly spread."""
    return [int(i) for i in np.unique(np.linspace(0, n - 1, count).round())]


def look_again(meter: Meter, x: NDArray[np.floating], space: Space, settings: Settings, asked: PilotLadder) -> PilotLadder:
    """The same, with what asking a few rows again says of the model: that it is random, or what other rows in a call do.

    A model that answers at random now and then has most likely done so at the answers farthest from those to the inputs.
    Rows that cannot be asked a second time say nothing of the first.

    Raises:
        BudgetExhausted: the budget does not allow it.
        ModelFailure: an endpoint is down as a whole.
    """
    try:
        return _looked_again(meter, x, space, settings, asked)
    except InputFailed:
        return asked


def _looked_again(
    meter: Meter, x: NDArray[np.floating], space: Space, settings: Settings, asked: PilotLadder
) -> PilotLadder:
    suspects = [one for of_input in asked.ladders.values() for one in _farthest(of_input)]
    if not suspects:
        return asked
    question = PlainRows(np.concatenate([one.row for one in suspects]))
    again = _answer(meter, question, AGAIN)
    asked, quality = replace(asked, rows=asked.rows + len(suspects)), asked.quality
    of_p, of_logs = np.array([differences(one.answer, b[None]) for one, b in zip(suspects, again, strict=True)]).max(axis=0)
    if of_p > REPEATABLE or of_logs > REPEATABLE_LOGS:
        once_more = _answer(meter, question, ONCE_MORE)
        asked = replace(asked, rows=asked.rows + len(suspects))
        if np.abs(once_more - again).max() > REPEATABLE or _at_random(meter, x, space, settings, asked):
            return _repeated(meter, x, space, asked)
        quality = replace(quality, batch_effect=max(quality.batch_effect, float(of_p)), batch_effect_logs=float(of_logs))
    return replace(asked, quality=quality)


@dataclass(frozen=True)
class _Far:
    """An answer far from that to its input, on the shorter half of the rungs."""

    row: NDArray[Any]
    answer: Array


def _farthest(of_input: LadderAnswers) -> list[_Far]:
    """The few answers farthest from that to the input, but for those that are the same."""
    base = of_input.base.mean(axis=0)
    near = of_input.first[: -(-len(of_input.answers) // 2)].reshape(-1, len(base))
    squares = squared_distances(near, base)
    places = [int(place) for place in np.argsort(squares)[-SUSPECTS:] if squares[place] > 0]
    return [_Far(of_input.rungs.rows.build(place, place + 1), near[place]) for place in places]


def _at_random(meter: Meter, x: NDArray[np.floating], space: Space, settings: Settings, asked: PilotLadder) -> bool:
    """Whether the very questions of the first pair, asked in the same calls, are answered differently the second time.

    Other answers among other rows may be those rows' doing: a sum in another order, or a scale that a call shares.
    """
    rows = sum(len(of_input.base) + len(of_input.rungs.rows) for of_input in asked.ladders.values())
    if asked.rows + rows > max(ON_TOP * len(x) * settings.queries, LEAST_PILOT):
        return asked.quality.batch_effect <= REPEATABLE
    questions = [_question(x[i], space, of_input.rungs, len(of_input.base)) for i, of_input in asked.ladders.items()]
    both = zip(asked.ladders.values(), _answers(meter, questions, AGAIN), strict=True)
    return any(a is not None and np.abs(a - of_input.asked).max() > REPEATABLE for of_input, a in both)


def _repeated(meter: Meter, x: NDArray[np.floating], space: Space, asked: PilotLadder) -> PilotLadder:
    """What the ladder says of a random model, whose answers to the input itself are several."""
    quality = replace(asked.quality, quantum=0.0, random=True)
    itself = [PlainRows(np.repeat(x[i].astype(space.dtype)[None], quality.repeats, axis=0)) for i in asked.ladders]
    both = zip(asked.ladders.items(), _answers(meter, itself, AGAIN), strict=True)
    ladders = {i: replace(of_input, base=base) for (i, of_input), base in both if base is not None}
    return replace(_pilot_ladder(asked.rungs, ladders, quality), rows=asked.rows + len(itself) * quality.repeats)


@dataclass(frozen=True)
class LadderAnswers:
    """One pilot input.

    Attributes:
        rungs: the first pairs.
        base: (repeats, K) the answers to itself.
        first: (rungs, m, K) those to the first pairs, half of them one way, then half the other.
        more: (rungs, m', K) those to further pairs, likewise.
    """

    rungs: Rungs
    base: Array
    first: Array
    more: Array | None = None

    @property
    def answers(self) -> Array:
        """(rungs, m + m', K) of all pairs, half of them one way, then half the other."""
        if self.more is None:
            return self.first
        (plus, minus), (more_plus, more_minus) = (np.split(half, 2, axis=1) for half in (self.first, self.more))
        return np.concatenate([plus, more_plus, minus, more_minus], axis=1)

    @property
    def asked(self) -> Array:
        """(rows, K) what was answered in one go: to the input itself, then rung by rung."""
        return np.concatenate([self.base, self.first.reshape(-1, self.base.shape[1])])


def _exact(quality: OutputQuality) -> bool:
    """Whether nothing is known of the answers but that they are numbers as the model has them."""
    return quality.quantum == 0 and not quality.random and quality.top_k is None


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
    answers = _answers(meter, [_question(x[i], space, these, repeats) for i, these in zip(signs, blocks, strict=True)])
    return {
        i: LadderAnswers(these, a[:repeats], a[repeats:].reshape(len(these.lengths), -1, a.shape[1]))
        for i, these, a in zip(signs, blocks, answers, strict=True)
        if a is not None
    }


def _question(x: NDArray[np.floating], space: Space, rungs: Rungs, repeats: int) -> Rows:
    """An input's rows: itself so many times, and its rungs."""
    itself = [PlainRows(np.repeat(x.astype(space.dtype)[None], repeats, axis=0))] if repeats else []
    return JoinedRows([*itself, rungs.rows])


def _pilot_ladder(rungs: Array, ladders: Mapping[int, LadderAnswers], quality: OutputQuality) -> PilotLadder:
    """Energies, and what the answers show of their own quality."""
    seen = list(ladders.values())
    every = np.concatenate([a.reshape(-1, a.shape[-1]) for of_input in seen for a in (of_input.base, of_input.answers)])
    quantum = (
        0.0 if quality.random or quality.exact else output_resolution(every[:, :-1] if quality.top_k is not None else every)
    )
    deviation = float(np.median([of_input.base.std(axis=0, ddof=1) for of_input in seen])) if quality.random else 0.0
    inside = bool(((every > 0) & (every < 1)).any())
    quality = replace(quality, quantum=quantum, deviation=deviation, quantum_unknown=not inside and not quality.exact)
    found = read_rungs_each(
        [Answered(c.rungs, c.answers.reshape(-1, c.answers.shape[-1]), BaseAnswers(quality, c.base)) for c in seen]
    )
    some = len(rungs)
    raw, above_noise, even, odd = (
        np.array([getattr(one, name)[:some] for one in found]) for name in ("energy", "above_noise", "even", "odd")
    )
    base = np.array([of_input.base.mean(axis=0) for of_input in seen])
    stretched = np.array([one.energy_above_noise[some:] for one in found])
    return PilotLadder(rungs, raw, above_noise, even, odd, stretched, base, quality, len(every), ladders)


def _answer(meter: Meter, question: Rows, occasion: str) -> Array:
    """Answers to one question; raises ``InputFailed`` where the model has none."""
    answer = meter.ask_each([question], occasion=occasion)[0]
    if isinstance(answer, InputFailed):
        raise answer
    return answer


def _answers(meter: Meter, questions: Sequence[Rows], occasion: str | None = None) -> list[Array | None]:
    """Answers to each question, asked together; ``None`` where the model has none, as that input's measurement will say.

    Raises:
        InputFailed: there is no answer to any.
        FimauditError: the same, because an endpoint failed as a whole.
    """
    answers: list[Array | None] = []
    refused: FimauditError | None = None
    together = max(1, TOGETHER_BYTES // (len(questions[0]) * questions[0].row_bytes))
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


def _rungs(flat: Array, space: Space) -> Array:
    """The ladder: no step shorter than the model's numbers or the input's levels can tell."""
    spacing = 0.0
    if np.dtype(space.dtype).kind == "f":
        scale = space.scale.ravel()[~space.frozen.ravel()]
        largest = np.maximum(flat.max(axis=0), -flat.min(axis=0)) * scale
        spacing = float(np.mean(np.spacing(largest.astype(space.dtype)).astype(np.float64) / scale))
    rungs = ladder(flat, space.features, SPACINGS * spacing)
    if not space.quantised:
        return rungs
    least = space.shortest
    top = max(float(rungs[-1]), least * 10.0)
    return np.asarray(least * 10.0 ** (0.25 * np.arange(int(np.floor(4 * np.log10(top / least))) + 1)))


def in_runs(flags: NDArray[np.bool_], least: int) -> NDArray[np.bool_]:
    """Those that belong to a run of so many or more.

    >>> in_runs(np.array([True, False, True, True]), 2)
    array([False, False,  True,  True])
    """
    edges = np.flatnonzero(np.diff(np.r_[False, flags, False].astype(np.int8)))
    out = np.zeros(len(flags), dtype=np.bool_)
    for start, stop in edges.reshape(-1, 2).tolist():
        out[start:stop] = stop - start >= least
    return out
