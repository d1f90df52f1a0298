"""After the inputs are measured: are the answers those of one function whose slopes reach its decisions?

Four checks at a few inputs that are drawn from the seed, asked in this process through the meter like the pilot, so that
neither the engine nor the order of the inputs changes what is asked. The statistics are in ``estimation.integrity``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.domain import Space
from fimaudit.errors import InputFailed
from fimaudit.estimation.integrity import (
    FAR_WITHIN,
    HONEST_FAR_WITHIN,
    HONEST_JUMP,
    HONEST_SHORT_SLOPE,
    JUMP,
    SHORT_SLOPE,
    ahead,
    apart,
    fewest,
    history_matters,
    jump_share,
    slope_reach,
    stays,
)
from fimaudit.estimation.noise import OutputQuality
from fimaudit.measurement.boundary import CHECK_ROWS, NotHeld, hold_row
from fimaudit.measurement.counterexample import rows_along
from fimaudit.measurement.integrity_cost import BACK_AGAIN, CLOSER, HALVINGS, LOOKS, REPEATED, RUNGS, SEGMENTS, SLOPES, WALKS
from fimaudit.measurement.radius_evidence import FAR_WITHIN_RADIUS, WITHIN_RADIUS, check_radius
from fimaudit.models.meter import Meter
from fimaudit.perturbations.rows import PlainRows
from fimaudit.results import SCREENED, IntegrityCheck, Sensitivity, Witness

__all__ = ["AuditedInputs", "IntegrityFindings", "candidates", "check_integrity"]

Array = NDArray[np.float64]

#: Of the random numbers that choose inputs and corners.
STREAM = 0x1A7E
#: Inputs among which those to ask and the nearest other decision are chosen.
MOST_CANDIDATES = 512
#: A walk ends in the corner and starts at so many displacements, as far as ratios of its steps in this range allow:
#: any below 2 leaves a rung nearer to the next one than to the input, so that a store of earlier rows answers it from that.
FROM, RATIO, MOST_RATIO = 3.0, 1.6, 1.8
#: A gap of log-odds below this is no measure of a jump.
LEAST_GAP = 0.1

HISTORY = (
    "Notices answers that depend on what was asked before: caches of near-duplicates, steps that shrink near earlier rows, "
    "another model after some queries. Cannot notice a server that keeps every answer for good and compares new rows with "
    "its oldest ones only, nor one that recognises the audit."
)
BOUNDARY = (
    "Notices decisions that change by a jump: confidence blended towards one-hot, an amount added to the winner, scores by "
    "rank. Cannot notice a continuous recalibration, and says nothing of models that jump everywhere."
)
SLOPE = (
    "Notices slopes at the inputs that would take the model less than 0.4 of the way to a decision that really changes "
    "there: floored scores, steep flanks, flattened margins. Cannot notice a continuous recalibration that lengthens "
    "the radius less than about threefold."
)
RADIUS = (
    "Notices a decision that really changes far within the radius, on the way of the witness or towards another input. It "
    "is a proof about the number, not about intent, and looks along these ways only."
)


@dataclass(frozen=True)
class AuditedInputs:
    """What the checks know.

    Attributes:
        x: (m, \\*shape) inputs, and numbers: (m,) their positions in the data.
        space: their domain.
        quality: what the answers are worth.
        displacement: the common one.
        results: of the inputs among which is chosen.
    """

    x: NDArray[Any]
    numbers: NDArray[np.int64]
    space: Space
    quality: OutputQuality
    displacement: float
    results: Mapping[int, Sensitivity]

    def row(self, index: int) -> NDArray[Any]:
        """The input at a position in the data, as the model is sent it."""
        place = int(np.flatnonzero(self.numbers == index)[0])
        return np.asarray(self.x[place].astype(self.space.dtype))


@dataclass(frozen=True)
class IntegrityFindings:
    """What the checks found.

    Attributes:
        checks: one for each.
        revised: results that a real change of decision cut.
    """

    checks: list[IntegrityCheck] = field(default_factory=list)
    revised: dict[int, Sensitivity] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "checks": [check.model_dump(mode="json") for check in self.checks],
            "revised": [result.model_dump(mode="json", by_alias=True) for result in self.revised.values()],
        }

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> IntegrityFindings:
        """From plain data."""
        revised = [Sensitivity.model_validate(one) for one in kept["revised"]]
        checks = [IntegrityCheck.model_validate(one) for one in kept["checks"]]
        return cls(checks, {result.index: result for result in revised})

    def warnings(self) -> list[str]:
        """A sentence for each contradiction."""
        return [
            f"integrity contradicted ({check.name}): {check.finding}; no rule on {', '.join(check.metrics)} is decided from "
            "this run"
            for check in self.checks
            if check.outcome == "contradicted"
        ]


def candidates(numbers: NDArray[np.int64], seed: int) -> list[int]:
    """Positions of the inputs among which the checks choose."""
    if len(numbers) <= MOST_CANDIDATES:
        return [int(i) for i in numbers]
    return sorted(int(i) for i in _random(seed, 1).choice(numbers, MOST_CANDIDATES, replace=False))


def check_integrity(meter: Meter, inputs: AuditedInputs, seed: int) -> IntegrityFindings:
    """Ask the rows of the four checks, and judge them.

    Args:
        meter: the door to the model.
        inputs: what was measured.
        seed: of the choice of inputs and corners.

    Raises:
        BudgetExhausted, ModelFailure: no more can be asked.
    """
    rng = _random(seed, 0)
    measured = sorted(i for i, r in inputs.results.items() if r.status != "failed" and SCREENED not in r.flags)
    sloped = [i for i in measured if _has_local_radius(inputs.results[i])]
    chosen = [int(i) for i in rng.permutation(np.array(measured, dtype=np.int64))]
    followed = [int(i) for i in rng.permutation(np.array(sloped, dtype=np.int64))]
    asked = _Asked(meter, inputs)
    history = _history(asked, chosen[:WALKS], rng)
    with_witness = [i for i in followed if _witness(inputs.results[i]) is not None]
    slope = _slope(asked, with_witness[:SLOPES])
    boundary, changes = _boundary(asked, followed[:SEGMENTS])
    radius, revised = _radius(asked, measured, changes)
    return IntegrityFindings([history, boundary, slope, radius], revised)


class _Asked:
    """Asks rows through the meter, each call once under a name of its own, and counts the rows."""

    def __init__(self, meter: Meter, inputs: AuditedInputs) -> None:
        self.inputs, self.quality = inputs, inputs.quality
        self._meter, self.rows = meter, 0
        self.repeats = REPEATED if inputs.quality.random else 1

    def walk(self, rows: NDArray[Any], name: str) -> Array:
        """Answers to rows in their order: no call before the one ahead of it is answered."""
        size = min(self._meter.batch_rows(int(rows[:1].nbytes)), len(rows))
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        return np.concatenate([self._one(part, f"{name} {n}") for n, part in enumerate(parts)])

    def each(self, rows: Sequence[NDArray[Any]], name: str, repeats: int | None = None) -> list[Array | None]:
        """(repeats, K) answers to each row, each in a call of its own; ``None`` where it was not answered."""
        times = self.repeats if repeats is None else repeats
        if not rows:
            return []
        self.rows += times * len(rows)
        blocks = [PlainRows(row[None]) for row in rows]
        asked = [self._meter.ask_each(blocks, occasion=f"integrity {name}, {n}") for n in range(times)]
        found: list[Array | None] = []
        for of_row in zip(*asked, strict=True):
            answered = [one for one in of_row if not isinstance(one, InputFailed)]
            found.append(np.concatenate(answered) if len(answered) == times else None)
        return found

    def holds(self, start: NDArray[Any], row: NDArray[Any], decision: int, name: str) -> tuple[float, int] | None:
        """(distance, class) of a row that is decided otherwise alone and among others; ``None`` where it is not."""
        flow = hold_row(start, row, self.inputs.space, decision, LOOKS * CHECK_ROWS)
        try:
            block, n = next(flow), 0
            while True:
                rows = block.build(0, len(block))
                block, n = flow.send(self._one(rows, f"{name} {n}")), n + 1
        except InputFailed:
            return None
        except StopIteration as end:
            return None if isinstance(end.value, NotHeld) else (end.value.distance, end.value.predicted_class)

    def _one(self, rows: NDArray[Any], name: str) -> Array:
        self.rows += len(rows)
        answers = self._meter.ask_each([PlainRows(rows)], occasion=f"integrity {name}")[0]
        if isinstance(answers, InputFailed):
            raise answers
        return answers


def _history(asked: _Asked, chosen: Sequence[int], rng: np.random.Generator) -> IntegrityCheck:
    """There and back: the same rows outwards from an input to a random corner of the domain, and in reverse."""
    quality, before = asked.quality, asked.rows
    walks, found, largest, quiet, rungs = 0, 0, 0.0, 0.0, 0
    for n, index in enumerate(chosen):
        rows = _walk_rows(asked.inputs, index, rng)
        try:
            out = asked.walk(rows, f"out {n}")
            back = [asked.walk(rows[::-1], f"back {n}")[::-1]]
            difference, noise = apart(out, back[0], quality.quantum, quality.batch_effect), 0.0
            if history_matters(difference, 0.0, quality.batch_effect_logs):
                back += [asked.walk(rows[::-1], f"back {n} again {k}")[::-1] for k in range(BACK_AGAIN)]
                pairs = [(back[i], back[j]) for i in range(len(back)) for j in range(i)]
                noise = max(apart(a, b, quality.quantum, quality.batch_effect) for a, b in pairs)
        except InputFailed:
            continue
        walks, rungs = walks + 1, max(rungs, len(rows))
        found += history_matters(difference, noise, quality.batch_effect_logs)
        if difference >= largest:
            largest, quiet = difference, noise
    numbers = {"walks": walks, "rows_a_walk": rungs, "contradicting": found, "largest": largest, "repeats": quiet}
    took = asked.rows - before
    if not walks:
        return _check("history", "not_applicable", HISTORY, "no input could be asked", numbers, took)
    if found:
        finding = (
            f"rows asked a second time, in reverse order, were answered otherwise on {found} of {walks} walks "
            f"(by {largest:.2g} in log p, where repeats differ by {quiet:.2g}): answers depend on what was asked before, or "
            "several models answer"
        )
        return _check("history", "contradicted", HISTORY, finding, numbers, took)
    finding = f"{walks} walks of {rungs} rows, there and back, were answered alike" + (
        f" (within {largest:.2g} in log p)" if largest else ""
    )
    return _check("history", "ok", HISTORY, finding, numbers, took)


def _walk_rows(inputs: AuditedInputs, index: int, rng: np.random.Generator) -> NDArray[Any]:
    """The input, and rows at log-spaced lengths towards a corner of the box, or of the data's range where it is open."""
    space, x = inputs.space, inputs.row(index)
    low, high = _range(inputs)
    corner = np.where(rng.integers(0, 2, size=low.shape) == 1, high, low)
    way = _way(x, corner, space)
    length = float(np.linalg.norm(way))
    if not length > 0:
        return x[None]
    displacement = inputs.results[index].displacement or inputs.displacement
    end, steps = length, RUNGS - 2
    start = np.clip(FROM * displacement, end / MOST_RATIO**steps, end / RATIO**steps)
    rows, _ = rows_along(x, space, way / length, np.geomspace(start, end, steps + 1))
    return np.concatenate([x[None], rows])


def _range(inputs: AuditedInputs) -> tuple[Array, Array]:
    """The box; where a feature has no bound, the data's range, or a step of the scale to either side if they agree there."""
    space, x = inputs.space, inputs.x.astype(np.float64)
    least, most = x.min(axis=0), x.max(axis=0)
    same = np.where(most > least, 0.0, space.scale)
    low = np.where(np.isfinite(space.lower), space.lower, least - same)
    return low, np.where(np.isfinite(space.upper), space.upper, most + same)


def _way(start: NDArray[Any], end: NDArray[Any], space: Space) -> Array:
    """(d,) from one input to another over the features that may change, in units of the scale."""
    return np.asarray(((end.astype(np.float64) - start.astype(np.float64)) / space.scale)[~space.frozen])


@dataclass
class _Segment:
    """From an input towards the nearest one with another decision, halved: ``low`` keeps the decision, ``high`` does not."""

    index: int
    x: NDArray[Any]
    way: Array
    length: float
    decision: int
    here: Array
    low: tuple[float, NDArray[Any], Array]
    high: tuple[float, NDArray[Any], Array]

    def middle(self, space: Space) -> tuple[float, NDArray[Any]] | None:
        """The row halfway between; ``None`` where levels leave none."""
        at = (self.low[0] + self.high[0]) / 2
        row = rows_along(self.x, space, self.way / self.length, np.array([at]))[0][0]
        return None if any(np.array_equal(row, end[1]) for end in (self.low, self.high)) else (at, row)

    def gap(self, quantum: float) -> float:
        """Log-odds at the input between its class and the one beyond the boundary."""
        return float(ahead(self.here, self.decision, self.other, quantum)[0].mean())

    def jump(self, quantum: float) -> float:
        """See ``jump_share``; 0 where the gap is too small for a measure."""
        gap = self.gap(quantum)
        if gap < LEAST_GAP:
            return 0.0
        return jump_share(self.low[2], self.high[2], self.decision, self.other, gap, quantum)

    @property
    def other(self) -> int:
        """The class beyond."""
        return int(self.high[2].mean(axis=0).argmax())


def _boundary(asked: _Asked, chosen: Sequence[int]) -> tuple[IntegrityCheck, list[_Segment]]:
    """Halve towards the nearest other decision: what jump is left, and where the decision really changes."""
    inputs, quantum, before = asked.inputs, asked.quality.quantum, asked.rows
    segments = _segments(asked, chosen)
    _halve(asked, segments, HALVINGS, "halving")
    first = [segment.jump(quantum) for segment in segments]
    suspects = [(segment, jump) for segment, jump in zip(segments, first, strict=True) if jump > JUMP]
    _halve(asked, [segment for segment, _ in suspects], CLOSER, "closer")
    jumps = 0
    for segment, jump in suspects:
        _look_again(asked, segment)
        radius = inputs.results[segment.index].margin_radius.value
        left = float(np.linalg.norm(_way(segment.low[1], segment.high[1], inputs.space)))
        jumps += radius is not None and stays(jump, segment.jump(quantum), left, radius)
    need = fewest(len(segments), HONEST_JUMP)
    numbers = {"inputs": len(segments), "jumps": jumps, "fewest": need, "largest": max(first, default=None)}
    took = asked.rows - before
    if len(segments) < 2:
        why = "fewer than two inputs have a local radius and another decision to walk to"
        return _check("boundary", "not_applicable", BOUNDARY, why, numbers, took), segments
    if jumps >= need:
        finding = (
            f"at {jumps} of {len(segments)} inputs the decision changes by a jump, where answers that follow their slopes "
            "have a tie"
        )
        return _check("boundary", "contradicted", BOUNDARY, finding, numbers, took), segments
    finding = f"at {len(segments) - jumps} of {len(segments)} inputs the answers meet in a tie where the decision changes"
    return _check("boundary", "ok", BOUNDARY, finding, numbers, took), segments


def _segments(asked: _Asked, chosen: Sequence[int]) -> list[_Segment]:
    """Those of the inputs that have another decision to walk to, with the answers at both ends."""
    inputs, space = asked.inputs, asked.inputs.space
    open_ways: list[tuple[int, NDArray[Any], Array, NDArray[Any]]] = []
    for index in chosen:
        x, mine = inputs.row(index), inputs.results[index].predicted_class
        others = [
            i for i, r in sorted(inputs.results.items()) if r.predicted_class is not None and r.predicted_class != mine
        ]
        ways = [way for i in others if np.linalg.norm(way := _way(x, inputs.row(i), space)) > 0]
        if ways:
            way = min(ways, key=lambda one: float(np.linalg.norm(one)))
            length = float(np.linalg.norm(way))
            open_ways.append((index, x, way, rows_along(x, space, way / length, np.array([length]))[0][0]))
    answers = asked.each([row for _, x, _, end in open_ways for row in (x, end)], "ends")
    segments = []
    for (index, x, way, end), here, there in zip(open_ways, answers[::2], answers[1::2], strict=True):
        decision = inputs.results[index].predicted_class
        if here is None or there is None or decision is None:
            continue
        if _class(here) == decision and _class(there) != decision:
            length = float(np.linalg.norm(way))
            segments.append(_Segment(index, x, way, length, decision, here, (0.0, x, here), (length, end, there)))
    return segments


def _halve(asked: _Asked, segments: Sequence[_Segment], times: int, name: str) -> None:
    """Several halvings of all segments side by side, one row each at a time."""
    for n in range(times):
        middles = [(segment, segment.middle(asked.inputs.space)) for segment in segments]
        going = [(segment, middle) for segment, middle in middles if middle is not None]
        answers = asked.each([row for _, (_, row) in going], f"{name} {n}", 1)
        for (segment, (at, row)), answer in zip(going, answers, strict=True):
            if answer is None:
                continue
            if _class(answer) == segment.decision:
                segment.low = (at, row, answer)
            else:
                segment.high = (at, row, answer)


def _look_again(asked: _Asked, segment: _Segment) -> None:
    """Repeat both sides of a boundary where answers are noisy."""
    if asked.repeats == 1:
        return
    ends = (segment.low, segment.high)
    low, high = asked.each([row for _, row, _ in ends], f"sides {segment.index}", asked.repeats - 1)
    if low is not None and high is not None:
        segment.low = (*segment.low[:2], np.concatenate([segment.low[2], low]))
        segment.high = (*segment.high[:2], np.concatenate([segment.high[2], high]))


def _slope(asked: _Asked, chosen: Sequence[int]) -> IntegrityCheck:
    """How much of the way to the witness the slope at the input accounts for."""
    inputs, space, quantum, before = asked.inputs, asked.inputs.space, asked.quality.quantum, asked.rows
    ways: list[tuple[int, int, float, float, NDArray[Any], NDArray[Any]]] = []
    for index in chosen:
        result, x = inputs.results[index], inputs.row(index)
        witness = result.witness
        end = _witness(result)
        if witness is None or end is None or result.predicted_class is None:
            continue
        way = _way(x, end, space)
        distance = float(np.linalg.norm(way))
        length = min(result.displacement or inputs.displacement, distance / 4)
        rows, steps = rows_along(x, space, way / distance, np.array([length]))
        if steps[0] > 0:
            ways.append((result.predicted_class, witness.predicted_class, float(steps[0]), distance, x, rows[0]))
    answers = asked.each([row for *_, x, along in ways for row in (x, along)], "slopes")
    reached = [
        slope_reach(here, along, *way[:4], quantum)
        for way, here, along in zip(ways, answers[::2], answers[1::2], strict=True)
        if here is not None and along is not None
    ]
    known = [one for one in reached if one is not None]
    short, need = sum(one < SHORT_SLOPE for one in known), fewest(len(known), HONEST_SHORT_SLOPE)
    middle = float(np.median(known)) if known else None
    numbers = {"inputs": len(known), "short": short, "fewest": need, "median": middle}
    took = asked.rows - before
    if need > len(known):
        why = "too few inputs have a local radius and a witness"
        return _check("slope", "not_applicable", SLOPE, why, numbers, took)
    most = "at most " if asked.quality.random else ""
    said = f"the slope takes {most}{middle:.2f} of the way to a decision that really changes (median of {len(known)} inputs)"
    if short >= need:
        finding = f"{said}, and less than {SHORT_SLOPE} at {short} of them: the slopes do not reach the decisions"
        return _check("slope", "contradicted", SLOPE, finding, numbers, took)
    return _check("slope", "ok", SLOPE, said, numbers, took)


def _radius(
    asked: _Asked, measured: Sequence[int], changes: Sequence[_Segment]
) -> tuple[IntegrityCheck, dict[int, Sensitivity]]:
    """Real changes of decision within the radius: those found on the way, and those on the segments."""
    inputs, before = asked.inputs, asked.rows
    revised: dict[int, Sensitivity] = {}
    for segment in changes:
        result = inputs.results[segment.index]
        radius = result.margin_radius
        near = float(np.linalg.norm(_way(segment.x, segment.high[1], inputs.space)))
        if radius.value is None or near >= (radius.upper or np.inf):
            continue
        held = asked.holds(segment.x, segment.high[1], segment.decision, f"hold {segment.index}")
        if held is None:
            continue
        checked = check_radius(radius, [], Witness(distance=held[0], predicted_class=held[1]), np.inf)
        flags = [*result.flags, *(flag for flag in checked.flags if flag not in result.flags)]
        reason = "; ".join([*([result.reason] if result.reason else []), *checked.reasons]) or None
        revised[segment.index] = result.model_copy(
            update={"margin_radius": checked.radius, "flags": flags, "reason": reason}
        )
    known = [revised.get(i, inputs.results[i]) for i in measured]
    claimed = [r for r in known if r.margin_radius.value is not None and (r.witness is not None or r.index in _ids(changes))]
    within = sum(WITHIN_RADIUS in r.flags for r in claimed)
    far = sum(FAR_WITHIN_RADIUS in r.flags for r in claimed)
    need = fewest(len(claimed), HONEST_FAR_WITHIN)
    numbers = {"inputs": len(claimed), "within": within, "far_within": far, "fewest": need}
    took = asked.rows - before
    if not claimed:
        why = "no input has a radius and a real change of decision to compare it with"
        return _check("radius", "not_applicable", RADIUS, why, numbers, took), revised
    found = f"{within} of {len(claimed)} inputs change their decision within the lower limit of their radius"
    if far >= need:
        finding = f"{found}, {far} of them nearer than {FAR_WITHIN} of it"
        return _check("radius", "contradicted", RADIUS, finding, numbers, took), revised
    nobody = f"no decision of {len(claimed)} inputs changed within the lower limit of its radius"
    return _check("radius", "ok", RADIUS, found if within else nobody, numbers, took), revised


def _check(
    name: Any, outcome: Any, notices: str, finding: str, numbers: Mapping[str, float | int | None], rows: int
) -> IntegrityCheck:
    return IntegrityCheck(name=name, outcome=outcome, notices=notices, finding=finding, numbers=dict(numbers), rows=rows)


def _ids(segments: Sequence[_Segment]) -> set[int]:
    return {segment.index for segment in segments}


def _class(answers: Array) -> int:
    return int(answers.mean(axis=0).argmax())


def _has_local_radius(result: Sensitivity) -> bool:
    return result.status == "ok" and result.kind == "local" and bool(result.margin_radius.value)


def _witness(result: Sensitivity) -> NDArray[Any] | None:
    return None if result.witness is None else result.witness.x


def _random(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, STREAM + stream], dtype=np.uint64)))
