"""Random displacements of one input over any domain, and the energy of the secants that they give."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fimaudit.directions import DisplacedRows, JoinedRows, OrthonormalRows, Rows, RungRows, generator, packed_signs
from fimaudit.domain import Space
from fimaudit.levels import LevelRows
from fimaudit.noise import Here, View

__all__ = [
    "FACTOR",
    "MAIN",
    "PILOT",
    "PROFILE",
    "TRIAL",
    "Rungs",
    "Signs",
    "around",
    "displaced",
    "displaced_rungs",
    "draw_pairs",
    "draw_signs",
    "energies",
    "energy",
    "heard",
    "joined",
]

Array = NDArray[np.float64]

#: Random streams of one input (``directions.generator``).
MAIN, PILOT, STARTS, PROFILE, TRIAL = 0, 1, 2, 3, 4

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


@dataclass(frozen=True)
class Rungs:
    """The same directions at several displacements.

    Attributes:
        rows: of all, rung by rung.
        lengths: (rungs,) root mean square step of one feature as it was really sent, in units of the scale.
        full: (rungs,) whether the box left nearly all of the displacement.
    """

    rows: Rows
    lengths: Array
    full: NDArray[np.bool_]


def joined(space: Space, blocks: Sequence[DisplacedRows | LevelRows | OrthonormalRows]) -> Rungs:
    """Blocks of rows as rungs; levels are sent in full."""
    lengths = np.array([space.length(block.sent()) for block in blocks])
    wanted = np.array([space.length(block.step) for block in blocks])
    return Rungs(JoinedRows(blocks), lengths, (lengths >= REALLY_SENT * wanted) | space.quantised)


def displaced_rungs(x: NDArray[np.floating], space: Space, signs: Signs, rhos: Sequence[float] | Array) -> Rungs:
    """The rows x displaced by each of ``rhos`` along each direction."""
    if space.quantised:
        return joined(space, [displaced(x, space, signs, float(rho)) for rho in rhos])
    sizes = np.asarray(rhos, dtype=np.float64) / np.sqrt(space.features)
    rows = RungRows(x, signs.packed, space.unit_step, sizes, space.lower, space.upper, space.dtype)
    lengths = np.concatenate([space.lengths(sent) for sent in rows.sent()])
    return Rungs(rows, lengths, lengths >= REALLY_SENT * sizes)


def around(x: NDArray[np.floating], space: Space, signs: Signs, rho: float) -> Rungs:
    """The same directions, short and long: a third and three times ``rho``, or with levels once and three times."""
    if space.quantised:
        return joined(space, [displaced(x, space, signs, rho), displaced(x, space, signs, FACTOR * rho, FACTOR)])
    return displaced_rungs(x, space, signs, (rho / FACTOR, FACTOR * rho))


def energy(view: View, answers: Array, lengths: Array) -> Array:
    """Mean squared contrast of the secants of 2 sqrt(p) over each of ``lengths`` (rungs,), from answers (rungs, m, K).

    The contrasts of a rung are an orthonormal transform of its centred secants, so their squares have the same sum.
    """
    rungs, m, k = answers.shape
    if view.blind:
        return np.zeros(rungs)
    roots = np.sqrt(view.table(answers.reshape(rungs * m, k))).reshape(rungs, m, -1)
    roots -= roots[:, :1]  # equal answers have no energy, not even that of rounding
    roots -= roots.mean(axis=1, keepdims=True)
    total = np.einsum("rmk,rmk->r", roots, roots)
    return np.asarray(4.0 * total / (m - 1) / np.where(lengths > 0, lengths, np.inf) ** 2)


def energies(
    x: NDArray[np.floating], space: Space, signs: Signs, rhos: Array, here: Here
) -> Generator[Rows, Array, tuple[Array, NDArray[np.bool_]]]:
    """Energy on each rung, the same directions on all, and which rungs stand out from the noise."""
    rungs = displaced_rungs(x, space, signs, rhos)
    return heard(rungs, (yield rungs.rows), here)


def heard(rungs: Rungs, answers: Array, here: Here) -> tuple[Array, NDArray[np.bool_]]:
    """Energy on each rung, and whether it stands out from the noise.

    Args:
        rungs: what was asked.
        answers: (rows of all rungs, K) in their order.
        here: the answers to the input itself.
    """
    lengths = rungs.lengths
    pieces = answers.reshape(len(lengths), -1, answers.shape[1])
    views = [here.view(piece) for piece in pieces]
    if here.quality.top_k is None:
        out = energy(views[0], pieces, lengths)
    else:  # labels drop out of the list on some rungs
        some = [energy(view, pieces[i : i + 1], lengths[i : i + 1]) for i, view in enumerate(views)]
        out = np.concatenate(some)
    loud = [view.resolved(float(e), float(h)) for view, e, h in zip(views, out, lengths, strict=True)]
    return out, rungs.full & loud
