"""The most sensitive inputs of many: screen all with few queries, measure those that may be among the top, say how sure.

A screened input's log norm is known to a standard deviation of a third or so. Drawing all log norms from what is known of
each says how likely an input is among the top k, and, after the likely ones were measured with fresh directions, how
likely the k that are named are all of them. The draws take into account how the norms of all inputs are distributed
(otherwise the largest of many noisy values would be believed).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fimaudit.errors import UsageError
from fimaudit.measurement.settings import Settings
from fimaudit.statistics.columns import Columns

__all__ = ["TopKResult", "likely_top", "read_focus", "screening", "top_k_result"]

Array = NDArray[np.float64]

#: Queries of a screened input, and what its seed differs by: measuring again with the same directions would repeat the luck.
SCREENING_QUERIES, FRESH = 32, 2**63
#: Inputs less likely than this to be among the top are not measured again.
UNLIKELY = 0.01
DRAWS = 2000
#: Inputs that reach the k-th largest with less than this chance are not drawn.
HOPELESS = 1e-4
#: Cells of the grid of log norms, inputs from which the distribution of all is found, and rounds of finding it.
CELLS, MOST_FITTED, ROUNDS = 200, 4000, 20
TINY = 1e-300


@dataclass(frozen=True)
class TopKResult:
    """Which inputs are named the top, and how sure that is.

    Attributes:
        top: how many were asked for.
        named: their indices, the most sensitive first.
        confidence: probability that these are exactly the top ones.
        expected_right: how many of them are expected to be among the top ones.
        chosen: inputs likely enough to be among the top to be measured in full.
        measured: those of them that were.
        screened: inputs screened only.
    """

    top: int
    named: list[int]
    confidence: float
    expected_right: float
    chosen: int
    measured: int
    screened: int

    def facts(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)

    def sentence(self) -> str:
        """For people."""
        return (
            f"the {len(self.named)} most sensitive inputs by spectral norm: {', '.join(map(str, self.named))}; "
            f"{self.expected_right:.1f} of them are expected to be among the top {self.top}, all of them with probability "
            f"{self.confidence:.2f}; {self.measured:,} inputs were measured, {self.screened:,} screened only"
        )


def read_focus(text: str | None) -> int | None:
    """k of ``top:k``.

    Raises:
        UsageError: anything else.
    """
    if text is None:
        return None
    kind, _, number = text.partition(":")
    if kind != "top" or not number.isdigit() or int(number) < 1:
        raise UsageError(f"expected --focus top:K with K a whole number of 1 or more, got {text!r}")
    return int(number)


def screening(settings: Settings) -> Settings:
    """Few queries, no extras, other directions than those of the measurement after it."""
    return replace(
        settings,
        queries=min(SCREENING_QUERIES, settings.queries),
        seed=settings.seed + FRESH,
        profile="off",
        witness=False,
        precision=None,
        threshold=None,
        screening=True,
    )


def likely_top(columns: Columns, count: int, confidence: float, seed: int) -> NDArray[np.int64]:
    """Indices of the inputs that are likely enough among the ``count`` most sensitive, the likeliest first."""
    chances, _ = _draw(columns, np.empty(0, dtype=np.int64), count, confidence, seed)
    order = np.argsort(-chances, kind="stable")
    likely = order[: max(count, int((chances >= UNLIKELY).sum()))]
    return np.asarray(columns.index[likely[columns.status[likely] != "failed"]])


def top_k_result(
    columns: Columns, chosen: NDArray[np.int64], measured: NDArray[np.int64], count: int, confidence: float, seed: int
) -> TopKResult:
    """The largest of what was measured in full, against everything else.

    Args:
        columns: all inputs, screened or measured.
        chosen: indices of those to be measured in full, and measured: of those that were.
        count: k.
        confidence: of the inputs' intervals.
        seed: of the draws.
    """
    full = np.isin(columns.index, measured)
    norm = np.where(full, columns.limits["spectral_norm"].value, np.nan)
    named = np.argsort(-np.nan_to_num(norm, nan=-1.0), kind="stable")[: min(count, int(np.isfinite(norm).sum()))]
    chances, together = _draw(columns, measured, count, confidence, seed, named)
    return TopKResult(
        top=count,
        named=columns.index[named].tolist(),
        confidence=together,
        expected_right=float(chances[named].sum()),
        chosen=len(chosen),
        measured=int(full.sum()),
        screened=int((~full).sum()),
    )


def _draw(
    columns: Columns,
    chosen: NDArray[np.int64],
    count: int,
    confidence: float,
    seed: int,
    named: NDArray[np.int64] | None = None,
) -> tuple[Array, float]:
    """Each input's chance to be among the top, and the chance that the named ones are exactly those."""
    chances = np.zeros(len(columns))
    count = min(count, len(columns))
    known = _known(columns, chosen, confidence)
    if count == 0 or not len(known.place):
        return chances, 0.0
    cells, grid = _posterior(known)
    cumulated = np.cumsum(cells, axis=1)
    low = grid[(cumulated < HOPELESS).sum(axis=1)]
    high = grid[np.minimum((cumulated < 1 - HOPELESS).sum(axis=1), len(grid) - 1)]
    count = min(count, len(low))
    kept = np.flatnonzero(high >= np.sort(low)[-count])
    place = known.place[kept]
    order = np.arange(len(kept))
    steps = cumulated[kept] / cumulated[kept, -1:] + order[:, None]
    rng = np.random.default_rng(seed % 2**63)
    wanted = None if named is None or len(named) != count else np.isin(place, named)
    exact = 0
    for _ in range(DRAWS):
        cell = np.searchsorted(steps.ravel(), rng.random(len(kept)) + order) - len(grid) * order
        drawn = cell + rng.random(len(kept))  # anywhere within the cell
        top = np.argpartition(-drawn, count - 1)[:count]
        chances[place[top]] += 1.0
        exact += wanted is not None and bool(wanted[top].all())
    return chances / DRAWS, exact / DRAWS


@dataclass(frozen=True)
class _Known:
    """What is known of log norms: place in the columns, log (or its bound), deviation, whether seen, whether chosen."""

    place: NDArray[np.int64]
    log: Array
    deviation: Array
    seen: NDArray[np.bool_]
    chosen: NDArray[np.bool_]


def _known(columns: Columns, chosen: NDArray[np.int64], confidence: float) -> _Known:
    limits, z = columns.limits["spectral_norm"], float(special.ndtri(0.5 + confidence / 2))
    seen = np.isfinite(limits.value) & (limits.value > 0)
    usable = (columns.status != "failed") & (seen | (np.isfinite(limits.upper) & (limits.upper > 0)))
    place = np.flatnonzero(usable)
    value, lower, upper = limits.value[place], limits.lower[place], limits.upper[place]
    seen, picked = seen[place], np.isin(columns.index[place], chosen)
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.log(upper / np.where(lower > 0, lower, value**2 / upper)) / (2 * z)
        log = np.log(np.where(seen, value, upper))
    return _Known(place, log, np.where(np.isfinite(deviation) & (deviation > 0), deviation, 1.0), seen, picked)


def _posterior(known: _Known) -> tuple[Array, Array]:
    """Each log norm's distribution over a grid: its likelihood times the distribution of its kind, found by EM.

    Inputs that were chosen to be measured are a kind of their own: they were chosen because they looked sensitive.
    """
    reach = 3 * known.deviation
    grid = np.linspace(float((known.log - reach).min()), float((known.log + reach).max()), CELLS)
    cells = np.empty((len(known.log), CELLS))
    for kind in (known.chosen, ~known.chosen):
        if kind.any():
            likelihood = _likelihood(known.log[kind], known.deviation[kind], known.seen[kind], grid)
            cells[kind] = likelihood * _distribution(likelihood, grid)
    return cells / np.maximum(cells.sum(axis=1, keepdims=True), TINY), grid


def _distribution(likelihood: Array, grid: Array) -> Array:
    """How the inputs of one kind are distributed over the grid."""
    fitted = likelihood[np.linspace(0, len(likelihood) - 1, min(len(likelihood), MOST_FITTED)).astype(int)]
    weights = np.full(CELLS, 1.0 / CELLS)
    for _ in range(ROUNDS):
        mixed = fitted * weights
        weights = (mixed / np.maximum(mixed.sum(axis=1, keepdims=True), TINY)).mean(axis=0)
    return _smoothed(weights, grid, len(fitted))


def _smoothed(weights: Array, grid: Array, inputs: int) -> Array:
    """Without the peaks that EM leaves: a normal kernel as wide as for a density from so many values (Silverman)."""
    mean = float(weights @ grid)
    deviation = float(np.sqrt(weights @ (grid - mean) ** 2))
    width = max(0.9 * deviation * inputs**-0.2, float(grid[1] - grid[0]))
    kernel = np.exp(-0.5 * ((grid[:, None] - grid) / width) ** 2)
    return np.asarray(kernel @ weights)


def _likelihood(log: Array, deviation: Array, seen: NDArray[np.bool_], grid: Array) -> Array:
    away = (log[:, None] - grid) / deviation[:, None]
    return np.where(seen[:, None], np.exp(-0.5 * away**2), special.ndtr(away))
