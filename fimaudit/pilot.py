"""The pilot: a few inputs over a ladder of displacements, from which the audit's displacement and its range follow."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fimaudit.directions import JoinedRows, PlainRows, Rows
from fimaudit.domain import Space
from fimaudit.errors import FimauditError
from fimaudit.noise import Here, Quality, rounding
from fimaudit.probes import FACTOR, Answered, Rungs, Signs, displaced, displaced_rungs, draw_pairs, heard, joined
from fimaudit.settings import Settings
from fimaudit.steps import find_plateau, ladder, spread

__all__ = ["CHECK_PAIRS", "ON_TOP", "Steps", "choose_steps"]

Array = NDArray[np.float64]

PILOT_INPUTS = 5
#: Rows that pilot and per-input checks may add to the queries.
ON_TOP = 0.10
CHECK_PAIRS = 2
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
    x: NDArray[np.floating], space: Space, settings: Settings, quality: Quality | None = None
) -> Generator[Rows, Array, Steps]:
    """The pilot: secant energy over a ladder of displacements at about five inputs, same directions on each rung.

    Args:
        x: (n, \\*shape) all inputs of the audit.
        space: their domain.
        settings: the audit's settings.
        quality: what is known of the answers.
    """
    asked = yield from _ask(x, space, settings, quality or Quality())
    quality = asked.quality
    share, span = -(-asked.rows // len(x)), _span(x, space)
    finest = float(asked.rungs[0])
    profile = [
        {"displacement": float(r), "energy": float(e)} for r, e in zip(asked.rungs, asked.raw.mean(axis=0), strict=True)
    ]
    if space.quantised:
        rho, reach = _level_step(asked)
        return Steps(rho, profile, share, reach, "local", span, finest, quality)
    rungs, energy = asked.rungs, np.where(asked.clear, asked.raw, 0.0)
    plateau = find_plateau(energy, rungs)
    silent = float(np.median((asked.raw == 0).cumprod(axis=1).sum(axis=1)))
    restless = plateau is None or plateau.change > RESTLESS
    if restless and quality.quantum == 0 and silent >= SILENT_RUNGS and asked.raw.any():
        size, _ = spread(_flat(x, space))
        rho = FINITE_SHARE * size * float(np.sqrt(space.features))
        return Steps(rho, profile, share, 0.0, "finite_scale", span, finest, quality)
    if plateau is None or (restless and (quality.quantum > 0 or quality.random)):
        return Steps(
            _loudest(energy, rungs), profile, share, 0.0 if restless else float("inf"), "local", span, finest, quality
        )
    reach = _reach(energy, rungs, plateau.first, plateau.last)
    middle = (plateau.first + plateau.last) // 2
    quality = replace(quality, relative=_relative(asked, middle, space.features))
    return Steps(plateau.displacement, profile, share, reach, "local", span, finest, quality)


@dataclass(frozen=True)
class _Asked:
    """Pilot answers: energy (inputs, rungs), whether it stands out, the same stretched, and the base probabilities."""

    rungs: Array
    raw: Array
    clear: NDArray[np.bool_]
    stretched: Array
    base: Array
    quality: Quality
    rows: int


def _ask(x: NDArray[np.floating], space: Space, settings: Settings, quality: Quality) -> Generator[Rows, Array, _Asked]:
    n = len(x)
    rungs = _rungs(x, space)
    ways = 2 if space.quantised else 1
    allowed = int(ON_TOP * n * settings.queries) - n * 2 * 2 * CHECK_PAIRS
    if allowed < 2 * len(rungs) * ways:
        rungs = rungs[::-2][::-1]
    blocks_each = len(rungs) * ways
    count = int(np.clip(allowed // (2 * blocks_each + quality.repeats), 1, min(PILOT_INPUTS, n)))
    directions = 2 * int(np.clip((allowed // count - quality.repeats) // (2 * blocks_each), 1, CHECK_PAIRS))
    chosen = np.unique(np.linspace(0, n - 1, count).round().astype(int))
    seen: list[Array] = []
    climbed = []
    refused: FimauditError | None = None
    for index in chosen:
        signs = draw_pairs(settings.seed, int(index), directions, x[0].size)
        these = _climbed(x[index], space, signs, rungs)
        here = np.repeat(x[index].astype(space.dtype)[None], quality.repeats, axis=0)
        try:
            answers = yield JoinedRows([PlainRows(here), these.rows])
        except FimauditError as error:  # an input that the model does not answer; its own measurement will say so
            refused = error
            continue
        seen.append(answers)
        climbed.append(these)
    if refused is not None and not seen:
        raise refused
    every, repeats = np.concatenate(seen), quality.repeats
    quantum = 0.0 if quality.random else rounding(every[:, :-1] if quality.top_k is not None else every)
    deviation = float(np.median([a[:repeats].std(axis=0, ddof=1) for a in seen])) if quality.random else 0.0
    inside = bool(((every > 0) & (every < 1)).any())
    quality = replace(quality, quantum=quantum, deviation=deviation, unseen=not inside)
    found = [heard(Answered(these, a[repeats:], Here(quality, a[:repeats]))) for these, a in zip(climbed, seen, strict=True)]
    raw, clear = np.array([e for e, _ in found]), np.array([c for _, c in found])
    base = np.array([a[:repeats].mean(axis=0) for a in seen])
    rows = len(seen) * (blocks_each * directions + quality.repeats)
    some = len(rungs)
    return _Asked(rungs, raw[:, :some], clear[:, :some], np.where(clear, raw, 0.0)[:, some:], base, quality, rows)


def _climbed(x: NDArray[np.floating], space: Space, signs: Signs, rhos: Array) -> Rungs:
    """The ladder; with levels, behind it the same directions at three times the length."""
    if not space.quantised:
        return displaced_rungs(x, space, signs, rhos)
    short = [displaced(x, space, signs, float(rho)) for rho in rhos]
    return joined(space, [*short, *(displaced(x, space, signs, FACTOR * float(rho), FACTOR) for rho in rhos)])


def _level_step(asked: _Asked) -> tuple[float, float]:
    """With levels: the longest rung whose directions answer the same at three times their length, and the linear range."""
    energy = np.where(asked.clear, asked.raw, 0.0)
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


def _span(x: NDArray[np.floating], space: Space) -> float:
    """Range of a typical feature in units of the scale: of the domain where it is bounded, else of the data."""
    free = ~space.frozen
    width = ((space.upper - space.lower) / space.scale)[free]
    if not np.isfinite(width).all():
        flat = _flat(x, space)
        width = flat.max(axis=0) - flat.min(axis=0)
        if not (width > 0).any():
            return spread(flat)[0]
    return float(np.median(width[width > 0]))


def _flat(x: NDArray[np.floating], space: Space) -> Array:
    """Features that may change, in units of the scale."""
    free = ~space.frozen.ravel()
    return np.asarray(x.reshape(len(x), -1)[:, free] / space.scale.ravel()[free])


def _rungs(x: NDArray[np.floating], space: Space) -> Array:
    """The ladder: no step shorter than the model's numbers or the input's levels can tell."""
    flat, scale = _flat(x, space), space.scale.ravel()[~space.frozen.ravel()]
    size = np.abs(flat * scale).max(axis=0)
    if np.dtype(space.dtype).kind == "f":
        spacing = np.spacing(size.astype(space.dtype)).astype(np.float64)
    else:
        spacing = np.zeros_like(size)
    rungs = ladder(flat, space.features, SPACINGS * float(np.mean(spacing / scale)))
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
