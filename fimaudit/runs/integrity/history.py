"""Do answers depend on what was asked before? The same rows there and back, and at several times of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fimaudit.audit_report import IntegrityCheck
from fimaudit.engines.decoys import known_answers
from fimaudit.errors import InputFailed
from fimaudit.estimation.integrity import ERROR, detection_probability, history_matters, history_threshold, log_difference
from fimaudit.measurement.integrity_cost import BACK_AGAIN, DECOY_TIMES
from fimaudit.runs.integrity.decoys import ChosenDecoys
from fimaudit.runs.integrity.findings import Outcome, check_result
from fimaudit.runs.integrity.rows import AskedRows
from fimaudit.runs.integrity.walks import Walk, ways_apart

__all__ = ["check_history"]

Array = NDArray[np.float64]

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


def check_history(
    asked: AskedRows, walked: Sequence[Walk], decoys: ChosenDecoys, rng: np.random.Generator
) -> IntegrityCheck:
    """The same rows outwards from an input to a random corner and in reverse, and plain rows at several times of the run.

    Args:
        asked: asks, and knows what was asked.
        walked: there and back.
        decoys: the plain rows.
        rng: of the order in which they are asked once more.
    """
    before = asked.rows
    walks, plain = _walks(asked, walked), _times(asked, decoys, rng)
    both = walks if walks.largest >= plain.largest else plain
    least, pairs = history_threshold(both.noise, asked.quality.batch_effect_logs), walks.pairs + plain.pairs
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
        **{f"noticed_share_{share}": detection_probability(share, pairs) for share in SHARES},
        "false_alarm": ERROR if asked.quality.random else 0.0,
    }
    outcome: Outcome = "ok"
    if not walks.count and not plain.count:
        outcome, finding = "not_applicable", "no input could be asked"
    elif walks.otherwise or plain.otherwise:
        outcome, finding = "contradicted", _against(walks, plain, both)
    else:
        power = " and ".join(
            f"{share:.0%} of the calls with probability {detection_probability(share, pairs):.2f}" for share in SHARES
        )
        within = f" (within {both.largest:.2g} in log p{_repeats(both)})" if both.largest else ""
        finding = (
            f"{walks.count} walks of {walks.rows} rows, there and back, and {plain.count} rows asked {TIMES} times of the "
            f"run were answered alike{within}; a second version that moves log p by more than {least:.2g} would have been "
            f"noticed here, as a contradiction or as answers that are random, if it took {power}"
        )
    return check_result("history", outcome, HISTORY, finding, numbers, asked.rows - before)


def _repeats(compared: _Compared) -> str:
    """What repeats differ by, where that is the reason why a difference is none."""
    return f", where repeats differ by {compared.noise:.2g}: answers are random" if compared.noise else ""


def _against(walks: _Compared, plain: _Compared, both: _Compared) -> str:
    """What was answered otherwise."""
    again = (
        f"rows asked a second time, in reverse order, were answered otherwise on {walks.otherwise} of {walks.count} walks"
    )
    times = f"{plain.otherwise} of {plain.count} rows asked {TIMES} times of the run, alone and among others, were not alike"
    parts = [words for words, compared in ((again, walks), (times, plain)) if compared.otherwise]
    return (
        f"{' and '.join(parts)} (by {both.largest:.2g} in log p, where repeats differ by {both.noise:.2g}): answers "
        "depend on what was asked before, or several models answer"
    )


def _walks(asked: AskedRows, walked: Sequence[Walk]) -> _Compared:
    """There and back."""
    quality, found = asked.quality, _Compared()
    for walk in walked:
        out, back = known_answers(walk.out, asked.meter), known_answers(walk.back, asked.meter)
        asked.rows += sum(known.shape[0] * known.shape[1] for known in (out, back) if known is not None)
        if out is None or back is None:
            continue
        asked.seen += list(out[0])
        noise = _farthest_apart(list(back), asked) if len(back) > 1 else 0.0
        rows = walk.out.rows
        found.rows, found.pairs = max(found.rows, len(rows)), found.pairs + asked.calls(rows)
        found.add(ways_apart(out[0], back[0], quality), noise, quality.batch_effect_logs)
    return found


def _times(asked: AskedRows, decoys: ChosenDecoys, rng: np.random.Generator) -> _Compared:
    """Rows that were asked among those of the inputs, and are once more: together, in another order."""
    quality, found = asked.quality, _Compared()
    kept = [(of_row[0].rows[0], [known_answers(decoy, asked.meter) for decoy in of_row]) for of_row in decoys.times]
    asked.rows += sum(len(of_row) for of_row in decoys.times)
    complete = [(row, [one[0, 0] for one in answers if one is not None]) for row, answers in kept]
    known = [(row, answers) for row, answers in complete if len(answers) == DECOY_TIMES]
    if not known:
        return found
    asked.seen += [answers[0] for _, answers in known]
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
    return max(log_difference(a, b, quality.quantum, quality.batch_effect) for a, b in combinations(answers, 2))
