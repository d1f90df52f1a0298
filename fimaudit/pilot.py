"""The pilot: a few inputs over a ladder of displacements, from which the audit's displacement and its range follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fimaudit.allowance import ON_TOP
from fimaudit.classifier import NetworkClassifier
from fimaudit.domain import Space
from fimaudit.errors import BudgetExhausted, FimauditError
from fimaudit.meter import Meter, QuestionsFailed
from fimaudit.noise import REPEATABLE, Here, Quality, rounding
from fimaudit.probes import FACTOR, Answered, Rungs, Signs, displaced, displaced_rungs, draw_pairs, heard_each, joined
from fimaudit.rows import JoinedRows, PlainRows, Rows
from fimaudit.second_look import answered_differently
from fimaudit.settings import Settings
from fimaudit.steps import STILL, Plateau, find_plateau, ladder, spread

__all__ = ["CHECK_PAIRS", "LEAST_PILOT", "PILOT_INPUTS", "SUSPECTS", "Steps", "choose_steps"]

Array = NDArray[np.float64]

PILOT_INPUTS = 5
CHECK_PAIRS = 2
#: Rows that a pilot may take however few the queries: one input, one pair, every other rung of the 16 decades that float64
#: tells apart and some, and a random model's repeats.
LEAST_PILOT = 80
#: One pair is enough where exact answers show a plateau of so many rungs (a decade): a second could only move the
#: displacement along it, where the energy stands still. Rounding scatters the energies themselves, so that a plateau may
#: end by chance; two pairs average that.
PLAIN_RUNGS = 4
#: Rows of each pilot input that are asked again, to see whether they are answered the same.
SUSPECTS = 3
#: Inputs share a question up to so many bytes; behind a network they are in memory all at once.
TOGETHER_BYTES = 64 * 2**20
#: A step must be this many times the spacing of the model's floating-point numbers, so that it is really sent.
SPACINGS = 4.0
#: The linear range ends where the energy has left the plateau by more than this.
LINEAR = 0.10
#: An energy that changes more than this from rung to rung has no plateau at all.
RESTLESS = 0.15
#: With levels: the same directions at three times the length may change their energy by this much.
LEVEL_CHANGE = 0.20
#: The arithmetic's own noise is taken into account from this share of the signal on.
NOISE_MATTERS = 1e-4
#: Energy times h^2 is the same on the two shortest rungs, within this factor, where noise rules them.
NOISE_FALLS = 0.6
#: Answers that are exactly equal over this many rungs (a decade) are steps of the model, not rounding of its floats.
SILENT_RUNGS = 4
#: Where the local value does not exist: displace each feature by this share of its spread.
FINITE_SHARE = 0.1


@dataclass(frozen=True)
class Steps:
    """The displacement that the pilot chose.

    Attributes:
        displacement: l2 length in units of the scale.
        profile: per rung its displacement and the mean energy over pilot inputs.
        share: pilot rows for each input of the audit, rounded up.
        reach: the longest displacement over which the pilot inputs still answer linearly.
        kind: ``finite_scale`` where the answers are piecewise constant, so that a local value does not exist.
        span: range of one feature, the unit of the scale profile's displacements.
        finest: the shortest displacement that the model's numbers or the input's levels can tell.
        quality: what the answers are worth, rounding as far as the pilot's answers show.
    """

    displacement: float
    profile: list[dict[str, float]]
    share: int
    reach: float = float("inf")
    kind: Literal["local", "finite_scale"] = "local"
    span: float = 1.0
    finest: float = 0.0
    quality: Quality = field(default_factory=Quality)

    def __post_init__(self) -> None:
        if isinstance(self.quality, dict):  # as read from a journal
            object.__setattr__(self, "quality", Quality(**self.quality))


def choose_steps(
    meter: Meter, x: NDArray[np.floating], space: Space, settings: Settings, quality: Quality | None = None
) -> Steps:
    """The pilot: secant energy over a ladder of displacements at about five inputs, same directions on each rung.

    Args:
        meter: the door to the model.
        x: (n, \\*shape) all inputs of the audit.
        space: their domain.
        settings: the audit's settings.
        quality: what is known of the answers.

    Raises:
        BudgetExhausted: the budget does not allow it.
        FimauditError: the model answers at none of the inputs, or at none a second time where the first found no plateau.
    """
    flat = _flat(x, space)
    asked = _ask(meter, x, flat, space, settings, quality or Quality())
    if not asked.quality.random:
        asked = _looked_again(meter, x, space, asked)
    quality = asked.quality
    share, span = -(-asked.rows // len(x)), _span(flat, space)
    finest = float(asked.rungs[0])
    profile = [
        {"displacement": float(r), "energy": float(e)} for r, e in zip(asked.rungs, asked.raw.mean(axis=0), strict=True)
    ]
    if space.quantised:
        rho, reach = _level_step(asked)
        return Steps(rho, profile, share, reach, "local", span, finest, quality)
    rungs, energy, plateau = asked.rungs, asked.energy, asked.plateau
    silent = float(np.median((asked.raw == 0).cumprod(axis=1).sum(axis=1)))
    restless = asked.restless
    if restless and quality.quantum == 0 and silent >= SILENT_RUNGS and asked.raw.any():
        size, _ = spread(flat)
        rho = FINITE_SHARE * size * float(np.sqrt(space.features))
        return Steps(rho, profile, share, 0.0, "finite_scale", span, finest, quality)
    # Behind noise two last rungs that agree may stand where the energy turns from rising to falling.
    at_the_end = plateau is not None and plateau.first + 1 == plateau.last == len(rungs) - 1
    if plateau is None or ((restless or at_the_end) and (quality.quantum > 0 or quality.random)):
        return Steps(_loudest(energy, rungs), profile, share, 0.0, "local", span, finest, quality)
    reach = _reach(energy, rungs, plateau.first, plateau.last)
    middle = (plateau.first + plateau.last) // 2
    quality = replace(quality, relative=_relative(asked, middle, space.features))
    return Steps(plateau.displacement, profile, share, reach, "local", span, finest, quality)


@dataclass(frozen=True)
class _Asked:
    """Pilot answers: energy (inputs, rungs), whether it stands out, the same stretched, the base probabilities, and all."""

    rungs: Array
    raw: Array
    clear: NDArray[np.bool_]
    stretched: Array
    base: Array
    quality: Quality
    rows: int
    climbs: Mapping[int, _Climb]

    @cached_property
    def energy(self) -> Array:
        """What stands out, 0 elsewhere."""
        return np.where(self.clear, self.raw, 0.0)

    @cached_property
    def plateau(self) -> Plateau | None:
        """Of ``energy``."""
        return find_plateau(self.energy, self.rungs)

    @property
    def restless(self) -> bool:
        """Whether the energy stands still nowhere."""
        return self.plateau is None or self.plateau.change > RESTLESS

    @property
    def plain(self) -> bool:
        """Whether answers are exact and their plateau cannot be mistaken."""
        found = self.plateau
        return (
            _exact(self.quality) and found is not None and found.change <= STILL and found.last - found.first >= PLAIN_RUNGS
        )


def _ask(meter: Meter, x: NDArray[np.floating], flat: Array, space: Space, settings: Settings, quality: Quality) -> _Asked:
    n = len(x)
    rungs = _rungs(flat, space)
    ways = 2 if space.quantised else 1
    most_rows = int(ON_TOP * n * settings.queries)
    allowed = most_rows - n * 2 * 2 * CHECK_PAIRS  # the inputs' checks
    if allowed < 2 * len(rungs) * ways:
        rungs = rungs[::-2][::-1]
    blocks_each = len(rungs) * ways
    count = int(np.clip(allowed // (2 * blocks_each + quality.repeats), 1, min(PILOT_INPUTS, n)))
    chosen = np.unique(np.linspace(0, n - 1, count).round().astype(int)).tolist()

    def pairs(rows: int) -> int:
        return int(np.clip((rows // count - quality.repeats) // (2 * blocks_each), 1, CHECK_PAIRS))

    signs = {i: draw_pairs(settings.seed, i, 2 * CHECK_PAIRS, x[0].size) for i in chosen}
    first = 1 if _exact(quality) and not space.quantised else pairs(allowed)
    climbs = _climb(meter, x, space, rungs, {i: _pairs(signs[i], 0, first) for i in chosen}, quality.repeats)
    asked = _heard(rungs, climbs, quality)
    # A verdict on the whole run is worth rows that the inputs' own measurements then go without.
    most = pairs(most_rows if asked.restless and not space.quantised else allowed)
    if first >= most or asked.plain:
        return asked
    try:
        others = _climb(meter, x, space, rungs, {i: _pairs(signs[i], first, most) for i in climbs}, 0)
    except BudgetExhausted:
        raise
    except FimauditError as error:
        # The first pair's energies are right, only less sure, unless a verdict rests on them. An endpoint that is down as a
        # whole ends the run: resumed, it is asked the same and gives the steps of a run that went through.
        down = isinstance(meter.model, NetworkClassifier) and not isinstance(error, QuestionsFailed)
        if asked.restless or down:
            raise
        return asked
    both = {i: replace(climbs[i], answers=np.concatenate([climbs[i].answers, others[i].answers], axis=1)) for i in others}
    return _heard(rungs, {**climbs, **both}, quality)


@dataclass(frozen=True)
class _Far:
    """An answer far from that to its input, on the shorter half of the rungs.

    A model that answers at random now and then has most likely done so there.
    """

    row: NDArray[Any]
    answer: Array
    distance: float


def _farthest(climb: _Climb) -> list[_Far]:
    """The few answers farthest from that to the input, but for those that are the same to rounding."""
    each, base = len(climb.rungs.rows) // len(climb.answers), climb.base.mean(axis=0)
    near = climb.answers[: -(-len(climb.answers) // 2), :each].reshape(-1, len(base))
    squares = ((np.sqrt(np.maximum(near, 0.0)) - np.sqrt(np.maximum(base, 0.0))) ** 2).sum(axis=1)
    places = [int(place) for place in np.argsort(squares)[-SUSPECTS:] if np.abs(near[place] - base).max() > REPEATABLE]
    return [_Far(climb.rungs.rows.build(place, place + 1), near[place], float(squares[place])) for place in places]


def _looked_again(meter: Meter, x: NDArray[np.floating], space: Space, asked: _Asked) -> _Asked:
    """The same, or where a few answers are other ones the second time, what it says of a random model."""
    far = {i: _farthest(climb) for i, climb in asked.climbs.items()}
    suspects = [one for some in far.values() for one in some]
    if not suspects:
        return asked
    rows = asked.rows + len(suspects)
    try:
        again = meter.ask([PlainRows(np.concatenate([one.row for one in suspects]))], occasion="second look")[0]
    except BudgetExhausted:
        raise
    except FimauditError:  # rows that cannot be asked a second time say nothing of the first
        return asked
    quality = asked.quality
    told = zip(suspects, again, strict=True)
    if all(answered_differently(one.answer, b[None], one.distance, quality.company) is None for one, b in told):
        return replace(asked, rows=rows)
    quality = replace(quality, quantum=0.0, random=True)
    itself = [PlainRows(np.repeat(x[i].astype(space.dtype)[None], quality.repeats, axis=0)) for i in asked.climbs]
    bases = meter.ask(itself, occasion="second look")
    climbs = {i: replace(climb, base=base) for (i, climb), base in zip(asked.climbs.items(), bases, strict=True)}
    return replace(_heard(asked.rungs, climbs, quality), rows=rows + len(climbs) * quality.repeats)


@dataclass(frozen=True)
class _Climb:
    """One pilot input: what was asked, and the answers to itself (repeats, K) and on its rungs (rungs, m, K)."""

    rungs: Rungs
    base: Array
    answers: Array


def _exact(quality: Quality) -> bool:
    """Whether nothing is known of the answers but that they are numbers as the model has them."""
    return quality.quantum == 0 and not quality.random and quality.top_k is None


def _pairs(signs: Signs, first: int, last: int) -> Signs:
    """Some of the antipodal pairs."""
    half = len(signs) // 2
    rows = np.r_[first:last, half + first : half + last]
    return Signs(signs.packed[rows], signs.phase[rows], signs.key)


def _climb(
    meter: Meter, x: NDArray[np.floating], space: Space, rhos: Array, signs: Mapping[int, Signs], repeats: int
) -> dict[int, _Climb]:
    """The ladder at each input; inputs at which the model has no answers are left out."""
    climbed = [_climbed(x[i], space, directions, rhos) for i, directions in signs.items()]
    itself = [[PlainRows(np.repeat(x[i].astype(space.dtype)[None], repeats, axis=0))] if repeats else [] for i in signs]
    answers = _answers(meter, [JoinedRows([*at, these.rows]) for at, these in zip(itself, climbed, strict=True)])
    return {
        i: _Climb(these, a[:repeats], a[repeats:].reshape(len(these.lengths), -1, a.shape[1]))
        for i, these, a in zip(signs, climbed, answers, strict=True)
        if a is not None
    }


def _heard(rungs: Array, climbs: Mapping[int, _Climb], quality: Quality) -> _Asked:
    """Energies, and what the answers show of their own quality."""
    seen = list(climbs.values())
    every = np.concatenate([a.reshape(-1, a.shape[-1]) for climb in seen for a in (climb.base, climb.answers)])
    quantum = 0.0 if quality.random else rounding(every[:, :-1] if quality.top_k is not None else every)
    deviation = float(np.median([climb.base.std(axis=0, ddof=1) for climb in seen])) if quality.random else 0.0
    inside = bool(((every > 0) & (every < 1)).any())
    quality = replace(quality, quantum=quantum, deviation=deviation, unseen=not inside)
    found = heard_each([Answered(c.rungs, c.answers.reshape(-1, c.answers.shape[-1]), Here(quality, c.base)) for c in seen])
    raw, clear = np.array([e for e, _ in found]), np.array([c for _, c in found])
    base = np.array([climb.base.mean(axis=0) for climb in seen])
    some = len(rungs)
    stretched = np.where(clear, raw, 0.0)[:, some:]
    return _Asked(rungs, raw[:, :some], clear[:, :some], stretched, base, quality, len(every), climbs)


def _answers(meter: Meter, questions: Sequence[Rows]) -> list[Array | None]:
    """Answers to each question, asked together; ``None`` where the model has none, as that input's measurement will say.

    Raises:
        FimauditError: there is no answer to any.
    """
    answers: list[Array | None] = []
    refused: FimauditError | None = None
    together = max(1, TOGETHER_BYTES // (len(questions[0]) * questions[0].row_bytes))
    for first in range(0, len(questions), together):
        some = questions[first : first + together]
        try:
            answers += meter.ask(some)
        except BudgetExhausted:
            raise
        except QuestionsFailed as error:
            refused = error
            answers += error.answers
        except FimauditError as error:
            refused = error
            answers += [None] * len(some)
    if refused is not None and all(answer is None for answer in answers):
        raise refused
    return answers


def _climbed(x: NDArray[np.floating], space: Space, signs: Signs, rhos: Array) -> Rungs:
    """The ladder; with levels, behind it the same directions at three times the length."""
    if not space.quantised:
        return displaced_rungs(x, space, signs, rhos)
    short = [displaced(x, space, signs, float(rho)) for rho in rhos]
    return joined(space, [*short, *(displaced(x, space, signs, FACTOR * float(rho), FACTOR) for rho in rhos)])


def _level_step(asked: _Asked) -> tuple[float, float]:
    """With levels: the longest rung whose directions answer the same at three times their length, and the linear range."""
    energy = asked.energy
    heard = ((energy > 0) & (asked.stretched > 0)).mean(axis=0) >= 0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.abs(np.log(asked.stretched / energy))
    typical = np.array([np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else np.inf for c in change.T])
    linear = np.flatnonzero(heard & (typical <= LEVEL_CHANGE))
    if linear.size:
        rho = float(asked.rungs[linear[-1]])
        return rho, FACTOR * rho
    return (float(asked.rungs[int(np.argmax(heard))]) if heard.any() else float(asked.rungs[-1])), 0.0


def _relative(asked: _Asked, middle: int, features: int) -> float:
    """Standard deviation of log p that the model's own arithmetic adds: what the shortest rungs show above the plateau.

    Secants over h carry the energy E + n / h^2, with n about sigma^2 sum p (1 - p). Returned only where it matters at the
    plateau.
    """
    if asked.quality.quantum > 0 or asked.quality.random or asked.quality.top_k is not None:
        return 0.0
    h2 = asked.rungs**2 / features
    first, plateau = asked.raw[:, 0], asked.raw[:, middle]
    excess = np.maximum(first - plateau, 0.0) * h2[0] / max(1 - h2[0] / h2[middle], 1e-9)
    mixed = (asked.base * (1 - asked.base)).sum(axis=1)
    known = (plateau > 0) & (mixed > 1e-12)
    if middle == 0 or not known.any():
        return 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        falls = np.median((first * h2[0] / (asked.raw[:, 1] * h2[1]))[known])
    if not NOISE_FALLS < falls < 1 / NOISE_FALLS:
        return 0.0  # not the 1 / h^2 of noise: the model bends
    share = np.median(excess[known] / (plateau[known] * h2[middle]))
    return float(np.sqrt(np.median(excess[known] / mixed[known]))) if share > NOISE_MATTERS else 0.0


def _span(flat: Array, space: Space) -> float:
    """Range of a typical feature in units of the scale: of the domain where it is bounded, else of the data."""
    width = ((space.upper - space.lower) / space.scale)[~space.frozen]
    if not np.isfinite(width).all():
        width = flat.max(axis=0) - flat.min(axis=0)
        if not (width > 0).any():
            return spread(flat)[0]
    return float(np.median(width[width > 0]))


def _flat(x: NDArray[np.floating], space: Space) -> Array:
    """(n, features) of the features that may change, in units of the scale."""
    flat, free = x.reshape(len(x), -1), ~space.frozen.ravel()
    return np.asarray((flat if free.all() else flat[:, free]) / space.scale.ravel()[free])


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


def _reach(energy: Array, rungs: Array, first: int, last: int) -> float:
    """The longest displacement up to which the typical energy stays near that of the plateau."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.where(energy > 0, energy, np.nan))
    middle = (first + last) // 2
    reach = last
    for rung in range(last + 1, len(rungs)):
        change = np.abs(logs[:, rung] - logs[:, middle])
        if not np.isfinite(change).any() or np.nanmedian(change) > LINEAR:
            break
        reach = rung
    return float(rungs[reach])


def _loudest(energy: Array, rungs: Array) -> float:
    """Without any plateau: the shortest displacement that most pilot inputs answer at all, else the longest."""
    found = (energy > 0).mean(axis=0) >= 0.5
    return float(rungs[int(np.argmax(found))]) if found.any() else float(rungs[-1])
