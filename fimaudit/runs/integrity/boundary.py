"""Does the decision change in a tie, or by a jump? Halvings towards the nearest input of another decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.audit_report import IntegrityCheck
from fimaudit.estimation.integrity import (
    HONEST_JUMP,
    JUMP,
    false_alarm,
    fewest_findings,
    is_jump,
    jump_share,
    log_odds,
)
from fimaudit.measurement.counterexample import rows_along
from fimaudit.measurement.integrity_cost import CLOSER, HALVINGS
from fimaudit.perturbations.sign_rows import BLOCK_ELEMENTS
from fimaudit.runs.integrity.findings import Outcome, check_result
from fimaudit.runs.integrity.rows import AskedRows, AuditedInputs, decision_of, scaled_difference
from fimaudit.space import Space

__all__ = ["Segment", "check_boundary"]

Array = NDArray[np.float64]

#: A gap of log-odds below this is no measure of a jump.
LEAST_GAP = 0.1

BOUNDARY = (
    "Notices decisions that change by a jump: confidence blended towards one-hot, an amount added to the winner, scores by "
    "rank. Cannot notice a continuous recalibration, and says nothing of models that jump everywhere."
)


@dataclass
class Segment:
    """From an input towards the nearest one with another decision, halved: ``low`` keeps the decision, ``high`` does not."""

    index: int
    x: NDArray[Any]
    way: Array
    length: float
    decision: int
    answers: Array
    low: tuple[float, NDArray[Any], Array]
    high: tuple[float, NDArray[Any], Array]

    def middle(self, space: Space) -> tuple[float, NDArray[Any]] | None:
        """The row halfway between; ``None`` where levels leave none."""
        at = (self.low[0] + self.high[0]) / 2
        row = rows_along(self.x, space, self.way / self.length, np.array([at]))[0][0]
        return None if (row == self.low[1]).all() or (row == self.high[1]).all() else (at, row)

    def gap(self, quantum: float) -> float:
        """Log-odds at the input between its class and the one beyond the boundary."""
        return float(log_odds(self.answers, self.decision, self.other, quantum)[0].mean())

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


def check_boundary(asked: AskedRows, chosen: Sequence[int]) -> tuple[IntegrityCheck, list[Segment]]:
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
        left = float(np.linalg.norm(scaled_difference(segment.low[1], segment.high[1], inputs.space)))
        jumps += radius is not None and is_jump(jump, segment.jump(quantum), left, radius)
    need = fewest_findings(len(segments), HONEST_JUMP)
    numbers = {"inputs": len(segments), "jumps": jumps, "fewest": need, "largest": max(first, default=None)}
    numbers["false_alarm"] = false_alarm(len(segments), HONEST_JUMP)
    took = asked.rows - before
    outcome: Outcome = "ok"
    finding = f"at {len(segments) - jumps} of {len(segments)} inputs the answers meet in a tie where the decision changes"
    if len(segments) < 2:
        outcome, finding = "not_applicable", "too few inputs have a local radius and another decision to walk to"
    elif jumps >= need:
        outcome = "contradicted"
        finding = (
            f"at {jumps} of {len(segments)} inputs the decision changes by a jump, where answers that follow their slopes "
            "have a tie"
        )
    return check_result("boundary", outcome, BOUNDARY, finding, numbers, took), segments


def _segments(asked: AskedRows, chosen: Sequence[int]) -> list[Segment]:
    """Those of the inputs that have another decision to walk to, with the answers at both ends."""
    inputs, space = asked.inputs, asked.inputs.space
    known = {int(number): place for place, number in enumerate(inputs.numbers)}
    decided = [(r.predicted_class, known[i]) for i, r in sorted(inputs.results.items()) if r.predicted_class is not None]
    open_ways: list[tuple[int, NDArray[Any], Array, NDArray[Any]]] = []
    for index in chosen:
        x, mine = inputs.row(index), inputs.results[index].predicted_class
        way = _way_to_nearest(x, inputs, [place for decision, place in decided if decision != mine])
        if way is not None:
            length = float(np.linalg.norm(way))
            open_ways.append((index, x, way, rows_along(x, space, way / length, np.array([length]))[0][0]))
    answers = asked.each([row for _, x, _, end in open_ways for row in (x, end)], "ends")
    segments = []
    for (index, x, way, end), near, far in zip(open_ways, answers[::2], answers[1::2], strict=True):
        decision = inputs.results[index].predicted_class
        if near is None or far is None or decision is None:
            continue
        if decision_of(near) == decision and decision_of(far) != decision:
            length = float(np.linalg.norm(way))
            segments.append(Segment(index, x, way, length, decision, near, (0.0, x, near), (length, end, far)))
    return segments


def _way_to_nearest(x: NDArray[Any], inputs: AuditedInputs, places: Sequence[int]) -> Array | None:
    """(d,) from an input to the nearest of others that lie elsewhere, of inputs of one distance to the first."""
    nearest, found, count = np.inf, None, max(1, BLOCK_ELEMENTS // x.size)
    for first in range(0, len(places), count):
        others = inputs.x[places[first : first + count]].astype(inputs.space.dtype, copy=False)
        ways = scaled_difference(x, others, inputs.space)
        lengths = np.sqrt(np.vecdot(ways, ways))
        best = int(np.where(lengths > 0, lengths, np.inf).argmin())
        if 0 < lengths[best] < nearest:
            nearest, found = lengths[best], ways[best]
    return found


def _halve(asked: AskedRows, segments: Sequence[Segment], times: int, name: str) -> None:
    """Several halvings of all segments side by side, one row each at a time."""
    for n in range(times):
        middles = [(segment, segment.middle(asked.inputs.space)) for segment in segments]
        going = [(segment, middle) for segment, middle in middles if middle is not None]
        answers = asked.each([row for _, (_, row) in going], f"{name} {n}", 1)
        for (segment, (at, row)), answer in zip(going, answers, strict=True):
            if answer is None:
                continue
            if decision_of(answer) == segment.decision:
                segment.low = (at, row, answer)
            else:
                segment.high = (at, row, answer)


def _look_again(asked: AskedRows, segment: Segment) -> None:
    """Repeat both sides of a boundary where answers are noisy."""
    if asked.repeats == 1:
        return
    ends = (segment.low, segment.high)
    low, high = asked.each([row for _, row, _ in ends], f"sides {segment.index}", asked.repeats - 1)
    if low is not None and high is not None:
        segment.low = (*segment.low[:2], np.concatenate([segment.low[2], low]))
        segment.high = (*segment.high[:2], np.concatenate([segment.high[2], high]))
