"""One input's measurement, as a conversation: it yields the rows it wants asked and receives their answers.

Nothing here calls a model. The caller (``auditing``) passes every row through the meter, runs many of these side by side,
and decides which rows share a request.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fimaudit.directions import (
    DisplacedRows,
    JoinedRows,
    OrthonormalRows,
    PlainRows,
    Rows,
    generator,
    orthonormal_signs,
    packed_signs,
)
from fimaudit.domain import Space
from fimaudit.estimates import Estimate, estimate_sketch, undetected
from fimaudit.jacobian import fits, whole_jacobian
from fimaudit.results import Interval, Sensitivity
from fimaudit.secants import complete, contrasts, resolution
from fimaudit.spectrum import Limits
from fimaudit.steps import find_plateau, ladder

__all__ = ["Conversation", "Settings", "Steps", "choose_steps", "measure"]

Array = NDArray[np.float64]
Conversation = Generator[Rows, Array, "Sensitivity"]

#: Random streams of one input (``directions.generator``).
MAIN, PILOT = 0, 1
PILOT_INPUTS = 5
#: Rows that pilot and per-input checks may add to the queries.
ON_TOP = 0.10
CHECK_PAIRS = 2
#: A step must be this many times the spacing of the model's floating-point numbers, so that it is really sent.
SPACINGS = 4.0
CHECK_FACTOR = 3.0
CHECK_CHANGE = 0.10
OWN_RUNGS = 4
#: An input whose energy changes by more than this between all neighbouring rungs has no local value worth the name.
UNSTABLE = 0.5
#: Orthonormal directions pay once they cover this share of the space, and their table is kept below this many features.
ORTHONORMAL_SHARE = 0.1
ORTHONORMAL_FEATURES = 2048
#: A class is measurable when its probability is at least this many quanta of the answer.
QUANTA = 10.0


@dataclass(frozen=True)
class Settings:
    """What the user chose for each input's measurement."""

    queries: int = 200
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Steps:
    """The displacement that the pilot chose.

    Attributes:
        displacement: l2 length in units of the scale.
        profile: per rung its displacement, the mean energy over pilot inputs, and the typical change to the next rung.
        share: pilot rows for each input of the audit, rounded up.
    """

    displacement: float
    profile: list[dict[str, float]]
    share: int


def choose_steps(x: NDArray[np.floating], space: Space, settings: Settings) -> Generator[Rows, Array, Steps]:
    """The pilot: secant energy over a ladder of displacements at about five inputs, same directions on each rung.

    Args:
        x: (n, \\*shape) all inputs of the audit.
        space: their domain.
        settings: the audit's settings.
    """
    n, d = len(x), space.features
    free = ~space.frozen.ravel()
    flat, scale = x.reshape(n, -1)[:, free], space.scale.ravel()[free]
    spacing = np.spacing(np.abs(flat).max(axis=0).astype(space.dtype)).astype(np.float64)
    rungs = ladder(flat / scale, d, SPACINGS * float(np.mean(spacing / scale)))
    allowed = int(ON_TOP * n * settings.queries) - n * 2 * 2 * CHECK_PAIRS
    if allowed < 2 * len(rungs):
        rungs = rungs[::-2][::-1]
    count = int(np.clip(allowed // (2 * len(rungs)), 1, min(PILOT_INPUTS, n)))
    directions = int(np.clip(allowed // (count * len(rungs)), 2, 2 * CHECK_PAIRS))
    chosen = np.unique(np.linspace(0, n - 1, count).round().astype(int))
    energy = np.zeros((len(chosen), len(rungs)))
    for row, index in enumerate(chosen):
        packed = _probe(settings.seed, int(index), directions, x[0].size)
        energy[row] = yield from _energies(x[index], space, packed, rungs)
    plateau = find_plateau(energy, rungs)
    displacement = plateau.displacement if plateau is not None else _loudest(energy, rungs)
    rows = len(chosen) * len(rungs) * directions
    return Steps(displacement, _profile(energy, rungs), -(-rows // n))


def measure(x: NDArray[np.floating], index: int, space: Space, steps: Steps, settings: Settings) -> Conversation:
    """Measure one input.

    Args:
        x: the input, shape \\*shape, within the domain.
        index: its position in the data: directions depend on it and the seed alone.
        space: the domain.
        steps: the pilot's choice.
        settings: queries (rows, the base row included), confidence, seed.

    Returns:
        the finished ``Sensitivity``; limits cover the sampling of directions.
    """
    packed = _probe(settings.seed, index, 2 * CHECK_PAIRS, x.size)
    rho, flags = steps.displacement, []
    around = [rho / CHECK_FACTOR, rho * CHECK_FACTOR]
    blocks = [_displaced(x, space, packed, r) for r in around]
    answers = yield JoinedRows([PlainRows(x.astype(space.dtype)[None]), *blocks])
    base, spent = answers[0], len(answers) - 1
    energies = [_energy(a, space, rows) for a, rows in zip(np.split(answers[1:], 2), blocks, strict=True)]
    change = _change(*energies)
    if change > CHECK_CHANGE:
        rho, change = yield from _own_step(x, space, packed, rho, energies)
        spent += (2 * OWN_RUNGS - 1) * len(packed)
        flags.append("own_step" if change <= UNSTABLE else "unstable_step")
    on_top = max(0, int(ON_TOP * settings.queries) - steps.share)
    queries = max(2, settings.queries - max(0, spent - on_top))
    method, estimate, used, length = yield from _estimate(x, index, space, rho, queries, settings, base)
    quantum = resolution(base[None])
    visible = estimate is not None and (quantum == 0 or float(base.min()) >= QUANTA * quantum)
    if visible and estimate is not None:
        return _found(index, base, method, estimate.widened(change / 2), flags, rho, used)
    quanta = np.full(len(base), quantum) if quantum else np.spacing(base.astype(np.float32)).astype(np.float64)
    limits = undetected(base, quanta, length, max(1, used - 1), settings.confidence)
    return _undetected(index, base, method, limits, flags, rho, used)


def _estimate(
    x: NDArray[np.floating], index: int, space: Space, rho: float, queries: int, settings: Settings, base: Array
) -> Generator[Rows, Array, tuple[str, Estimate | None, int, float]]:
    """Choose the kind of directions, ask them, and estimate: (method, estimate, rows used, root mean square step)."""
    d, m = space.features, queries - 1
    if fits(d, m):
        return (yield from whole_jacobian(x, space, rho, m, base))
    rng = generator(settings.seed, index, MAIN)
    step = space.step(rho)
    rows: DisplacedRows | OrthonormalRows
    if ORTHONORMAL_SHARE * d <= m < d <= ORTHONORMAL_FEATURES:
        drawn = orthonormal_signs(rng, m, d)
        rows = OrthonormalRows(x, *drawn, step, space.lower, space.upper, space.dtype)
        method, features = "orthonormal", d
    else:
        rows = DisplacedRows(x, packed_signs(rng, m, x.size), step, space.lower, space.upper, space.dtype)
        method, features = "rademacher", None
    length = space.length(rows.sent())
    answers = yield rows
    return method, estimate_sketch(base, answers, length, settings.confidence, features), m + 1, length


def _probe(seed: int, index: int, count: int, features: int) -> NDArray[np.uint8]:
    """Directions of pilot and check: antipodal pairs where there are four or more, so that first-order changes cancel."""
    rng = generator(seed, index, PILOT)
    if count < 2 * CHECK_PAIRS:
        return packed_signs(rng, count, features)
    half = packed_signs(rng, count // 2, features)
    return np.concatenate([half, ~half])


def _displaced(x: NDArray[np.floating], space: Space, packed: NDArray[np.uint8], rho: float) -> DisplacedRows:
    return DisplacedRows(x, packed, space.step(rho), space.lower, space.upper, space.dtype)


def _energies(
    x: NDArray[np.floating], space: Space, packed: NDArray[np.uint8], rungs: Array
) -> Generator[Rows, Array, Array]:
    """Mean squared contrast on each rung, the same directions on all."""
    blocks = [_displaced(x, space, packed, float(r)) for r in rungs]
    answers = yield JoinedRows(blocks)
    pieces = np.split(answers, len(rungs))
    return np.array([_energy(p, space, block) for p, block in zip(pieces, blocks, strict=True)])


def _energy(answers: Array, space: Space, rows: DisplacedRows) -> float:
    length = space.length(rows.sent())
    if length == 0:
        return 0.0
    p = complete(answers, int(np.argmax(answers[0])))
    return float((contrasts(np.sqrt(p) * (2.0 / length)) ** 2).sum()) / (len(p) - 1)


def _change(short: float, long: float) -> float:
    """|log| of the ratio of the energies at a third and at three times the displacement."""
    if short == 0 or long == 0:
        return 0.0 if short == long else float("inf")
    return abs(float(np.log(short / long)))


def _own_step(
    x: NDArray[np.floating], space: Space, packed: NDArray[np.uint8], rho: float, known: list[float]
) -> Generator[Rows, Array, tuple[float, float]]:
    """The best rung of one input, on a ladder of thirds around the common displacement, and the change of energy there."""
    powers = np.arange(-OWN_RUNGS, OWN_RUNGS + 1)
    rungs = rho * CHECK_FACTOR ** powers.astype(float)
    missing = np.abs(powers) != 1
    energy = np.empty(len(rungs))
    energy[~missing] = known
    energy[missing] = yield from _energies(x, space, packed, rungs[missing])
    plateau = find_plateau(energy[None], rungs, CHECK_CHANGE)
    if plateau is None:
        return rho, float("inf")
    return plateau.displacement, plateau.change


def _loudest(energy: Array, rungs: Array) -> float:
    """Without any plateau: the shortest displacement that most pilot inputs answer at all, else the longest."""
    heard = (energy > 0).mean(axis=0) >= 0.5
    return float(rungs[int(np.argmax(heard))]) if heard.any() else float(rungs[-1])


def _profile(energy: Array, rungs: Array) -> list[dict[str, float]]:
    return [{"displacement": float(r), "energy": float(e)} for r, e in zip(rungs, energy.mean(axis=0), strict=True)]


def _interval(limits: Limits | None) -> Interval:
    if limits is None:
        return Interval()
    finite = [v if np.isfinite(v) else None for v in (limits.value, limits.lower, limits.upper)]
    return Interval(value=finite[0], lower=finite[1], upper=finite[2])


def _found(index: int, base: Array, method: str, estimate: Estimate, flags: list[str], rho: float, used: int) -> Sensitivity:
    top = int(np.argmax(base))
    value = estimate.spectral.value
    return Sensitivity(
        index=index,
        status="ok",
        method=method,
        predicted_class=top,
        probability=float(base[top]),
        displacement=rho,
        queries=used,
        spectral_norm=_interval(estimate.spectral),
        peak_spectral_norm=_interval(estimate.peak),
        trace=_interval(estimate.trace),
        margin_radius=_interval(estimate.margin.radius if estimate.margin is not None else None),
        effective_rank=estimate.trace.value / value if value > 0 else None,
        contrast=estimate.contrast,
        flags=flags,
    )


def _undetected(
    index: int, base: Array, method: str, limits: tuple[float, float], flags: list[str], rho: float, used: int
) -> Sensitivity:
    top = int(np.argmax(base))
    return Sensitivity(
        index=index,
        status="below_detection",
        method=method,
        predicted_class=top,
        probability=float(base[top]),
        displacement=rho,
        queries=used,
        spectral_norm=Interval(lower=0.0, upper=limits[0]),
        margin_radius=Interval(lower=limits[1]),
        flags=flags,
        reason=(
            f"the answers did not change measurably at a displacement of {rho:.3g}; "
            "the spectral norm lies between 0 and the upper limit"
        ),
    )
