"""Many classes: Lanczos for the norm, and its products, with a few more, for the peak, the trace and the margin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.estimation.margin import first_order_radii
from fimaudit.models.classifier import Differentiable
from fimaudit.models.linearization import Linearization
from fimaudit.perturbations.random_signs import generator
from fimaudit.whitebox.batch_products import BatchProducts
from fimaudit.whitebox.krylov_basis import InputBasis
from fimaudit.whitebox.lanczos import lanczos_top, random_start
from fimaudit.whitebox.peak_search import norms_and_peaks
from fimaudit.whitebox.random_directions import log_odds_radii, outside_images, trace_and_error
from fimaudit.whitebox.result import WhiteBox, contrasts_and_cotangents, margin_of

__all__ = ["measure_krylov"]

Array = NDArray[np.float64]

#: Ends of two searches, each step of which takes passes of the network; they stop by their residual or bound long before.
MOST_STEPS, MOST_RIVALS = 300, 64
#: Steps of the iteration where its products serve the trace and the margins, too: the fifth and sixth, two passes each, take
#: as much off what is left to random directions as six of these, which take one each.
BASIS_STEPS = 6
#: The eigenvalue's error is of second order in the residual, so the peak can stop earlier than the norm.
PEAK_SLACK, MOST_PEAK_RESIDUAL = 30.0, 1e-2
#: Stream of the generator that no black-box measurement uses.
START_STREAM = 101


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
    batch = BatchProducts(model, x, at)
    log_p = at.log_probabilities
    roots = np.exp(log_p / 2)
    start = np.concatenate([random_start(roots[i : i + 1], generator(*key, START_STREAM)) for i, key in enumerate(keys)])
    partial: list[dict[str, Any]] = [dict(_NOTHING) for _ in keys]
    if norm_only:
        found = lanczos_top(batch.product, roots, start, tolerance=tolerance, most=MOST_STEPS)
    else:
        peak_tolerance = min(PEAK_SLACK * tolerance, MOST_PEAK_RESIDUAL)
        found, peaks = norms_and_peaks(
            batch.product,
            roots,
            start,
            log_p,
            tolerance=tolerance,
            least=BASIS_STEPS,
            most=MOST_STEPS,
            peak_tolerance=peak_tolerance,
        )
        bases = [peak.basis for peak in peaks]
        outside = outside_images(batch, bases, log_p, keys)
        for i, peak in enumerate(peaks):
            trace, error = trace_and_error(peak.basis, outside[i], roots[i])
            partial[i].update(trace=trace, trace_error=error, peak_spectral_norm=peak.value)
            partial[i].update(peak_temperature=peak.temperature, peak_residual=peak.residual)
        _add_margins(partial, batch, bases, outside, log_p)
    contrasts, cotangents = contrasts_and_cotangents(roots, found.vector)
    directions = at.direction(cotangents) if worst_direction else None
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


def _add_margins(
    partial: list[dict[str, Any]], batch: BatchProducts, bases: list[InputBasis], outside: list[Array], log_p: Array
) -> None:
    """Norms of the log-odds gradients by backward passes, nearest candidates first, until no class can be nearer."""
    count, classes = log_p.shape
    tops = log_p.argmax(axis=1)
    gaps = log_p[np.arange(count), tops][:, None] - log_p
    norms, lower, estimate = np.zeros((count, classes)), np.empty((count, classes)), np.empty((count, classes))
    for i, basis in enumerate(bases):
        estimate[i], lower[i] = log_odds_radii(basis, outside[i], log_p[i])
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
