"""Many classes: Lanczos for the norm, and its products, with a few more, for the peak, the trace and the margin."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.margin import first_order_radii
from fimaudit.estimation.peak_norm import peak_norms
from fimaudit.estimation.spectral_norm import top_pair
from fimaudit.estimation.tempering import temper, tempered_cotangent
from fimaudit.models.classifier import Differentiable
from fimaudit.models.linearization import Linearization, linearize
from fimaudit.perturbations.random_signs import generator, packed_signs
from fimaudit.whitebox.krylov_basis import InputBasis, input_basis, margin_candidates
from fimaudit.whitebox.lanczos import Krylov, lanczos_top, random_start, relative_residual
from fimaudit.whitebox.result import WhiteBox, contrasts_and_cotangents, margin_of

__all__ = ["measure_krylov"]

Array = NDArray[np.float64]
T = TypeVar("T", np.float64, np.uint8)

#: Ends of three searches, each step of which takes passes of the network; they stop by their residual or bound long before.
MOST_STEPS, MOST_PEAK_STEPS, MOST_RIVALS = 300, 40, 64
#: Random input directions, which serve the trace and the search for the nearest class: the first of them, more where the
#: trace's standard error is more than this share of it after those, and all where more classes may be the nearest than
#: there are directions.
DIRECTIONS, TRACE_ERROR = (8, 14, 20), 0.02
#: The eigenvalue's error is of second order in the residual, so the peak can stop earlier than the norm.
PEAK_SLACK, MOST_PEAK_RESIDUAL = 30.0, 1e-2
#: Streams of the generator that no black-box measurement uses.
START_STREAM, DIRECTION_STREAM = 101, 102


def measure_krylov(
    model: Differentiable,
    x: NDArray[Any],
    at: Linearization,
    *,
    tolerance: float,
    worst_direction: bool,
    norm_only: bool,
    keys: Sequence[tuple[int, int]],
) -> list[WhiteBox]:
    """Measure every input of a batch by Lanczos; see ``fimaudit.whitebox.measure.measure``."""
    batch = _Batch(model, x, at)
    log_p = at.log_probabilities
    roots = np.exp(log_p / 2)
    start = np.concatenate([random_start(roots[i : i + 1], generator(*key, START_STREAM)) for i, key in enumerate(keys)])
    found = lanczos_top(batch.product, roots, start, tolerance=tolerance, most=MOST_STEPS)
    contrasts, cotangents = contrasts_and_cotangents(roots, found.vector)
    directions = at.direction(cotangents) if worst_direction else None
    partial: list[dict[str, Any]]
    if norm_only:
        partial = [dict(_NOTHING) for _ in keys]
    else:
        bases, partial = _peaks(batch, found, log_p, min(PEAK_SLACK * tolerance, MOST_PEAK_RESIDUAL))
        outside = _outside(batch, bases, log_p, keys)
        _add_traces(partial, bases, outside, roots)
        _add_margins(partial, batch, bases, outside, log_p)
    return [
        WhiteBox(
            probabilities=np.exp(log_p[i]),
            spectral_norm=float(found.value[i]),
            residual=float(found.residual[i]),
            effective_rank=_ratio(partial[i]["trace"], found.value[i]),
            contrast=contrasts[i] if found.value[i] > 0 else None,
            direction=None if directions is None else directions[i],
            passes=int(batch.passes[i]),
            hidden_classes=int(np.isneginf(log_p[i]).sum()),
            method="lanczos",
            **partial[i],
        )
        for i in range(len(keys))
    ]


_NOTHING: dict[str, Any] = {
    "peak_spectral_norm": None,
    "peak_temperature": None,
    "peak_residual": None,
    "trace": None,
    "trace_error": None,
    "margin_radius": None,
    "rival": None,
    "margin_slack": 0.0,
}


class _Batch:
    """Products for some inputs of a batch; linearised anew without those that are done once half of them are.

    Such a part is kept beside the whole, until there is a smaller one or another.
    """

    def __init__(self, model: Differentiable, x: NDArray[Any], at: Linearization) -> None:
        self._model, self._x = model, x
        self._whole = self._part = (np.arange(len(x)), at)
        self._at, self._members, self._before = at, np.arange(len(x)), at.passes
        self.passes = np.full(len(x), at.passes)

    def product(self, cotangents: Array, active: NDArray[np.intp]) -> tuple[Array, Array]:
        """C w and |J_L^T w|^2."""
        place, full = self._placed(active, cotangents)
        images, squared = self._at.product(full)
        self._count()
        return images[place], squared[place]

    def squared_norms(self, cotangents: Array, active: NDArray[np.intp]) -> Array:
        """|J_L^T w|^2."""
        place, full = self._placed(active, cotangents)
        squared = self._at.squared_norms(full)
        self._count()
        return squared[place]

    @property
    def features(self) -> int:
        """Numbers of one input."""
        return int(self._x[0].size)

    def push_signs(self, packed: NDArray[np.uint8], active: NDArray[np.intp]) -> Array:
        """J_L z."""
        place, full = self._placed(active, packed)
        images = self._at.push_signs(full)
        self._count()
        return images[place]

    def _placed(self, active: NDArray[np.intp], rows: NDArray[T]) -> tuple[NDArray[np.intp], NDArray[T]]:
        members, at = self._part if np.isin(active, self._part[0]).all() else self._whole
        before = at.passes
        if 2 * len(active) <= len(members):
            self._part, self._at, at = self._whole, self._whole[1], self._whole[1]  # frees what the part recorded
            members, at = self._part = active, linearize(self._model, self._x[active])
            before = 0
        self._members, self._at, self._before = members, at, before
        place = np.searchsorted(members, active)
        full = np.zeros((len(members), rows.shape[1]), dtype=rows.dtype)
        full[place] = rows
        return place, full

    def _count(self) -> None:
        self.passes[self._members] += self._at.passes - self._before


def _outside(batch: _Batch, bases: list[InputBasis], log_p: Array, keys: Sequence[tuple[int, int]]) -> list[Array]:
    """(m, K) images J_L z for each input, of random sign vectors without their part in its basis.

    How many an input takes is its own affair, whatever the batch.
    """
    most = DIRECTIONS[-1]
    packed = np.stack([packed_signs(generator(*key, DIRECTION_STREAM), most, batch.features) for key in keys])
    found: list[Array] = [np.zeros((0, log_p.shape[1]))] * len(keys)
    active = np.arange(len(keys))
    for first, last in pairwise((0, *DIRECTIONS)):
        images = np.stack([batch.push_signs(packed[active, r], active) for r in range(first, last)], axis=1)
        for i, of in zip(active.tolist(), images, strict=True):
            found[i] = np.vstack([found[i], bases[i].outside(of)])
        active = active[[_more_pay(bases[i], found[i], log_p[i]) for i in active]]
        if len(active) == 0:
            break
    return found


def _trace(basis: InputBasis, outside: Array, roots: Array) -> tuple[float, float]:
    """The trace and its standard error: exact on the subspace of the products, by Hutchinson's estimator outside it."""
    inside = float(((roots * basis.images) ** 2).sum())
    terms = ((roots * outside) ** 2).sum(axis=1)
    return inside + float(terms.mean()), float(terms.std(ddof=1) / np.sqrt(len(terms)))


def _more_pay(basis: InputBasis, outside: Array, log_p: Array) -> bool:
    """Whether more pay: after the first for the trace, and while more classes may be the nearest than there are of them."""
    trace, error = _trace(basis, outside, np.exp(log_p / 2))
    estimate, lower = _radii(basis, outside, log_p)
    rough = len(outside) == DIRECTIONS[0] and error > TRACE_ERROR * trace
    return bool(rough or np.count_nonzero(lower < estimate.min()) > len(outside))


def _radii(basis: InputBasis, outside: Array, log_p: Array) -> tuple[Array, Array]:
    """(K,) first-order radii toward every class, estimated, and their lower limits; infinite for the top class."""
    top = log_p.argmax()
    estimate, lower = (first_order_radii(log_p[top] - log_p, norms) for norms in margin_candidates(basis, outside, log_p))
    estimate[top] = lower[top] = np.inf
    return estimate, lower


def _peaks(batch: _Batch, found: Krylov, log_p: Array, tolerance: float) -> tuple[list[InputBasis], list[dict[str, Any]]]:
    """The peak norm of every input: Rayleigh-Ritz over temperature on the products at hand, which grow by F_T v at its
    best temperature until v is an eigenvector there."""
    count = len(log_p)
    bases = [input_basis(*one) for one in zip(found.cotangents, found.images, found.squared, strict=True)]
    partial = [dict(_NOTHING, peak_spectral_norm=0.0, peak_temperature=1.0, peak_residual=0.0) for _ in range(count)]
    active = np.flatnonzero(found.value > 0)
    best: Array | None = None
    for _ in range(MOST_PEAK_STEPS):
        if len(active) == 0:
            break
        steps = []
        best = peak_norms([bases[i].images for i in active], log_p[active], best)[1]
        for i, temperature in zip(active.tolist(), best.tolist(), strict=True):
            z = top_pair(temper(bases[i].images, log_p[i], temperature))[1]
            steps.append((i, temperature, z, *bases[i].split(tempered_cotangent(z, log_p[i], temperature))))
        answers, squared = batch.product(np.array([outside for *_, outside, _ in steps]), active)
        going = []
        for (i, temperature, z, outside, inside), answer, length in zip(steps, answers, squared, strict=True):
            applied = temper((answer + inside @ bases[i].images)[None], log_p[i], temperature)
            value, larger = float((applied @ z)[0]), bases[i].extended(outside, answer, float(length))
            residual = float(relative_residual(applied, z[None], applied @ z)[0])
            # The Rayleigh quotient, not the Ritz value: rounding in the basis cannot raise it.
            partial[i].update(peak_spectral_norm=value, peak_temperature=temperature, peak_residual=residual)
            if residual > tolerance and larger is not bases[i]:
                going.append(i)
            bases[i] = larger
        best = best[np.isin(active, going)]
        active = np.array(going, dtype=np.intp)
    return bases, partial


def _add_traces(partial: list[dict[str, Any]], bases: list[InputBasis], outside: list[Array], roots: Array) -> None:
    for i, basis in enumerate(bases):
        trace, error = _trace(basis, outside[i], roots[i])
        partial[i].update(trace=trace, trace_error=error)


def _add_margins(
    partial: list[dict[str, Any]], batch: _Batch, bases: list[InputBasis], outside: list[Array], log_p: Array
) -> None:
    """Norms of the log-odds gradients by backward passes, nearest candidates first, until no class can be nearer."""
    count, classes = log_p.shape
    tops = log_p.argmax(axis=1)
    gaps = log_p[np.arange(count), tops][:, None] - log_p
    norms, lower, estimate = np.zeros((count, classes)), np.empty((count, classes)), np.empty((count, classes))
    for i, basis in enumerate(bases):
        estimate[i], lower[i] = _radii(basis, outside[i], log_p[i])
    active = np.flatnonzero(np.isfinite(lower).any(axis=1))
    best = np.full(count, np.inf)
    for _ in range(MOST_RIVALS):
        open_ = np.where(lower[active] < best[active, None], estimate[active], np.inf)
        chosen = open_.argmin(axis=1)
        left = np.isfinite(open_[np.arange(len(active)), chosen])
        active, chosen = active[left], chosen[left]
        if len(active) == 0:
            break
        cotangents = np.zeros((len(active), classes))
        cotangents[np.arange(len(active)), tops[active]] = 1.0
        cotangents[np.arange(len(active)), chosen] = -1.0
        norms[active, chosen] = np.sqrt(batch.squared_norms(cotangents, active))
        lower[active, chosen] = np.inf
        best[active] = np.minimum(best[active], first_order_radii(gaps[active, chosen], norms[active, chosen]))
    for i in range(count):
        radius, rival = margin_of(log_p[i], norms[i])
        nearest = float(lower[i].min())
        slack = max(0.0, 1.0 - nearest / radius) if radius else 0.0
        partial[i].update(margin_radius=radius, rival=rival, margin_slack=slack)


def _ratio(trace: float | None, value: float) -> float | None:
    return trace / float(value) if trace is not None and value > 0 else None
