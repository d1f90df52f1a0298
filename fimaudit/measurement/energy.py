"""Random displacements of one input over any domain, and the energy of the secants that they give."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.grouping import positions_by_kind, stacked
from fimaudit.estimation.noise import BaseAnswers, tables_of_each
from fimaudit.measurement.protocol import BatchedStep, Flow
from fimaudit.perturbations.orthonormal_rows import OrthonormalRows
from fimaudit.perturbations.quantised_rows import LevelRows
from fimaudit.perturbations.random_signs import generator, packed_signs
from fimaudit.perturbations.rows import JoinedRows, Rows
from fimaudit.perturbations.sign_rows import BLOCK_ELEMENTS, DisplacedRows, rung_rows_of_each
from fimaudit.space import Space

__all__ = [
    "FACTOR",
    "MAIN",
    "PROFILE",
    "TRIAL",
    "Answered",
    "Displacements",
    "RungReadings",
    "Rungs",
    "Signs",
    "around",
    "displaced",
    "displaced_rungs",
    "displaced_rungs_each",
    "draw_pairs",
    "draw_signs",
    "energy",
    "even_share",
    "is_centred",
    "joined",
    "read_pairs",
    "read_rungs",
    "read_rungs_each",
]

Array = NDArray[np.float64]

#: Random streams of one input (``directions.generator``).
MAIN, PILOT, STARTS, PROFILE, TRIAL = 0, 1, 2, 3, 4

#: Linearity is judged from a displacement and this many times it.
FACTOR = 3.0
#: Where a narrow box cuts more than a tenth off a displacement, longer ones are all the same.
REALLY_SENT = 0.9
#: The middle of a pair lies elsewhere than the input where the box moves it by more than this share of the displacement: its
#: square, which is what the even share then gains, is a hundredth.
OFF_CENTRE = 0.1


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
    """Directions of pilot and check: antipodal pairs, so that no gradient meets equal signs throughout.

    With levels all pairs move the same features: one at an edge moves one way, in one row of each pair, so that the pairs
    have one middle.
    """
    half = packed_signs(generator(seed, index, PILOT), count // 2, features)
    return Signs(np.concatenate([half, ~half]), np.zeros(2 * len(half), dtype=np.int64), (seed, index))


def displaced(
    x: NDArray[np.floating], space: Space, signs: Signs, rho: float, stretch: float = 1.0
) -> DisplacedRows | LevelRows:
    """The rows x displaced by ``rho`` along each direction.

    Where inputs have levels, a longer displacement moves other features, not only further; ``stretch`` counts so many levels
    as one, which gives the directions of ``rho / stretch`` at ``stretch`` times their length.
    """
    if not space.quantised:
        return DisplacedRows(x, signs.packed, space.shared_step(rho), space.box, space.dtype)
    step = space.step(rho)
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
        centred: (rungs,) whether the middle of an antipodal pair is the input; all pairs of a rung have the same middle.
    """

    rows: Rows
    lengths: Array
    full: NDArray[np.bool_]
    centred: NDArray[np.bool_]


def joined(space: Space, blocks: Sequence[DisplacedRows | LevelRows | OrthonormalRows]) -> Rungs:
    """Blocks of rows as rungs; levels are sent in full."""
    lengths = np.array([space.length(block.sent()) for block in blocks])
    wanted = lengths
    if space.bounded:
        wanted = np.array([space.length(np.broadcast_to(block.step, block.x.shape)) for block in blocks])
    centred = not space.quantised or not space.bounded  # at an edge a feature with levels moves one way
    full = (lengths >= REALLY_SENT * wanted) | space.quantised
    return Rungs(JoinedRows(blocks), lengths, full, np.full(len(lengths), centred))


@dataclass(frozen=True)
class Displacements:
    """What ``displaced_rungs`` takes."""

    x: NDArray[np.floating]
    space: Space
    signs: Signs
    rhos: Sequence[float] | Array


def displaced_rungs(x: NDArray[np.floating], space: Space, signs: Signs, rhos: Sequence[float] | Array) -> Rungs:
    """The rows x displaced by each of ``rhos`` along each direction."""
    return displaced_rungs_each([Displacements(x, space, signs, rhos)])[0]


def displaced_rungs_each(asked: Sequence[Displacements]) -> list[Rungs]:
    """``displaced_rungs`` of each; those of one domain and of as many rungs are worked on together, as their size allows."""
    out: list[Rungs | None] = [None] * len(asked)
    for places in positions_by_kind((id(one.space), len(one.rhos)) for one in asked):
        space, rungs = asked[places[0]].space, len(asked[places[0]].rhos)
        count = 1 if space.quantised else max(1, BLOCK_ELEMENTS // max(1, rungs * asked[places[0]].x.size))
        for first in range(0, len(places), count):
            some = places[first : first + count]
            for i, one in zip(some, _rungs_of_each(space, [asked[i] for i in some]), strict=True):
                out[i] = one
    return [one for one in out if one is not None]


def _rungs_of_each(space: Space, asked: Sequence[Displacements]) -> list[Rungs]:
    """Of displacements over one domain, of as many rungs each."""
    if space.quantised:
        return [joined(space, [displaced(one.x, space, one.signs, float(rho)) for rho in one.rhos]) for one in asked]
    sizes = np.array([one.rhos for one in asked], dtype=np.float64) / math.sqrt(space.features)
    each = [one.x for one in asked], [one.signs.packed for one in asked]
    blocks, sent = rung_rows_of_each(*each, space.even_step, sizes, space.box, space.dtype)
    lengths = space.lengths(sent).reshape(sizes.shape)
    centred = np.ones(sizes.shape, dtype=np.bool_)
    if space.bounded:
        centred = np.array([[is_centred(one.x, space, float(rho)) for rho in one.rhos] for one in asked])
    return [Rungs(*one) for one in zip(blocks, lengths, lengths >= REALLY_SENT * sizes, centred, strict=True)]


def is_centred(x: NDArray[np.floating], space: Space, rho: float) -> bool:
    """Whether antipodal displacements of that length have the input in their middle, as they do far from the bounds."""
    return space.inward(x, rho) <= OFF_CENTRE * rho


def around(x: NDArray[np.floating], space: Space, signs: Signs, rho: float) -> Flow[Rungs]:
    """The same directions, short and long: a third and three times ``rho``, or with levels once and three times."""
    if space.quantised:
        return joined(space, [displaced(x, space, signs, rho), displaced(x, space, signs, FACTOR * rho, FACTOR)])
    rungs: Rungs = yield BatchedStep(displaced_rungs_each, Displacements(x, space, signs, (rho / FACTOR, FACTOR * rho)))
    return rungs


def read_rungs(
    x: NDArray[np.floating], space: Space, signs: Signs, rhos: Array, base_answers: BaseAnswers
) -> Flow[RungReadings]:
    """Ask the same antipodal pairs at each displacement, and read their energies and even parts."""
    rungs = displaced_rungs(x, space, signs, rhos)
    return read_pairs(Answered(rungs, (yield rungs.rows), base_answers))


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
    def kind(self) -> Hashable:
        """What inputs that are worked on together have in common; ``None`` where labels may drop out on some rungs."""
        if self.base_answers.quality.top_k is not None:
            return None
        return len(self.rungs.lengths), self.answers.shape, self.base_answers.view.kind

    @property
    def pieces(self) -> Array:
        """(rungs, m, K) answers."""
        return self.answers.reshape(len(self.rungs.lengths), -1, self.answers.shape[1])


@dataclass(frozen=True)
class RungReadings:
    """What the answers of one input say on each rung.

    Attributes:
        energy: (rungs,) mean squared secant.
        above_noise: (rungs,) whether it stands out from the noise.
        even, odd: (rungs,) mean over the antipodal pairs of |e|^2 and |o|^2, where e = (a + b) / 2 and o = (a - b) / 2 of
            a = s(x + h) - s(x), b = s(x - h) - s(x), s = 2 sqrt(p); NaN where that cannot be said.
    """

    energy: Array
    above_noise: NDArray[np.bool_]
    even: Array
    odd: Array

    @cached_property
    def energy_above_noise(self) -> Array:
        """The energy where it stands out, 0 elsewhere."""
        return np.where(self.above_noise, self.energy, 0.0)

    @cached_property
    def even_share(self) -> Array:
        """(rungs,) |e|^2 over |e|^2 + |o|^2, NaN in noise: rho^2 of a smooth model, 1/2 of a jump, 3/4 of noise."""
        return even_share(self.even, self.odd, self.above_noise)

    @property
    def shortest_even_share(self) -> float:
        """That of the first rung."""
        total = float(self.even[0] + self.odd[0])
        return float(self.even[0]) / total if self.above_noise[0] and total > 0 else math.nan


def even_share(even: Array, odd: Array, above_noise: NDArray[np.bool_]) -> Array:
    """|e|^2 / (|e|^2 + |o|^2) where something stands out from the noise, NaN elsewhere.

    >>> even_share(np.array([1.0, 0.0, 1.0]), np.array([1.0, 0.0, 1.0]), np.array([True, True, False]))
    array([0.5, nan, nan])
    """
    total = even + odd
    known = above_noise & (total > 0)
    return np.where(known, even / np.where(known, total, 1.0), np.nan)


def read_pairs(asked: Answered) -> RungReadings:
    """What the answers of one input say."""
    return read_rungs_each([asked])[0]


def read_rungs_each(asked: Sequence[Answered]) -> list[RungReadings]:
    """``read_pairs`` of each; those of one shape are worked on together."""
    found: list[RungReadings | None] = [None] * len(asked)
    for places in positions_by_kind(one.kind or i for i, one in enumerate(asked)):
        some = [asked[i] for i in places]
        lengths, full = stacked([one.rungs.lengths for one in some]), stacked([one.rungs.full for one in some])
        views = [one.base_answers.view for one in some]
        if some[0].kind is None:
            each = np.array([_of_rung(some[0], rung) for rung in range(len(full[0]))])
            energies, even, odd = each.T[:, None]
        elif views[0].unmeasurable:
            energies, even, odd = np.zeros((3, *lengths.shape))
        else:
            tables = tables_of_each(views, [one.answers for one in some])
            pieces = tables.reshape(*lengths.shape, -1, tables.shape[-1])
            base, centred = stacked([view.columns for view in views]), stacked([one.rungs.centred for one in some])
            energies, (even, odd) = energy(pieces, lengths), _parts(pieces, base[:, None], centred)
        above = full & _above_noise(some, energies, lengths)
        for place, i in enumerate(places):
            found[i] = RungReadings(energies[place], above[place], even[place], odd[place])
    return [one for one in found if one is not None]


def _of_rung(one: Answered, rung: int) -> tuple[float, float, float]:
    """Energy, even and odd part on one rung, in what is measurable there: labels may drop out of the list on some."""
    piece = one.pieces[rung]
    view = one.base_answers.view_of(piece)
    if view.unmeasurable:
        return 0.0, 0.0, 0.0
    table = view.table(piece)
    even, odd = _parts(table, view.columns, one.rungs.centred[rung])
    return float(energy(table, one.rungs.lengths[rung])), float(even), float(odd)


def _parts(tables: Array, base: Array, centred: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Mean |e|^2 and |o|^2 (...) of antipodal pairs from measurable columns (..., m, C) and those of the input (..., C).

    Where the middles of the pairs are not the input (``centred`` (...) is false) but one point that was not asked, e is what
    they differ by; noise has an even share of 1/2 then, a jump still has 1/2, and a kink that all directions share is not
    seen. NaN for a single such pair.
    """
    roots, half = 2.0 * np.sqrt(tables), tables.shape[-2] // 2
    plus, minus = roots[..., :half, :], roots[..., half : 2 * half, :]
    odd = (((plus - minus) / 2) ** 2).sum(axis=-1).mean(axis=-1)
    middle = (plus + minus) / 2
    even = ((middle - 2.0 * np.sqrt(base)[..., None, :]) ** 2).sum(axis=-1).mean(axis=-1)
    if np.all(centred):
        return even, odd
    apart = np.full_like(even, np.nan)
    if half >= 2:
        apart = ((middle - middle.mean(axis=-2, keepdims=True)) ** 2).sum(axis=-1).mean(axis=-1) * half / (half - 1)
    return np.where(centred, even, apart), odd


def _above_noise(some: Sequence[Answered], found: Array, lengths: Array) -> NDArray[np.bool_]:
    """Which energies (n, rungs) stand out from the noise."""
    above = found > 0
    for place, one in enumerate(some):
        if one.kind is None or one.base_answers.view.noise is not None:
            each = zip(one.pieces, found[place].tolist(), lengths[place].tolist(), strict=True)
            above[place] = [one.base_answers.view_of(piece).above_noise(e, length) for piece, e, length in each]
    return above


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
