"""Which directions are measured exactly in each input of a run, and whether that pays.

They come from surrogates, or are learned from the first inputs: those are measured as usual, and the Jacobians that their
secants estimate, y^T V / m, have common leading directions. Either way they are tried on a few inputs first: what an exact
direction costs, two rows, must be less than what it catches. From there on they are fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.errors import FimauditError
from fimaudit.estimation.noise import BaseAnswers, OutputQuality, VisibleClasses
from fimaudit.estimation.secants import contrasts
from fimaudit.estimation.spectral_norm import energy_quantile, top_pair, upper_factor
from fimaudit.measurement.deflation import deflated_rows
from fimaudit.measurement.energy import TRIAL
from fimaudit.measurement.full_jacobian import fits
from fimaudit.measurement.ladder_questions import CHECK_PAIRS
from fimaudit.measurement.pilot import Steps
from fimaudit.measurement.protocol import Flow
from fimaudit.measurement.query_split import ON_TOP, after_extras, after_finding
from fimaudit.measurement.settings import Settings
from fimaudit.measurement.surrogates import Surrogates, leading
from fimaudit.perturbations.orthonormal_rows import orthonormal_fits
from fimaudit.perturbations.rows import JoinedRows, PlainRows, Rows
from fimaudit.perturbations.sign_rows import BLOCK_ELEMENTS
from fimaudit.space import Space
from fimaudit.statistics.spread import evenly_spread

__all__ = [
    "DeflationPlan",
    "JacobianLearner",
    "Trial",
    "expected_width",
    "hindrance",
    "most_directions",
    "prefix",
    "try_directions",
]

Array = NDArray[np.float64]

#: Exact directions at most, and the largest share of the queries that they may take.
MOST_DIRECTIONS, MOST_SHARE = 12, 0.5
#: Inputs on which directions are tried, and random rows beside them.
TRIAL_INPUTS, TRIAL_ROWS = 5, 8
#: Deflation must promise intervals at least so much narrower: five inputs do not tell less.
WORTH = 0.9
#: Inputs from which directions are learned, at most this share of all; fewer teach nothing. (benchmarks/structure.py, digits
#: 28x28 at 200 queries: 16 inputs leave an error of 3.9 %, 32 of 3.2 %, 48 of 2.3 %, none of 5.8 %.)
PREFIX, PREFIX_SHARE, PREFIX_LEAST = 64, 0.25, 8
#: Class directions of each estimated Jacobian that are kept: two teach as much as nine.
TAUGHT = 2


@dataclass(frozen=True)
class DeflationPlan:
    """What a run measures exactly; pickles, so that workers have the same.

    Attributes:
        directions: exact directions of each input; 0 for none.
        surrogates: where they come from at each input.
        learned: (q, d) the same for all inputs; ``None`` with surrogates.
        first: inputs before this one were learned from, and are measured without.
        rho: displacement at which the audited model answers linearly.
        tried: rows of the trial, shared out over the ``inputs`` of the audit that come after.
        inputs: of the audit.
    """

    directions: int
    surrogates: Surrogates | None = None
    learned: Array | None = None
    first: int = 0
    rho: float = 0.0
    tried: int = 0
    inputs: int = 1

    def subspace(self, x: NDArray[Any], index: int, space: Space) -> Array | None:
        """Orthonormal rows (q, d) over the features that may change; ``None`` where the input is measured without."""
        if self.directions == 0 or index < self.first:
            return None
        if self.surrogates is not None:
            found = self.surrogates.directions(x, space, self.rho, self.directions)
        else:
            assert self.learned is not None
            found = self.learned[: self.directions]
        return found if len(found) else None

    def steps(self, steps: Steps, index: int) -> Steps:
        """The pilot's choice with this input's share in the rows of the trial."""
        if index < self.first:
            return steps
        place, among = index - self.first, max(1, self.inputs - self.first)
        own = (place + 1) * self.tried // among - place * self.tried // among
        return replace(steps, share=steps.share + own)

    def portable(self) -> DeflationPlan:
        """The same for processes on other machines."""
        return self if self.surrogates is None else replace(self, surrogates=self.surrogates.portable())


def hindrance(space: Space, steps: Steps, settings: Settings) -> str | None:
    """Why no directions are measured exactly in this run, before anything is tried; ``None`` where they may be."""
    if fits(space.features, settings.queries - 1):
        return f"the whole Jacobian of {space.features} features fits {settings.queries} queries and is measured anyway"
    if space.quantised:
        return "the inputs have levels, on which only such displacements fit as are drawn for them"
    if steps.quality.top_k is not None:
        return "the answers show some labels only"
    if steps.kind == "finite_scale":
        return "the numbers are those at a finite displacement, so there is no Jacobian to catch"
    if settings.adaptive:
        return "inputs stop early, for which the intervals of random directions alone are made"
    return None


def most_directions(settings: Settings, features: int) -> int:
    """Exact directions at most."""
    return int(np.clip(MOST_SHARE * (settings.queries - 1) / 2, 1, min(MOST_DIRECTIONS, features - 2)))


def expected_width(rows: int, features: int, confidence: float) -> float:
    """Width of the interval of a norm of 1 that comes from so many random rows alone; infinite from a few."""
    if rows < 2:
        return float("inf")
    orthonormal = orthonormal_fits(min(rows, features - 1), features)
    terms, within = (min(rows, features - 1) - 1, features) if orthonormal else (rows - 1, None)
    tail = (1.0 - confidence) / 2
    return upper_factor(tail, terms, within) - terms / energy_quantile(1.0 - tail, terms, within)


def usual_rows(settings: Settings, steps: Steps, q: int) -> int:
    """Random rows that an input has beside q exact directions, as a rule."""
    queries = after_finding(settings.queries, steps.share + 4 * CHECK_PAIRS, steps.quality.repeats)
    return after_extras(queries, settings, q > 0) - 1 - 2 * q


@dataclass(frozen=True)
class Trial:
    """What a few inputs showed.

    Attributes:
        directions: how many pay; 0 for none.
        exact_share: the share of the secants' energy that they hold, or all would if none pays; ``None`` where nothing could
            be tried.
        gain: expected width of an interval with them over that without.
        rows: asked.
    """

    directions: int
    exact_share: float | None = None
    gain: float = 1.0
    rows: int = 0

    def note(self, most: int) -> str | None:
        """Why there is no deflation."""
        if self.directions:
            return None
        if self.exact_share is None:
            return "no pilot input could be tried"
        return (
            f"the best {most} directions catch {100 * self.exact_share:.0f} % of the secants' energy at the pilot inputs, "
            "which is worth less than the rows that they take"
        )


def try_directions(
    x: Mapping[int, NDArray[Any]],
    subspaces: Callable[[int, NDArray[Any]], Array],
    space: Space,
    steps: Steps,
    settings: Settings,
    inputs: int,
) -> Flow[Trial]:
    """Measure the energy along each direction and in the complement at a few inputs, and choose how many directions pay.

    The interval of a norm narrows with the share f of its energy that is measured exactly: its width is (1 - f) times that
    from the random rows that are left alone. q directions pay where their f exceeds about q / m.

    Args:
        x: candidates by index.
        subspaces: (index, input) to its directions, orthonormal, the leading one first.
        space, steps, settings: of the audit.
        inputs: number of the audit's inputs.
    """
    d = space.features
    quality = steps.quality
    most = most_directions(settings, d)
    each = quality.repeats + 2 * most + TRIAL_ROWS
    count = int(np.clip(ON_TOP * inputs * settings.queries / each, 1, min(TRIAL_INPUTS, len(x))))
    indices = np.array(sorted(x))
    lost, asked = [], 0
    for index in indices[evenly_spread(len(x), count)].tolist():
        subspace = subspaces(index, x[index])[:most]
        rows = None
        if len(subspace):
            rows = deflated_rows(x[index], index, space, steps.displacement, TRIAL_ROWS, settings.seed, subspace, TRIAL)
        if rows is None:
            continue
        placed, step = rows.exact
        itself = np.repeat(x[index].astype(space.dtype)[None], quality.repeats, axis=0)
        try:
            answers = yield JoinedRows([PlainRows(itself), PlainRows(placed), rows])
        except FimauditError:  # its own measurement will say so
            continue
        asked += len(answers)
        found = _energies(answers, quality, len(subspace), step, rows.size)
        if found is not None:
            lost.append(_lost(*found, most))
    if not lost:
        return Trial(0, rows=asked)
    lost_share = np.mean(lost, axis=0)  # (most + 1,) share of the energy that is left to random rows
    widths = [
        lost_share[q] * expected_width(usual_rows(settings, steps, q), d - q, settings.confidence) for q in range(most + 1)
    ]
    best = int(np.argmin(widths))
    if not widths[best] < WORTH * widths[0]:
        return Trial(0, float(1 - lost_share[most]), 1.0, asked)
    gain = widths[best] / widths[0] if np.isfinite(widths[0]) else 0.0
    return Trial(best, float(1 - lost_share[best]), float(gain), asked)


def _energies(answers: Array, quality: OutputQuality, q: int, step: float, size: float) -> tuple[Array, float] | None:
    """Energy along each exact direction, and of random ones in the complement."""
    repeats = quality.repeats
    view = BaseAnswers(quality, answers[:repeats]).view
    if view.unmeasurable:
        return None
    roots = 2.0 * np.sqrt(view.table(answers[repeats:]))
    along = (roots[:q] - roots[q : 2 * q]) / (2.0 * step)
    left = contrasts(roots[2 * q :] / size)
    energies, rest = (along**2).sum(axis=1), float((left**2).sum()) / len(left)
    if view.noise is not None:
        energies = energies - view.noise.total / (2.0 * step**2)
        rest -= view.noise.total / size**2
    return np.maximum(energies, 0.0), max(rest, 0.0)


def _lost(energies: Array, rest: float, most: int) -> Array:
    """Share of the energy that 0, 1, ... most exact directions leave; fewer than ``most`` may exist."""
    total = float(energies.sum()) + rest
    if total <= 0:
        return np.ones(most + 1)
    padded = np.concatenate([[0.0], np.cumsum(energies), np.full(most - len(energies), energies.sum())])
    return np.asarray(1.0 - padded / total)


def prefix(inputs: int) -> int:
    """How many inputs are learned from, whatever the engine and the budget; 0 where they would be too few.

    >>> prefix(20), prefix(100), prefix(10_000)
    (0, 25, 64)
    """
    wanted = min(PREFIX, int(PREFIX_SHARE * inputs))
    return wanted if wanted >= PREFIX_LEAST else 0


@dataclass
class JacobianLearner:
    """Estimated Jacobians of the inputs that directions are learned from.

    Attributes:
        rows: (r, d) of each input, scaled to unit energy, so that each input counts alike.
    """

    rows: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    def take(self, index: int, rows: Rows, space: Space, view: VisibleClasses, answers: Array, length: float) -> None:
        """The leading class directions u of one input's secants y over directions v: u^T y^T V / m.

        Args:
            index: of the input.
            rows: its random rows as asked.
            space: the domain.
            view: the measurable classes.
            answers: (m, K) to the rows.
            length: step of one feature.
        """
        if view.unmeasurable or length <= 0 or len(answers) < 3:
            return
        roots = np.sqrt(view.table(answers)) * (2.0 / length)
        roots = roots - roots.mean(axis=0)
        energy = float((roots**2).sum()) / len(roots)
        if not energy > 0:
            return
        classes = min(TAUGHT, roots.shape[1] - 1, len(roots) - 1)
        along = roots @ _leading_classes(roots, classes)
        free = np.flatnonzero(~space.frozen.ravel())
        scale = length * space.scale.ravel()[free]
        total = np.zeros((along.shape[1], len(free)))
        height = max(1, BLOCK_ELEMENTS // max(1, len(free)))
        for start in range(0, len(answers), height):
            stop = min(start + height, len(answers))
            built = rows.build(start, stop).reshape(stop - start, -1)[:, free].astype(np.float64)
            total += along[start:stop].T @ (built / scale)  # the mean of the rows drops out: along sums to zero
        self.rows[index] = (total / (len(answers) * np.sqrt(energy))).astype(np.float32)

    def directions(self, most: int) -> Array:
        """The leading directions that the inputs have in common, (q, d)."""
        if not self.rows:
            return np.zeros((0, 1))
        return leading(np.concatenate([self.rows[index] for index in sorted(self.rows)]).astype(np.float64), most)


def _leading_classes(roots: Array, count: int) -> Array:
    """(K, count) leading right singular vectors."""
    if count == 1:
        return np.asarray(top_pair(roots)[1][:, None])
    return np.asarray(np.linalg.svd(roots, full_matrices=False)[2][:count].T)
