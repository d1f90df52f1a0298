"""Random displacements of one input over any domain, and the energy of the secants that they give."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fimaudit.directions import DisplacedRows, JoinedRows, Rows, generator, packed_signs
from fimaudit.domain import Space
from fimaudit.levels import LevelRows
from fimaudit.noise import Quality, View
from fimaudit.secants import contrasts

__all__ = [
    "FACTOR",
    "MAIN",
    "PILOT",
    "PROFILE",
    "Signs",
    "around",
    "displaced",
    "draw_pairs",
    "draw_signs",
    "energies",
    "energy",
    "heard",
]

Array = NDArray[np.float64]

#: Random streams of one input (``directions.generator``).
MAIN, PILOT, STARTS, PROFILE = 0, 1, 2, 3

#: Linearity is judged from a displacement and this many times it.
FACTOR = 3.0
#: Where a narrow box cuts more than a tenth off a displacement, longer ones are all the same.
REALLY_SENT = 0.9


@dataclass(frozen=True)
class Signs:
    """Directions of one input: sign bits, and where levels are sparse, which rows move which feature.

    Attributes:
        packed: (m, ceil(d / 8)) bits.
        phase: (m,) place in the sequence of rows.
        key: seed and index, from which each feature's start in the sequence follows.
    """

    packed: NDArray[np.uint8]
    phase: NDArray[np.int64]
    key: tuple[int, int]

    def __len__(self) -> int:
        return len(self.packed)

    def first(self, count: int) -> Signs:
        """The first ``count`` directions."""
        return Signs(self.packed[:count], self.phase[:count], self.key)


def draw_signs(seed: int, index: int, stream: int, count: int, features: int) -> Signs:
    """``count`` independent directions."""
    return Signs(packed_signs(generator(seed, index, stream), count, features), np.arange(count), (seed, index))


def draw_pairs(seed: int, index: int, count: int, features: int) -> Signs:
    """Directions of pilot and check: antipodal pairs, so that no gradient meets equal signs throughout."""
    half = packed_signs(generator(seed, index, PILOT), count // 2, features)
    return Signs(np.concatenate([half, ~half]), np.tile(np.arange(count // 2), 2), (seed, index))


def displaced(
    x: NDArray[np.floating], space: Space, signs: Signs, rho: float, stretch: float = 1.0
) -> DisplacedRows | LevelRows:
    """The rows x displaced by ``rho`` along each direction.

    Where inputs have levels, a longer displacement moves other features, not only further; ``stretch`` counts so many levels
    as one, which gives the directions of ``rho / stretch`` at ``stretch`` times their length.
    """
    step = space.step(rho)
    if not space.quantised:
        return DisplacedRows(x, signs.packed, step, space.lower, space.upper, space.dtype)
    start = generator(*signs.key, STARTS).random(x.size)
    unit = space.quantum * stretch
    return LevelRows(x, signs.packed, signs.phase, start, step, unit, space.lower, space.upper, space.dtype)


def around(x: NDArray[np.floating], space: Space, signs: Signs, rho: float) -> list[DisplacedRows | LevelRows]:
    """The same directions, short and long: a third and three times ``rho``, or with levels once and three times."""
    if space.quantised:
        return [displaced(x, space, signs, rho), displaced(x, space, signs, FACTOR * rho, FACTOR)]
    return [displaced(x, space, signs, rho / FACTOR), displaced(x, space, signs, FACTOR * rho)]


def energy(view: View, answers: Array, length: float) -> float:
    """Mean squared contrast of the secants of 2 sqrt(p) over ``length``."""
    if length == 0 or view.blind:
        return 0.0
    p = view.table(answers)
    if (p == p[0]).all():
        return 0.0
    return float((contrasts(np.sqrt(p) * (2.0 / length)) ** 2).sum()) / (len(p) - 1)


def energies(
    x: NDArray[np.floating], space: Space, signs: Signs, rungs: Array, quality: Quality, base: Array
) -> Generator[Rows, Array, tuple[Array, NDArray[np.bool_]]]:
    """Energy on each rung, the same directions on all, and which rungs stand out from the noise."""
    blocks = [displaced(x, space, signs, float(r)) for r in rungs]
    answers = yield JoinedRows(blocks)
    pieces = np.split(answers, len(rungs))
    return heard(space, blocks, pieces, quality, base)


def heard(
    space: Space, blocks: list[DisplacedRows | LevelRows], pieces: list[Array], quality: Quality, base: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """Energy of each block of answers, and whether it stands out from the noise."""
    out, clear = np.zeros(len(blocks)), np.zeros(len(blocks), dtype=bool)
    for i, (block, piece) in enumerate(zip(blocks, pieces, strict=True)):
        length = space.length(block.sent())
        view = quality.view(base, piece)
        out[i] = energy(view, piece, length)
        full = space.quantised or length >= REALLY_SENT * space.length(block.step)
        clear[i] = full and view.resolved(out[i], length)
    return out, clear
