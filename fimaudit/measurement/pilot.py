"""The pilot: a few inputs over a ladder of displacements, from which the audit's displacement and its range follow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fimaudit.domain import Space
from fimaudit.estimation.noise import OutputQuality
from fimaudit.measurement.energy import FACTOR
from fimaudit.measurement.ladder import LadderAnswers, PilotLadder, ask_ladder, look_again
from fimaudit.measurement.plateau import spread
from fimaudit.measurement.settings import Settings
from fimaudit.models.meter import Meter

__all__ = ["LEVEL_CHANGE", "Steps", "choose_steps"]

Array = NDArray[np.float64]

#: The linear range ends where the energy has left the plateau by more than this.
LINEAR = 0.10
#: With levels: the same directions at three times the length may change their energy by this much.
LEVEL_CHANGE = 0.20
#: The arithmetic's own noise is taken into account from this share of the signal on.
NOISE_MATTERS = 1e-4
#: Energy times h^2 is the same on the two shortest rungs, within this factor, where noise rules them.
NOISE_FALLS = 0.6
#: Answers that are equal over this many rungs (a decade) are steps of the model, not rounding of its floats. Equal are
#: those that differ by no more than so many roundings, which other rows in a call may move, where a smooth model with the
#: first change beyond them would have moved them by several times that.
SILENT_RUNGS = 4
ROUNDINGS, EXPECTED = 8.0, 3.0
#: Where the local value does not exist: displace each feature by this share of its spread.
FINITE_SHARE = 0.1


@dataclass(frozen=True)
class Steps:
    """The displacement that the pilot chose.

    Attributes:
        displacement: l2 length in units of the scale.
        profile: per rung its displacement and the mean energy over pilot inputs.
        share: pilot rows for each input of the audit, rounded up.
        reach: the longest displacement over which the pilot inputs answer linearly.
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
    quality: OutputQuality = field(default_factory=OutputQuality)

    def __post_init__(self) -> None:
        if isinstance(self.quality, dict):  # as read from a journal
            object.__setattr__(self, "quality", OutputQuality(**self.quality))


def choose_steps(
    meter: Meter, x: NDArray[np.floating], space: Space, settings: Settings, quality: OutputQuality | None = None
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
    asked = ask_ladder(meter, x, flat, space, settings, quality or OutputQuality())
    if not asked.quality.random:
        asked = look_again(meter, x, space, settings, asked)
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
    silent = float(np.median([_silent_rungs(of_input, space.dtype) for of_input in asked.ladders.values()]))
    without_plateau = asked.without_plateau
    if without_plateau and quality.quantum == 0 and silent >= SILENT_RUNGS and asked.raw.any():
        size, _ = spread(flat)
        rho = FINITE_SHARE * size * float(np.sqrt(space.features))
        return Steps(rho, profile, share, 0.0, "finite_scale", span, finest, quality)
    # Behind noise two last rungs that agree may stand where the energy turns from rising to falling.
    at_the_end = plateau is not None and plateau.first + 1 == plateau.last == len(rungs) - 1
    if plateau is None or ((without_plateau or at_the_end) and (quality.quantum > 0 or quality.random)):
        return Steps(_shortest_above_noise(energy, rungs), profile, share, 0.0, "local", span, finest, quality)
    reach = _reach(energy, rungs, plateau.first, plateau.last)
    middle = (plateau.first + plateau.last) // 2
    quality = replace(quality, relative=_relative(asked, middle, space.features))
    return Steps(plateau.displacement, profile, share, reach, "local", span, finest, quality)


def _silent_rungs(of_input: LadderAnswers, dtype: str) -> int:
    """Over how many rungs an input's answers are equal, although they change later by more than rounding explains."""
    exact = np.dtype(dtype) if np.dtype(dtype).kind == "f" else np.dtype("float32")
    rounding = ROUNDINGS * float(np.finfo(exact).eps)
    moved = np.abs(np.sqrt(np.maximum(of_input.first, 0.0)) - np.sqrt(np.maximum(of_input.base[0], 0.0))).max(axis=(1, 2))
    equal = int((moved == 0).cumprod().sum())
    visible = np.flatnonzero(moved > rounding)
    if not visible.size:
        return equal
    before = slice(0, int(visible[0]))
    expected = moved[visible[0]] * of_input.rungs.lengths[before] / of_input.rungs.lengths[visible[0]]
    return max(equal, int((expected >= EXPECTED * rounding).sum()))


def _level_step(asked: PilotLadder) -> tuple[float, float]:
    """With levels: the longest rung whose directions answer the same at three times their length, and the linear range."""
    energy = asked.energy
    above_noise = ((energy > 0) & (asked.stretched > 0)).mean(axis=0) >= 0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.abs(np.log(asked.stretched / energy))
    typical = np.array([np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else np.inf for c in change.T])
    linear = np.flatnonzero(above_noise & (typical <= LEVEL_CHANGE))
    if linear.size:
        rho = float(asked.rungs[linear[-1]])
        return rho, FACTOR * rho
    return (float(asked.rungs[int(np.argmax(above_noise))]) if above_noise.any() else float(asked.rungs[-1])), 0.0


def _relative(asked: PilotLadder, middle: int, features: int) -> float:
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
    gaps = np.isnan(flat) if flat.dtype.kind == "f" else np.zeros_like(flat, dtype=bool)
    if gaps.any():  # only the sizes of features are read from here
        counts = np.maximum((~gaps).sum(axis=0), 1)
        flat = np.where(gaps, np.where(gaps, 0.0, flat).sum(axis=0) / counts, flat)
    return np.asarray((flat if free.all() else flat[:, free]) / space.scale.ravel()[free])


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


def _shortest_above_noise(energy: Array, rungs: Array) -> float:
    """Without any plateau: the shortest displacement that most pilot inputs answer at all, else the longest."""
    found = (energy > 0).mean(axis=0) >= 0.5
    return float(rungs[int(np.argmax(found))]) if found.any() else float(rungs[-1])
