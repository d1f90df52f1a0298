"""What an audit says of a regime against what is so: exact numbers, changes of decision really found, and counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks._regimes import SEED, Local, Regime
from fimaudit import Report, audit, open_classifier
from fimaudit.errors import FimauditError
from fimaudit.models.classifier import Classifier
from fimaudit.results import Interval, Sensitivity

__all__ = ["Exact", "Scores", "exact_inputs", "measure", "score"]

Array = np.ndarray
#: A value that is off by more than this is wrong, whatever its interval.
OFF = 2.0
#: A change of decision at less than this share of a radius: its flag has the same measure.
SHORT = 0.75
#: An input whose second class is less probable than this may be refused: what there is to see may lie below the numbers.
SECOND = 1e-6
#: Ends of segments over which a change of decision is looked for: inputs with another answer, random directions, and the
#: directions in which exact slopes lead to the nearest other answers.
ENDS, RANDOM, RIVALS = 12, 8, 3
#: Places on a segment, and halvings once the decision changed between two.
PLACES, HALVINGS = 24, 12
#: Lengths of the random segments over the distance of the nearest input with another answer.
REACH = 2.0


@dataclass(frozen=True)
class Exact:
    """Of one input: what is exact, and the shortest change that really changed the decision.

    Attributes:
        spectral_norm, peak_spectral_norm, margin_radius: exact, ``None`` where there is no local value.
        second: probability of the second class.
        change: l2 length in units of the scale; infinite where none was found.
    """

    spectral_norm: float | None
    peak_spectral_norm: float | None
    margin_radius: float | None
    second: float
    change: float


def exact_inputs(regime: Regime) -> list[Exact]:
    """For each input of the regime; asks the deployed model for changes of decision."""
    options = {k: v for k, v in regime.options.items() if k != "mode"}
    classifier = open_classifier(regime.model, **options)
    scale = regime.domain.resolve(regime.x, classifier.info.dtype).scale
    others = regime.others.astype(classifier.info.dtype)
    decisions = answers(classifier, others).argmax(axis=1)
    found = []
    for k, x in enumerate(regime.x):
        local = None if regime.local is None else regime.local(x)
        ends = segment_ends(classifier, regime, k, (others, decisions), scale, local)
        p = np.sort(answers(classifier, x[None].astype(classifier.info.dtype))[0])
        second = float(p[-2]) if local is None else float(np.exp(np.sort(local.log_p)[-2]))
        norm, peak, radius = (None, None, None) if local is None else exact_numbers(local, scale.ravel())
        found.append(Exact(norm, peak, radius, second, nearest_change(classifier, x, ends, scale)))
    classifier.close()
    return found


def answers(classifier: Classifier, rows: Array) -> Array:
    """In calls of a few rows where rows are long."""
    size = max(1, int(2e7 // max(1, rows[0].size * 8)))
    return np.concatenate([classifier.probabilities(rows[i : i + size]) for i in range(0, len(rows), size)])


def exact_numbers(local: Local, scale: Array) -> tuple[float, float, float]:
    """Spectral norm of the visible classes and the rest as one, largest of them over temperature, first-order radius."""
    slopes, p = local.slopes * scale, np.exp(local.log_p)
    if len(slopes) < slopes.shape[1]:  # the same inner products from fewer columns
        slopes = np.asarray(np.linalg.qr(slopes.T, mode="r")).T
    rows = [np.sqrt(p[local.visible])[:, None] * slopes[local.visible]]
    hidden = ~local.visible
    if hidden.any():
        rows.append((p[hidden] @ slopes[hidden] / np.sqrt(p[hidden].sum()))[None])
    norm = top_eigenvalue(np.concatenate(rows))
    gaps = local.log_p.max() - np.sort(local.log_p)  # the maximum lies near the temperature at which a rival weighs in
    grid = np.geomspace(max(0.05 * gaps[-2], 1e-5 * gaps[0]), 10 * gaps[0], 120)
    best = int(np.argmax([tempered_norm(slopes, local.log_p, t) for t in grid]))
    near = np.geomspace(grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)], 15)
    peak = max(tempered_norm(slopes, local.log_p, t) for t in near)
    top = int(local.log_p.argmax())
    rivals = np.delete(np.arange(len(p)), top)
    lengths = np.linalg.norm(slopes[top] - slopes[rivals], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        radius = float(((local.log_p[top] - local.log_p[rivals]) / lengths).min())
    return norm, peak, radius


def tempered_norm(slopes: Array, log_p: Array, temperature: float) -> float:
    """Spectral norm at the answer p^(1 / T), normalised; classes without weight are left out."""
    q = np.exp((log_p - log_p.max()) / temperature)
    q /= q.sum()
    some = q > 1e-18
    z = (slopes[some] - q[some] @ slopes[some]) * np.sqrt(q[some])[:, None] / temperature
    return top_eigenvalue(z)


def top_eigenvalue(z: Array) -> float:
    """Of Z^T Z."""
    gram = z @ z.T if z.shape[0] <= z.shape[1] else z.T @ z
    return float(np.linalg.eigvalsh(gram)[-1])


def segment_ends(
    classifier: Classifier, regime: Regime, index: int, others: tuple[Array, Array], scale: Array, local: Local | None
) -> Array:
    """Ends of segments from the input, within its domain."""
    x = regime.x[index].astype(np.float64)
    rows, decisions = others
    own = answers(classifier, regime.x[index : index + 1].astype(rows.dtype)).argmax()
    different = rows[decisions != own].astype(np.float64)
    lengths = np.linalg.norm(((different - x) / scale).reshape(len(different), x.size), axis=1)
    order = lengths.argsort()[:ENDS]
    reach = REACH * (lengths[order[0]] if len(order) else math.sqrt(x.size))
    turns = np.random.default_rng([SEED, index]).standard_normal((RANDOM, *x.shape))
    turns /= np.linalg.norm(turns.reshape(RANDOM, -1), axis=1).reshape(-1, *[1] * x.ndim)
    ends = [*different[order], *(x + reach * scale * turns)]
    if local is not None:
        slopes = local.slopes * scale.ravel()
        top = int(local.log_p.argmax())
        ways = slopes - slopes[top]
        with np.errstate(divide="ignore", invalid="ignore"):
            radii = (local.log_p[top] - local.log_p) / np.linalg.norm(ways, axis=1)
        radii[top] = np.inf
        for rival in radii.argsort()[:RIVALS]:
            if np.isfinite(radii[rival]) and radii[rival] < 1e9:
                way = (ways[rival] / np.linalg.norm(ways[rival])).reshape(x.shape)
                ends.append(x + min(3 * radii[rival], reach) * scale * way)
    low, high = (np.inf if b is None else b for b in (regime.domain.lower, regime.domain.upper))
    return np.stack(ends) if regime.domain.lower is None else np.clip(np.stack(ends), low, high)


def nearest_change(classifier: Classifier, x: Array, ends: Array, scale: Array) -> float:
    """Length of the shortest displacement on these segments, as sent, whose answer is another class than the input's."""
    dtype = classifier.info.dtype
    own = answers(classifier, x[None].astype(dtype)).argmax()
    base = x.astype(dtype).astype(np.float64)
    places = np.geomspace(1e-4, 1.0, PLACES)
    nearest = np.inf
    spans = []
    for end in ends:
        rows = along(base, end, places, dtype)
        changed = answers(classifier, rows).argmax(axis=1) != own
        if changed.any():
            first = int(changed.argmax())
            nearest = min(nearest, length(rows[first], base, scale))
            spans.append((end, places[first - 1] if first else 0.0, places[first]))
    for _ in range(HALVINGS if spans else 0):
        rows = np.concatenate([along(base, end, np.array([(low + high) / 2]), dtype) for end, low, high in spans])
        changed = answers(classifier, rows).argmax(axis=1) != own
        nearest = min([nearest, *(length(row, base, scale) for row in rows[changed])])
        spans = [
            (end, low, (low + high) / 2) if hit else (end, (low + high) / 2, high)
            for (end, low, high), hit in zip(spans, changed, strict=True)
        ]
    return nearest


def along(base: Array, end: Array, places: Array, dtype: str) -> Array:
    """Rows at shares of the way."""
    return (base + places.reshape(-1, *[1] * base.ndim) * (end - base)).astype(dtype)


def length(row: Array, base: Array, scale: Array) -> float:
    """Of a displacement as sent, in units of the scale."""
    return float(np.linalg.norm((row.astype(np.float64) - base) / scale))


@dataclass
class Scores:
    """Counts over inputs and seeds; ``a + b`` adds them up.

    Attributes:
        inputs: measured.
        ok, local: those ``ok``, and those ``ok`` and ``local`` with a spectral norm.
        held: intervals of each quantity, of local values, that hold the exact one; compared: how many were compared.
        factor: by which the worst local spectral norm is off.
        off: local values off by more than ``OFF``, and local values where there is nothing local.
        measurable, refused: inputs of smooth regimes with something to see, and those of them not ``ok``, ``local``.
        radii: ``ok`` inputs whose radius has a lower limit above 0; overstated: those with a change of decision found below
            it; silent: those of them that no flag marks; far: silent ones where it is at less
            than ``SHORT`` of the limit.
        shortest: the shortest change of decision of silent ones, over the limit.
        statuses, kinds, flags: how often each.
        rows: sent.
        worst: some of the values that are off.
    """

    inputs: int = 0
    ok: int = 0
    local: int = 0
    held: Counter[str] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)
    factor: float = 1.0
    off: int = 0
    measurable: int = 0
    refused: int = 0
    radii: int = 0
    overstated: int = 0
    silent: int = 0
    far: int = 0
    shortest: float = 1.0
    statuses: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    worst: list[dict[str, Any]] = field(default_factory=list)

    def __add__(self, other: Scores) -> Scores:
        both = {name: getattr(self, name) + getattr(other, name) for name in vars(self)}
        extremes = {"factor": max(self.factor, other.factor), "shortest": min(self.shortest, other.shortest)}
        return Scores(**{**both, **extremes, "worst": sorted(both["worst"], key=lambda w: -w["queries"])[:6]})

    def share(self, part: str, whole: str) -> float | None:
        """Of two counts, by name; ``None`` where there is none."""
        return getattr(self, part) / getattr(self, whole) if getattr(self, whole) else None

    def coverage(self, name: str = "spectral_norm") -> float | None:
        """Share of intervals that hold."""
        return self.held[name] / self.compared[name] if self.compared[name] else None


def measure(regime: Regime, exact: Sequence[Exact], queries: int, seed: int) -> Scores:
    """Audit it and count; where it raises, refusals of the whole model too, every input counts as not ok."""
    options = {"mode": "black-box", **regime.options}
    try:
        report = audit(regime.model, regime.x, domain=regime.domain, queries=queries, seed=seed, **options)
    except Exception as exc:
        status = "refused" if isinstance(exc, FimauditError) else f"fault: {type(exc).__name__}: {exc}"
        return Scores(inputs=len(regime.x), statuses=Counter({status: len(regime.x)}))
    return score(regime, exact, report, {"queries": queries, "seed": seed})


def score(regime: Regime, exact: Sequence[Exact], report: Report, of: dict[str, Any]) -> Scores:
    """A report against what is so; ``of`` names the run among the worst."""
    total = Scores(rows=report.summary.queries)
    for s in report.inputs:
        total += score_input(regime, exact[s.index], s, of)
    return total


def score_input(regime: Regime, exact: Exact, s: Sensitivity, of: dict[str, Any]) -> Scores:
    """Counts of one input."""
    found = Scores(
        inputs=1, ok=s.status == "ok", statuses=Counter([s.status]), kinds=Counter([s.kind]), flags=Counter(s.flags)
    )
    norm = s.spectral_norm
    is_local = s.status == "ok" and s.kind == "local" and norm.value is not None
    found.local = int(is_local)
    if regime.sort == "smooth" and exact.second >= SECOND:
        found.measurable, found.refused = 1, int(not is_local or "kinked" in s.flags)
    # At a tie there are several one-sided slopes, and the flag says that the number is one of them.
    tied = regime.sort == "kinked" and "kinked" in s.flags
    if is_local and not tied:
        compare(found, exact, s)
        if found.off:
            found.worst = [
                {**of, "index": s.index, "value": norm.value, "interval": str(norm), "exact": exact.spectral_norm}
            ]
    if s.status == "ok" and s.margin_radius.lower:
        found.radii = 1
        found.overstated = int(exact.change < s.margin_radius.lower)
        found.silent = int(found.overstated and not {"local_radius_overstates", "radius_not_checked"} & set(s.flags))
        if found.silent:
            found.shortest = exact.change / s.margin_radius.lower
            found.far = int(found.shortest < SHORT)
    return found


def compare(found: Scores, exact: Exact, s: Sensitivity) -> None:
    """A local value against the exact one."""
    if exact.spectral_norm is None:
        found.off, found.factor = 1, math.inf
        return
    for name in ("spectral_norm", "peak_spectral_norm", "margin_radius"):
        interval, truth = getattr(s, name), getattr(exact, name)
        if name == "margin_radius" and truth is not None and "local_radius_overstates" in s.flags:
            truth = min(
                truth, exact.change, math.inf if interval.upper is None else interval.upper
            )  # which is a real change
        if interval.value is not None and truth is not None:
            found.compared[name], found.held[name] = 1, int(holds(interval, truth))
    value, truth = float(s.spectral_norm.value or 0.0), exact.spectral_norm
    found.factor = max(value / truth, truth / value) if value > 0 and truth > 0 else (1.0 if value == truth else math.inf)
    found.off = int(found.factor > OFF)


def holds(interval: Interval, truth: float) -> bool:
    """Whether it lies inside; an open limit is no limit."""
    return (interval.lower or 0.0) <= truth <= (math.inf if interval.upper is None else interval.upper)
