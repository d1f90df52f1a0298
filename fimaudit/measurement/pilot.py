"""The pilot: a few inputs over a ladder of displacements, from which the audit's displacement and its range follow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import InputFailed
from fimaudit.estimation.noise import OutputQuality
from fimaudit.measurement.energy import FACTOR
from fimaudit.measurement.ladder import DWARFS, PilotLadder
from fimaudit.measurement.ladder_questions import ask_ladder
from fimaudit.measurement.plateau import FLAT, find_plateau, spread
from fimaudit.measurement.second_look import look_again
from fimaudit.measurement.settings import Settings
from fimaudit.measurement.surface import FALLS, JUMPING, ROUGHNESS, SurfaceKind, classify
from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import PlainRows
from fimaudit.results import Kind
from fimaudit.space import Space
from fimaudit.statistics.spread import evenly_spread

__all__ = ["LEVEL_CHANGE", "Steps", "choose_steps"]

Array = NDArray[np.float64]

#: The linear range ends where the energy has left the plateau by more than this.
LINEAR = 0.10
#: What a displacement is taken to bend the energy by at least (tests/measurement/test_step_error.py).
LEAST_BEND = 0.005
#: With levels: the same directions at three times the length may change their energy by this much.
LEVEL_CHANGE = 0.20
#: The arithmetic's own noise is taken into account from this share of the signal on.
NOISE_MATTERS = 1e-4
#: Where the local value does not exist: displace each feature by this share of its spread.
FINITE_SHARE = 0.1
#: Even shares that differ by no more say the same of two displacements (tests/measurement/test_surface.py).
ALIKE = 0.02
#: Inputs whose class is asked for, where the way to another class is towards one of them.
DECIDED = 24
#: Why the numbers are those of a finite displacement.
BELOW = "the answers are smooth over displacements from {first:.3g} on; below, they jump by about {jump:.1g} of log p"
SILENT_BELOW = "the answers are smooth over displacements from {first:.3g} on; over shorter ones most do not change at all"
REASONS: dict[SurfaceKind, str] = {
    "piecewise_constant": "the answers are piecewise constant, so a local value does not exist",
    "rough": "the answers jump at every displacement that was tried, so a local value does not exist",
    "rarely_jumping": "a few answers lie far from those around them, as if something else had given them, so that no value "
    "is that of one function",
    "kinked": "the answers bend at the inputs, so their one-sided slopes differ and a local value does not exist",
    "curved": "the answers are linear over no displacement that was tried, so a local value was not found",
}


PAST_LEVELS = (
    "the answers are not linear over the shortest displacement that the inputs' levels allow, so a local value was not found"
)


@dataclass(frozen=True)
class Steps:
    """The displacement that the pilot chose.

    Attributes:
        displacement: l2 length in units of the scale.
        profile: per rung its displacement and the mean energy over pilot inputs.
        share: pilot rows for each input of the audit, rounded up.
        reach: the longest displacement over which the pilot inputs answer linearly.
        kind: ``finite_scale`` where a local value does not exist, or was not found.
        span: range of one feature, the unit of the scale profile's displacements.
        finest: the shortest displacement that the model's numbers or the input's levels can tell.
        quality: what the answers are worth, rounding as far as the pilot's answers show.
        surface: what the answers are over the ladder.
        why: a clause that says why no local value exists; ``None`` where it may.
        size: l2 length over which all features vary by their typical spread in the data.
        decided: positions in the data of inputs whose class was seen, and the class.
        wavers: whether the plateau moves by more than a flat one does.
    """

    displacement: float
    profile: list[dict[str, float]]
    share: int
    reach: float = float("inf")
    kind: Kind = "local"
    span: float = 1.0
    finest: float = 0.0
    quality: OutputQuality = field(default_factory=OutputQuality)
    surface: SurfaceKind = "unknown"
    why: str | None = None
    size: float = float("inf")
    decided: tuple[tuple[int, int], ...] = ()
    wavers: bool = False

    @property
    def bend(self) -> float:
        """Of log energy, what a step of the common displacement bends it by at most at inputs like the pilot's.

        Up to ``reach`` the energy leaves its plateau by ``LINEAR`` at most, and by in proportion less over shorter
        displacements, as kinks do, or faster, as curvature does. Twice that, since inputs differ; at most half of ``FLAT``,
        and that much where the plateau itself is not flat.

        >>> Steps(0.01, [], 1, reach=0.11).bend, Steps(0.01, [], 1, reach=0.41).bend, Steps(0.01, [], 1, reach=9.0).bend
        (0.015, 0.005, 0.005)
        """
        beyond = self.reach / self.displacement - 1.0 if math.isfinite(self.reach) and not self.wavers else 0.0
        return min(max(2 * LINEAR / beyond, LEAST_BEND), FLAT / 2) if beyond > 0 else FLAT / 2

    def __post_init__(self) -> None:
        if isinstance(self.quality, dict):  # as read from a journal
            object.__setattr__(self, "quality", OutputQuality(**self.quality))
        object.__setattr__(self, "decided", tuple((int(i), int(k)) for i, k in self.decided))


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
    sizes = spread(flat)
    asked = ask_ladder(meter, x, flat, space, settings, quality or OutputQuality(), sizes=sizes)
    if not asked.quality.random:
        asked = look_again(meter, x, space, settings, asked)
    quality = asked.quality
    share, span = -(-asked.rows // len(x)), _span(flat, space)
    finest = float(asked.rungs[0])
    profile = [
        {"displacement": float(r), "energy": float(e)} for r, e in zip(asked.rungs, asked.raw.mean(axis=0), strict=True)
    ]
    size = sizes[0] * float(np.sqrt(space.features))
    chosen = _chosen_level(asked, space.dtype) if space.quantised else _chosen(asked, space.dtype, size, space.features)
    decided = tuple((i, int(of_input.base.mean(axis=0).argmax())) for i, of_input in asked.ladders.items())
    if chosen.surface in JUMPING and settings.witness:
        decided, more = _decide_more(meter, x, space, decided)
        share = -(-(asked.rows + more) // len(x))
    return replace(chosen, profile=profile, share=share, span=span, finest=finest, size=size, decided=decided)


def _decide_more(
    meter: Meter, x: NDArray[np.floating], space: Space, decided: tuple[tuple[int, int], ...]
) -> tuple[tuple[tuple[int, int], ...], int]:
    """Classes of further inputs, towards which others are displaced where no slope says where another class is."""
    known = {i for i, _ in decided}
    wanted = [i for i in evenly_spread(len(x), DECIDED).tolist() if i not in known]
    if not wanted:
        return decided, 0
    answers = meter.ask_each([PlainRows(x[i].astype(space.dtype)[None]) for i in wanted])
    both = zip(wanted, answers, strict=True)
    new = [(i, int(answer[0].argmax())) for i, answer in both if not isinstance(answer, InputFailed)]
    return tuple(sorted([*decided, *new])), len(wanted)


def _chosen(asked: PilotLadder, dtype: str, size: float, features: int) -> Steps:
    """Displacement, reach and kind, from the ladder of a domain without levels.

    Args:
        asked: the pilot's answers.
        dtype: what the model is fed.
        size: l2 length over which all features vary by their typical spread.
        features: that may change.
    """
    rungs, plateau, quality = asked.rungs, asked.plateau, asked.quality
    # Behind noise two last rungs that agree may stand where the energy turns from rising to falling.
    at_the_end = plateau is not None and plateau.first + 1 == plateau.last == len(rungs) - 1
    local = not asked.without_plateau and not asked.jumps_beyond and (asked.exact or not at_the_end)
    surface = classify(asked, dtype, local)
    if plateau is not None and local:
        reach = _reach(asked.energy, rungs, plateau.first, plateau.last)
        relative = _relative(asked, (plateau.first + plateau.last) // 2, surface.jump, features)
        kind: Kind = "local" if surface.kind == "smooth" else "finite_scale"
        below = BELOW if surface.jump > ROUGHNESS else SILENT_BELOW
        below = below.format(first=float(rungs[plateau.first]), jump=surface.jump)
        why = REASONS.get(surface.kind, below) if kind == "finite_scale" else None
        known = replace(quality, relative=relative)
        wavers = plateau.change > FLAT
        return Steps(plateau.displacement, [], 0, reach, kind, quality=known, surface=surface.kind, why=why, wavers=wavers)
    if surface.kind == "unknown":  # without any plateau
        return Steps(_shortest_above_noise(asked.energy, rungs), [], 0, 0.0, quality=quality, surface="unknown")
    rho = FINITE_SHARE * size
    if surface.kind == "rough":
        rho = _calmest(asked, rho)
    elif surface.kind == "piecewise_constant":
        rho = _shortest_above_noise(asked.energy, rungs, rho)
    elif surface.kind in ("kinked", "curved"):
        flattest = find_plateau(asked.energy, rungs, quiet=~asked.above_linear)
        rho = rho if flattest is None else flattest.displacement
    return Steps(rho, [], 0, 0.0, "finite_scale", quality=quality, surface=surface.kind, why=REASONS[surface.kind])


def _calmest(asked: PilotLadder, rho: float) -> float:
    """Where the answers jump everywhere: of the rungs whose even share is about the smallest, the one nearest to ``rho``.

    None that has much more energy than one up to ``rho``: a jump at the input itself makes an even share of 1/2 on all
    rungs, or none, and the more energy the shorter the displacement.
    """
    level = np.median(asked.energy, axis=0)
    within = (asked.rungs <= rho) & (level > 0)
    shares = np.where(level > DWARFS * level[within].min(initial=np.inf), np.nan, asked.even_share)
    if not np.isfinite(shares).any():
        return rho
    calm = asked.rungs[shares <= np.nanmin(shares) + ALIKE]
    return float(calm[int(np.abs(np.log(calm / rho)).argmin())])


def _chosen_level(asked: PilotLadder, dtype: str) -> Steps:
    """With levels: the longest rung up to which directions answer the same at three times their length.

    What bends does so less over a shorter displacement, and one that jumps is linear here and there by chance: exact
    answers that are not linear from the shortest displacement on, and nearly so over the next, are so nowhere.
    """
    energy, quality = asked.energy, asked.quality
    above_noise = ((energy > 0) & (asked.stretched > 0)).mean(axis=0) >= 0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.abs(np.log(asked.stretched / energy))
    typical = np.array([np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else np.inf for c in change.T])
    flat = above_noise & (typical <= LEVEL_CHANGE) & asked.quiet
    shortest = int(np.argmax(above_noise))
    if asked.exact:
        flat[shortest:] &= np.logical_and.accumulate(flat[shortest:]) & (typical[shortest:][:2] <= 2 * LEVEL_CHANGE).all()
    linear = np.flatnonzero(flat)
    if linear.size:
        rho = float(asked.rungs[linear[-1]])
        return Steps(rho, [], 0, FACTOR * rho, quality=quality, surface="smooth")
    rho = float(asked.rungs[shortest]) if above_noise.any() else float(asked.rungs[-1])
    surface = classify(asked, dtype, local=False).kind
    if surface in ("piecewise_constant", "rough"):
        return Steps(rho, [], 0, 0.0, "finite_scale", quality=quality, surface=surface, why=REASONS[surface])
    if not asked.exact or not above_noise.any():
        return Steps(rho, [], 0, 0.0, quality=quality)
    with np.errstate(divide="ignore", invalid="ignore"):
        falls = np.median(np.log(asked.stretched[:, shortest] / energy[:, shortest])) <= FALLS * np.log(FACTOR)
    return Steps(rho, [], 0, 0.0, "finite_scale", quality=quality, surface="rough" if falls else "curved", why=PAST_LEVELS)


def _relative(asked: PilotLadder, middle: int, jump: float, features: int) -> float:
    """``jump``, the standard deviation of log p that the model's own arithmetic adds, where it matters at the plateau.

    Secants over h carry the energy E + sigma^2 sum_k p_k (1 - p_k) / h^2.
    """
    mixed, plateau = (asked.base * (1 - asked.base)).sum(axis=1), asked.raw[:, middle]
    known = plateau > 0
    if not asked.exact or not known.any():
        return 0.0
    share = float(np.median(mixed[known] / plateau[known])) * jump**2 * features / float(asked.rungs[middle]) ** 2
    return jump if share > NOISE_MATTERS else 0.0


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
    missing = space.missing(x)
    if missing is not None:  # only the sizes of features are read from here
        gaps = missing.reshape(flat.shape)
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


def _shortest_above_noise(energy: Array, rungs: Array, least: float = 0.0) -> float:
    """The shortest displacement of ``least`` or more that most pilot inputs answer at all, else the longest."""
    found = ((energy > 0).mean(axis=0) >= 0.5) & (rungs >= least)
    return float(rungs[int(np.argmax(found))]) if found.any() else float(rungs[-1])
