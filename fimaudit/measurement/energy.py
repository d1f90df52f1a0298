"""Random displacements of one input over any domain, and the energy of the secants that they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fimaudit.domain import Space
from fimaudit.estimation.grouping import alike
from fimaudit.estimation.noise import BaseAnswers
from fimaudit.estimation.secants import complete
from fimaudit.measurement.protocol import Flow
from fimaudit.perturbations.orthonormal_rows import OrthonormalRows
from fimaudit.perturbations.quantised_rows import LevelRows
from fimaudit.perturbations.random_signs import generator, packed_signs
from fimaudit.perturbations.rows import JoinedRows, Rows
from fimaudit.perturbations.sign_rows import DisplacedRows, RungRows

__all__ = [
    "FACTOR",
    "MAIN",
    "PILOT",
    "PROFILE",
    "TRIAL",
    "Answered",
    "Rungs",
    "Signs",
    "around",
    "displaced",
    "displaced_rungs",
    "draw_pairs",
    "draw_signs",
    "energies",
    "energies_above_noise",
    "energies_above_noise_each",
    "energy",
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
        return DisplacedRows(x, signs.packed, step, space.box, space.dtype)
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
    rows = RungRows(x, signs.packed, space.unit_step, sizes, space.box, space.dtype)
    lengths = np.concatenate([space.lengths(sent) for sent in rows.sent()])
    return Rungs(rows, lengths, lengths >= REALLY_SENT * sizes)


def around(x: NDArray[np.floating], space: Space, signs: Signs, rho: float) -> Rungs:
    """The same directions, short and long: a third and three times ``rho``, or with levels once and three times."""
    if space.quantised:
        return joined(space, [displaced(x, space, signs, rho), displaced(x, space, signs, FACTOR * rho, FACTOR)])
    return displaced_rungs(x, space, signs, (rho / FACTOR, FACTOR * rho))


def energies(
    x: NDArray[np.floating], space: Space, signs: Signs, rhos: Array, base_answers: BaseAnswers
) -> Flow[tuple[Array, NDArray[np.bool_]]]:
    """Energy on each rung, the same directions on all, and which rungs stand out from the noise."""
    rungs = displaced_rungs(x, space, signs, rhos)
    return energies_above_noise(Answered(rungs, (yield rungs.rows), base_answers))


@dataclass(frozen=True)
class Answered:
    """What was asked around one input.

    Attributes:
        rungs: the displacements.
        answers: (rows of all rungs, K) in their order.
        base_answers: the answers to the input itself.
    """

    rungs: Rungs
    answers: Array
    base_answers: BaseAnswers

    @property
    def pieces(self) -> Array:
        """(rungs, m, K) answers."""
        return self.answers.reshape(len(self.rungs.lengths), -1, self.answers.shape[1])


def energies_above_noise(asked: Answered) -> tuple[Array, NDArray[np.bool_]]:
    """Energy on each rung, and whether it stands out from the noise."""
    return energies_above_noise_each([asked])[0]


def energies_above_noise_each(asked: Sequence[Answered]) -> list[tuple[Array, NDArray[np.bool_]]]:
    """``energies_above_noise`` of each; those of one shape are worked on together."""
    found: list[Array] = [np.empty(0)] * len(asked)
    for places in alike(one.answers.shape if one.base_answers.plain else i for i, one in enumerate(asked)):
        some = [asked[i] for i in places]
        lengths = np.stack([one.rungs.lengths for one in some])
        if some[0].base_answers.plain:
            tables = complete(np.stack([one.answers for one in some]), np.array([one.base_answers.view.top for one in some]))
            energies_of_all = energy(tables.reshape(*lengths.shape, -1, tables.shape[-1]), lengths)
        else:
            energies_of_all = np.array([[_energy(one, rung) for rung in range(len(one.pieces))] for one in some])
        for i, row in zip(places, energies_of_all, strict=True):
            found[i] = row
    return [(e, one.rungs.full & _above_noise(one, e)) for one, e in zip(asked, found, strict=True)]


def _energy(one: Answered, rung: int) -> float:
    """On one rung, in what is measurable there: labels may drop out of the list on some."""
    piece = one.pieces[rung]
    view = one.base_answers.view_of(piece)
    return 0.0 if view.unmeasurable else float(energy(view.table(piece), one.rungs.lengths[rung]))


def _above_noise(one: Answered, found: Array) -> NDArray[np.bool_]:
    """Which rungs' energy stands out from the noise."""
    lengths = one.rungs.lengths.tolist()
    each = zip(one.pieces, found.tolist(), lengths, strict=True)
    return np.array([one.base_answers.view_of(piece).above_noise(e, length) for piece, e, length in each])


def energy(tables: Array, lengths: Array) -> Array:
    """Mean squared contrast of the secants of 2 sqrt(p) over ``lengths`` (...), from measurable columns (..., m, C).

    The contrasts are an orthonormal transform of the centred secants, so their squares have the same sum.
    """
    roots = np.sqrt(tables)
    roots -= roots[..., :1, :]  # equal answers have no energy, not even that of rounding
    roots -= roots.mean(axis=-2, keepdims=True)
    total = (roots * roots).sum(axis=(-2, -1))
    long = np.asarray(lengths)
    return np.asarray(4.0 * total / (tables.shape[-2] - 1) / np.where(long > 0, long, np.inf) ** 2)
