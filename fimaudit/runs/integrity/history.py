"""Do answers depend on what was asked before? The same rows there and back, and at several times of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fimaudit.audit_report import IntegrityCheck
from fimaudit.engines.decoys import ask_decoys, known_answers
from fimaudit.errors import InputFailed
from fimaudit.estimation.integrity import apart, history_matters, noticed, threshold
from fimaudit.measurement.counterexample import rows_along
from fimaudit.measurement.integrity_cost import BACK_AGAIN, DECOY_TIMES, RUNGS
from fimaudit.runs.integrity.decoys import ChosenDecoys
from fimaudit.runs.integrity.findings import check_result
from fimaudit.runs.integrity.rows import AskedRows, AuditedInputs, scaled_difference

__all__ = ["check_history"]

Array = NDArray[np.float64]

#: A walk ends in the corner and starts at a displacement, as far as ratios of its steps in this range allow: any below 2
#: leaves a rung nearer to the next one than to the input, so that a store of earlier rows answers it from that, and on the
#: way back a displacement is one from another centre.
RATIO, MOST_RATIO = 1.6, 1.8
#: Shares of the calls that a second version may take, of which the report says how surely it would have been noticed.
SHARES = (0.1, 0.5)
#: How often a decoy is asked in all.
TIMES = DECOY_TIMES + 1

HISTORY = (
    "Notices answers that depend on what was asked before: caches of near-duplicates, steps that shrink near earlier rows, "
    "another model after some queries, or for some of them. Cannot notice a server that keeps every answer for good and "
    "compares new rows with its oldest ones only, nor one that recognises the audit."
)


@dataclass
class _Compared:
    """Rows that were asked several times: how many, how many of them were answered otherwise, and by how much."""

    count: int = 0
    otherwise: int = 0
    largest: float = 0.0
    noise: float = 0.0
    pairs: int = 0
    rows: int = 0

    def add(self, difference: float, noise: float, batch_effect_logs: float) -> None:
        self.count += 1
        self.otherwise += history_matters(difference, noise, batch_effect_logs)
        if difference >= self.largest:
            self.largest, self.noise = difference, noise


def check_history(asked: AskedRows, chosen: Sequence[int], decoys: ChosenDecoys, rng: np.random.Generator) -> IntegrityCheck:
    """The same rows outwards from an input to a random corner and in reverse, and plain rows at several times of the run."""
    before = asked.rows
    walks, plain = _walks(asked, chosen, rng), _times(asked, decoys, rng)
    both = walks if walks.largest >= plain.largest else plain
    least, pairs = threshold(both.noise, asked.quality.batch_effect_logs), walks.pairs + plain.pairs
    numbers = {
        "walks": walks.count,
        "rows_a_walk": walks.rows,
        "contradicting": walks.otherwise,
        "decoys": plain.count,
        "decoys_otherwise": plain.otherwise,
        "largest": both.largest,
        "repeats": both.noise,
        "calls_repeated": pairs,
        "noticed_difference": least,
        **{f"noticed_share_{share}": noticed(share, pairs) for share in SHARES},
    }
    outcome: Any = "ok"
    if not walks.count and not plain.count:
        outcome, finding = "not_applicable", "no input could be asked"
    elif walks.otherwise or plain.otherwise:
        outcome, finding = "contradicted", _against(walks, plain, both)
    else:
        power = " and ".join(f"{share:.0%} of the calls with probability {noticed(share, pairs):.2f}" for share in SHARES)
        finding = (
            f"{walks.count} walks of {walks.rows} rows, there and back, and {plain.count} rows asked {TIMES} times of the "
            "run were answered alike" + (f" (within {both.largest:.2g} in log p)" if both.largest else "")
        )
        finding += (
            f"; a second version that moves log p by more than {least:.2g} would have been noticed here if it took {power}"
        )
    return check_result("history", outcome, HISTORY, finding, numbers, asked.rows - before)


def _against(walks: _Compared, plain: _Compared, both: _Compared) -> str:
    """What was answered otherwise."""
    again = (
        f"rows asked a second time, in reverse order, were answered otherwise on {walks.otherwise} of {walks.count} walks"
    )
    times = f"{plain.otherwise} of {plain.count} rows asked {TIMES} times of the run, alone and among others, were not alike"
    parts = [again] * bool(walks.otherwise) + [times] * bool(plain.otherwise)
    return (
        f"{' and '.join(parts)} (by {both.largest:.2g} in log p, where repeats differ by {both.noise:.2g}): answers "
        "depend on what was asked before, or several models answer"
    )


def _walks(asked: AskedRows, chosen: Sequence[int], rng: np.random.Generator) -> _Compared:
    """There and back."""
    quality, found = asked.quality, _Compared()
    for n, index in enumerate(chosen):
        rows = _walk_rows(asked.inputs, index, rng)
        try:
            out = asked.walk(rows, f"out {n}")
            back = [asked.walk(rows[::-1], f"back {n}")[::-1]]
            difference, noise = apart(out, back[0], quality.quantum, quality.batch_effect), 0.0
            if history_matters(difference, 0.0, quality.batch_effect_logs):
                back += [asked.walk(rows[::-1], f"back {n} again {k}")[::-1] for k in range(BACK_AGAIN)]
                noise = _farthest_apart(back, asked)
        except InputFailed:
            continue
        found.rows, found.pairs = max(found.rows, len(rows)), found.pairs + asked.calls(rows)
        found.add(difference, noise, quality.batch_effect_logs)
    return found


def _times(asked: AskedRows, decoys: ChosenDecoys, rng: np.random.Generator) -> _Compared:
    """Rows that were asked among those of the inputs, and are once more: together, in another order."""
    quality, found = asked.quality, _Compared()
    ask_decoys([decoy for of_row in decoys.times for decoy in of_row], asked.meter)
    kept = [(of_row[0].row, [known_answers(decoy, asked.meter) for decoy in of_row]) for of_row in decoys.times]
    asked.rows += sum(len(of_row) for of_row in decoys.times)
    known = [(row, answers) for row, answers in kept if all(answer is not None for answer in answers)]
    if not known:
        return found
    order = rng.permutation(len(known))
    rows = np.stack([known[i][0] for i in order])
    try:
        last = [asked.walk(rows, "decoys")]
        each = [np.stack([*known[i][1], answer])[:, None] for i, answer in zip(order, last[0], strict=True)]
        differences = [_farthest_apart(list(answers), asked) for answers in each]
        noise = 0.0
        if history_matters(max(differences), 0.0, quality.batch_effect_logs):
            last += [asked.walk(rows, f"decoys again {k}") for k in range(BACK_AGAIN)]
            noise = _farthest_apart(last, asked)
    except InputFailed:
        return found
    for difference in differences:
        found.add(difference, noise, quality.batch_effect_logs)
    found.pairs = len(known)
    return found


def _farthest_apart(answers: Sequence[Array], asked: AskedRows) -> float:
    """The largest difference between any two answers to the same rows."""
    quality = asked.quality
    return max(apart(a, b, quality.quantum, quality.batch_effect) for a, b in combinations(answers, 2))


def _walk_rows(inputs: AuditedInputs, index: int, rng: np.random.Generator) -> NDArray[Any]:
    """The input, and rows at log-spaced lengths towards a corner of the box, or of the data's range where it is open."""
    space, x = inputs.space, inputs.row(index)
    low, high = _range(inputs)
    corner = np.where(rng.integers(0, 2, size=low.shape) == 1, high, low)
    way = scaled_difference(x, corner, space)
    length = float(np.linalg.norm(way))
    if not length > 0:
        return x[None]
    displacement = inputs.results[index].displacement or inputs.displacement
    end, steps = length, RUNGS - 2
    start = np.clip(displacement, end / MOST_RATIO**steps, end / RATIO**steps)
    rows, _ = rows_along(x, space, way / length, np.geomspace(start, end, steps + 1))
    return np.concatenate([x[None], rows])


def _range(inputs: AuditedInputs) -> tuple[Array, Array]:
    """The box; where a feature has no bound, the data's range, or a step of the scale to either side if they agree there."""
    space, x = inputs.space, inputs.x.astype(np.float64)
    least, most = x.min(axis=0), x.max(axis=0)
    same = np.where(most > least, 0.0, space.scale)
    low = np.where(np.isfinite(space.lower), space.lower, least - same)
    return low, np.where(np.isfinite(space.upper), space.upper, most + same)
