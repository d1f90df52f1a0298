"""What the pilot's answers on a ladder of displacements say: energies, quiet rungs, the plateau, and lone jumps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.median import median
from fimaudit.estimation.noise import BaseAnswers, OutputQuality
from fimaudit.measurement.energy import Answered, Rungs, even_share, read_rungs_each
from fimaudit.measurement.plateau import FLAT, Plateau, find_plateau
from fimaudit.number_format import FLOAT64_SPACING, number_spacing, output_resolution

__all__ = ["DWARFS", "JUMPS", "QUIET", "QUIET_IN_NOISE", "LadderAnswers", "PilotLadder", "has_exact_answers", "read_ladder"]

Array = NDArray[np.float64]

#: One pair is enough where exact answers show a plateau of so many rungs (a decade): a second could only move the
#: displacement along it, where the energy is flat. Rounding scatters the energies themselves, so that a plateau may
#: end by chance; two pairs average that.
PLAIN_RUNGS = 4
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
#: How many times the energy may fall below what curvature explains (``most_fallen``), as directions and inputs differ.
FALLEN = 1.5
#: Steps are of rounding where on some rung the odd parts are that many times what rounding makes of the even ones, and the
#: even share is no more than this: n votes move an answer unevenly, by 1 / sqrt(n) (tests/measurement/test_surface.py).
MOVED, EVENLY = (40.0, 1000.0), 0.022
#: How far a lone jump stands above the plateau, between rungs within this factor of it: regime hash_routing_3 of
#: benchmarks/regimes.py, and its smooth ones, which show none.
LONE, BESIDE = 8.0, 2.0


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
        return np.array([median(e[k]) if e_ok else np.nan for e, k, e_ok in zip(each.T, known.T, enough, strict=True)])

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
        if found is not None and not is_long(found) and self.above_linear[found.first : found.last + 1].any():
            found = find_plateau(self.energy, self.rungs, quiet=self.quiet & ~self.above_linear)
        if found is None or found.change <= NO_PLATEAU or not self.exact:
            return found
        known_quiet = self.quiet & np.isfinite(self.even_share)
        most = find_plateau(self.energy, self.rungs, NO_PLATEAU, known_quiet, MOST_INPUTS)
        return found if most is None or most.change > NO_PLATEAU or most.last - most.first < PLAIN_RUNGS else most

    @cached_property
    def lone_jumps(self) -> int:
        """Times that one rung of an input stands far above its plateau while the rungs beside it do not.

        A share of the rows is answered by something else, so rare that most displacements do not meet it: by another
        version, or across a cell's boundary. Where the shorter rung beside it is no linear function's either, the
        model is curved there, far beyond the plateau as a rule, and one rung of it may stand above the next.
        """
        if self.plateau is None:
            return 0
        level = np.median(self.energy[:, self.plateau.first : self.plateau.last + 1], axis=1, keepdims=True)
        over = self.energy / np.where(level > 0, level, np.inf)
        share = even_share(self.even, self.odd, self.above_noise)
        alike = (over > 1 / BESIDE) & (over < BESIDE)
        lone = (over > LONE) & (share >= JUMPS)
        return int((lone[:, 1:-1] & (alike & ~(share >= JUMPS))[:, :-2] & alike[:, 2:]).sum())

    @cached_property
    def jumps_beyond(self) -> bool:
        """Whether a plateau too short to be sure of ends where answers jump: then it may be the inside of a cell."""
        found = self.plateau
        if found is None or found.last - found.first >= QUIET_RUNGS or found.last + 1 >= len(self.rungs):
            return False
        level = np.median(self.energy, axis=0)
        return bool(self.even_share[found.last + 1] >= JUMPS and level[found.last + 1] > LONE * level[found.last])

    @cached_property
    def above_linear(self) -> NDArray[np.bool_]:
        """(rungs,) whether there is more energy than any curvature can take away up to some longer displacement.

        Then jumps make it: odd ones, of inputs at the edge of a rounding, say, have no even part.
        """
        level = np.median(self.energy, axis=0)
        most = FALLEN * np.where(level > 0, level, np.inf) * most_fallen(self.even_share)
        beyond = np.minimum.accumulate(most[::-1])[::-1]
        return np.asarray(np.append(level[:-1] > beyond[1:], False))

    @property
    def most_even(self) -> float:
        """The even share up to which a linear function explains the answers."""
        return QUIET if self.exact else QUIET_IN_NOISE

    @property
    def exact(self) -> bool:
        """Whether nothing is known of the answers but that they are numbers as the model has them."""
        return has_exact_answers(self.quality)

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
            and is_long(found)
            and bool(np.isfinite(self.even_share[found.first : found.last + 1]).all())
        )


def read_ladder(rungs: Array, ladders: Mapping[int, LadderAnswers], quality: OutputQuality) -> PilotLadder:
    """Energies, and what the answers show of their own quality."""
    seen = list(ladders.values())
    every = np.concatenate([a.reshape(-1, a.shape[-1]) for of_input in seen for a in (of_input.base, of_input.answers)])
    quantum = (
        0.0 if quality.random or quality.exact else output_resolution(every[:, :-1] if quality.top_k is not None else every)
    )
    deviation = float(np.median([of_input.base.std(axis=0, ddof=1) for of_input in seen])) if quality.random else 0.0
    inside = bool(((every > 0) & (every < 1)).any())
    quality = replace(
        quality,
        quantum=quantum,
        deviation=deviation,
        quantum_unknown=not inside and not quality.exact,
        spacing=_spacing(every, quality),
    )
    asked = [Answered(c.rungs, c.answers.reshape(-1, c.answers.shape[-1]), BaseAnswers(quality, c.base)) for c in seen]
    found = read_rungs_each(asked)
    some = len(rungs)
    raw, above_noise, even, odd = (
        np.array([getattr(one, name)[:some] for one in found]) for name in ("energy", "above_noise", "even", "odd")
    )
    quality = replace(quality, surely_rounded=quality.quantum > 0 and _are_rounded(even, odd, asked))
    base = np.array([of_input.base.mean(axis=0) for of_input in seen])
    stretched = np.array([one.energy_above_noise[some:] for one in found])
    return PilotLadder(rungs, raw, above_noise, even, odd, stretched, base, quality, len(every), ladders)


def _are_rounded(even: Array, odd: Array, asked: Sequence[Answered]) -> bool:
    """Whether on some rung the typical input moves far, and as evenly as only a linear function does."""
    noise = [one.base_answers.view.noise for one in asked]
    of_rounding = 1.5 * np.array([np.nan if n is None or n.total <= 0 else n.total for n in noise])[:, None]
    known = np.isfinite(of_rounding[:, 0])
    if not known.any():
        return False
    of_odd, of_even = (np.median(part[known] / of_rounding[known], axis=0) for part in (odd, even))
    return bool(((of_odd >= MOVED[0]) & (of_odd <= MOVED[1]) & (of_even <= EVENLY * of_odd)).any())


def _spacing(answers: Array, quality: OutputQuality) -> float:
    """Of the coarser of two classes, of which one may be what the other leaves; of more, each is a number of its own.

    Answers that are surely not rounded (votes, say) have few digits as they are.
    """
    if quality.random or quality.exact or answers.shape[1] != 2:
        return FLOAT64_SPACING
    return max(number_spacing(answers[:, 0]), number_spacing(answers[:, 1]))


def most_fallen(share: Array) -> Array:
    """How many times less energy a smooth function may have over a displacement of this even share than over none.

    That of two classes alike, p = 1 / (1 + e^-z) at z = 0: of the functions of one logit it loses most for its even part.
    There an answer turns by delta = 2 asin(sqrt(share)) < pi / 4, and tan(2 delta) = sinh(z / 2): the energy falls by
    (z / (4 sin delta))^2.

    >>> most_fallen(np.array([0.0, 0.05, 0.1, 0.14, 0.15])).round(2).tolist()
    [1.0, 1.47, 2.63, 8.29, inf]
    """
    angle = 2.0 * np.arcsin(np.sqrt(np.clip(share, 1e-12, 1.0)))
    falls = angle < np.pi / 4
    half = np.where(falls, angle, 0.1)
    return np.where(falls, (np.arcsinh(np.tan(2.0 * half)) / (2.0 * np.sin(half))) ** 2, np.inf)


def is_long(plateau: Plateau) -> bool:
    """Whether it is too flat for too long to be one by chance."""
    return plateau.change <= FLAT and plateau.last - plateau.first >= PLAIN_RUNGS


def has_exact_answers(quality: OutputQuality) -> bool:
    """Whether nothing is known of the answers but that they are numbers as the model has them."""
    return quality.quantum == 0 and not quality.random and quality.top_k is None


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
