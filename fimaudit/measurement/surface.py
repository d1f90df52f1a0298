"""What the answers are over a ladder of displacements: smooth, kinked, curved, rough, or piecewise constant.

Two statistics decide, both from the pilot's answers. The energy of the secants is flat in the displacement where a model
is smooth and falls where its answers jump: as 1 / rho where a jump is met now and then, as 1 / rho^2 where every
displacement meets one. The even share of antipodal pairs goes as rho^2 where a model is smooth, is 1/2 where one of the two
answers jumped, 3/4 where both carry noise of their own, and constant at a kink. An odd jump, as that of sign(x) at 0, has no
even part, and a kink has a flat energy: each statistic sees what the other does not. How often they are right:
benchmarks/regimes.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fimaudit.measurement.ladder import DWARFS, JUMPS, LadderAnswers, PilotLadder

__all__ = ["FALLS", "JUMPING", "ROUGHNESS", "Surface", "SurfaceKind", "classify", "jump_variance", "slope_of"]

Array = NDArray[np.float64]

SurfaceKind = Literal[
    "smooth", "smooth_above", "kinked", "curved", "rough", "rarely_jumping", "piecewise_constant", "unknown"
]

#: Kinds whose slopes say nothing of how far another decision is.
JUMPING: tuple[SurfaceKind, ...] = ("piecewise_constant", "rough", "rarely_jumping")
#: Standard deviation of log p in jumps up to which they are the rounding of float32; that of half precision is beyond it
#: (regimes cnn, float16 and hash_noise_0_0001 of benchmarks/regimes.py).
ROUGHNESS = 3e-4
#: Over this many rungs (a decade) an energy that falls with at least this power of the displacement, and this even share.
DECADE, FALLS, ROUGH_SHARE = 5, -0.5, 0.25
#: The power of the displacement up to which an energy is flat.
LEVEL = 0.1
#: Piecewise constant: more than this share of the pairs answers exactly as the input on this share of the rungs, or most
#: inputs answer the same over the first so many rungs (a decade) and then jump by more than rounding explains.
SAME_PAIRS, SAME_RUNGS, SILENT_RUNGS = 0.10, 0.20, 4
#: Equal are answers that differ by no more than so many roundings, which other rows in a call may move, where a smooth model
#: with the first change beyond them would have moved them by several times that.
ROUNDINGS, EXPECTED = 8.0, 3.0
#: Steps of twenty votes at most (tests/measurement/test_surface.py); behind shorter ones an input may still be measured.
FEW_VOTES = 0.05


@dataclass(frozen=True)
class Surface:
    """The verdict on a run.

    Attributes:
        kind: ``smooth``: a local value exists; ``smooth_above``: only beyond displacements at which the answers jump;
            ``rarely_jumping``: a few answers are those of something else;
            ``unknown``: too little is above the noise.
        jump: standard deviation of log p in the jumps below the plateau.
    """

    kind: SurfaceKind
    jump: float = 0.0


def classify(asked: PilotLadder, dtype: str, local: bool) -> Surface:
    """Read the ladder.

    Args:
        asked: the pilot's answers.
        dtype: what the model is fed.
        local: whether the energy has a plateau on quiet rungs.
    """
    if local and asked.exact and asked.lone_jumps:
        return Surface("rarely_jumping")
    if local:
        jump = jump_size(asked, asked.plateau.first if asked.plateau is not None else 0)
        above = asked.exact and (jump > ROUGHNESS or _silent_below(asked, dtype))
        return Surface("smooth_above" if above else "smooth", jump)
    known = np.isfinite(asked.even_share)
    if not known.any():
        silent = asked.exact and asked.raw.any() and _piecewise_constant(asked, dtype)
        return Surface("piecewise_constant" if silent or _nothing_but_steps(asked) else "unknown")
    if asked.exact and _piecewise_constant(asked, dtype):
        return Surface("piecewise_constant")
    shares = asked.even_share[known]
    typical = float(np.median(shares))
    if _rough(asked):
        return Surface("rough")
    if not asked.exact:
        everywhere = known.sum() >= 2 and float(shares.min()) > JUMPS
        return Surface("rough" if everywhere or (typical > JUMPS and known.sum() >= DECADE) else "unknown")
    return Surface("kinked" if typical > asked.most_even else "curved")


def jump_size(asked: PilotLadder, place: int) -> float:
    """Standard deviation of log p that jumps add on the rungs before ``place``, the largest of those where answers jump.

    They jump where the even share says so, or where the energy dwarfs that of ``place``: an odd jump has no even part.
    """
    mixed = (asked.base * (1 - asked.base)).sum(axis=1)
    centred = np.array([of_input.rungs.centred[: len(asked.rungs)] for of_input in asked.ladders.values()])
    known = mixed > 1e-12
    if not known.any():
        return 0.0
    variance = jump_variance(asked.even, asked.odd, centred, mixed[:, None])[known]
    level = np.median(asked.energy, axis=0)
    jumping = (asked.even_share[:place] >= JUMPS) | (level[:place] > DWARFS * level[place])
    low = [rung for rung in np.flatnonzero(jumping) if np.isfinite(variance[:, rung]).any()]
    return float(np.sqrt(max((float(np.nanmedian(variance[:, rung])) for rung in low), default=0.0)))


def jump_variance(even: Array, odd: Array, centred: NDArray[np.bool_], mixed: Array | float) -> Array:
    """sigma^2 of log p from the parts of antipodal pairs, if noise of that size made them: the larger of what either says.

    |e|^2 of noise of one size sigma in log p is 1.5 sigma^2 sum_k p_k (1 - p_k), as the answer to the input carries it too
    (0.5 where pairs are compared with each other), |o|^2 is 0.5 of that.

    >>> jump_variance(np.array([0.15]), np.array([0.05]), np.array([True]), 0.1)
    array([1.])
    """
    by_even = even / np.where(centred, 1.5, 0.5)
    return np.asarray(np.fmax(by_even, odd / 0.5) / np.maximum(mixed, 1e-12))


def slope_of(energy: Array, rungs: Array) -> float:
    """Power of the displacement with which an energy goes, by least squares over the rungs where there is any.

    >>> slope_of(np.array([4.0, 1.0, 0.25]), np.array([1.0, 2.0, 4.0]))
    -2.0
    """
    known = energy > 0
    if known.sum() < 2:
        return 0.0
    x, y = np.log(rungs[known]), np.log(energy[known])
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def _rough(asked: PilotLadder) -> bool:
    """Whether over some decade the even share is that of jumps and the energy falls, after none where it is flat."""
    with np.errstate(divide="ignore"):
        logs = np.log(asked.energy)
    known = np.isfinite(logs)
    middle = np.array([np.exp(np.median(c[k])) if k.mean() > 0.5 else 0.0 for c, k in zip(logs.T, known.T, strict=True)])
    shares = asked.even_share
    for first in range(len(asked.rungs) - DECADE + 1):
        some = slice(first, first + DECADE)
        if not (np.isfinite(shares[some]).all() and (middle[some] > 0).all()) or np.median(shares[some]) < ROUGH_SHARE:
            continue
        slope = slope_of(middle[some], asked.rungs[some])
        if abs(slope) <= LEVEL:
            return False
        if slope <= FALLS:
            return True
    return False


def _piecewise_constant(asked: PilotLadder, dtype: str) -> bool:
    """Whether small displacements change no answer at all, and longer ones do by more than rounding explains."""
    silent = float(np.median([_silent_rungs(of_input, dtype) for of_input in asked.ladders.values()]))
    if silent >= SILENT_RUNGS and asked.raw.any():
        return True
    same = np.mean([_same(of_input) for of_input in asked.ladders.values()], axis=0)[: len(asked.rungs)]
    return bool((same > SAME_PAIRS).mean() >= SAME_RUNGS)


def _silent_below(asked: PilotLadder, dtype: str) -> bool:
    """Whether most inputs' answers move too little over a decade of displacements, and by nothing that stands out there.

    What does is a slope: that of a sure answer is in the logarithm of what it leaves the other classes.
    """
    both = zip(asked.ladders.values(), asked.above_noise, strict=True)
    missed = [int((_missed(of_input, dtype) & ~above_noise).sum()) for of_input, above_noise in both]
    return float(np.median(missed)) >= SILENT_RUNGS


def _nothing_but_steps(asked: PilotLadder) -> bool:
    """Whether answers move in steps so long that no class is measurable anywhere: five or ten neighbours, or one decimal."""
    moved = any((of_input.answers != of_input.base[0]).any() for of_input in asked.ladders.values())
    return bool(asked.quality.quantum >= FEW_VOTES and moved and not asked.raw.any())


def _same(of_input: LadderAnswers) -> Array:
    """(rungs,) share of the pairs that answer exactly as the input does, both ways."""
    same = (of_input.answers == of_input.base[0]).all(axis=2)
    half = same.shape[1] // 2
    return np.asarray((same[:, :half] & same[:, half:]).mean(axis=1))


def _silent_rungs(of_input: LadderAnswers, dtype: str) -> int:
    """Over how many rungs an input's answers are equal, although they change later by more than rounding explains."""
    equal = int((_moved(of_input) == 0).cumprod().sum())
    return max(equal, int(_missed(of_input, dtype).sum()))


def _missed(of_input: LadderAnswers, dtype: str) -> NDArray[np.bool_]:
    """(rungs,) whether they do not move by more than rounding, where a smooth model would have by several times that."""
    exact = np.dtype(dtype) if np.dtype(dtype).kind == "f" else np.dtype("float32")
    rounding, moved = ROUNDINGS * float(np.finfo(exact).eps), _moved(of_input)
    silent = (moved <= rounding).cumprod().astype(np.bool_)
    first = int(silent.sum())
    if first == len(silent):
        return np.zeros_like(silent)
    lengths = of_input.rungs.lengths
    return np.asarray(silent & (moved[first] * lengths / lengths[first] >= EXPECTED * rounding))


def _moved(of_input: LadderAnswers) -> Array:
    """(rungs,) the farthest that the root of any probability moves from what it is over the shortest displacements.

    An input that lies on a threshold, as XGBoost puts them at values of the data, is answered otherwise on the one side of
    it, but there the same however far.
    """
    roots = np.sqrt(np.maximum(of_input.first, 0.0))
    return np.asarray(np.abs(roots - roots[0]).max(axis=(1, 2)))
