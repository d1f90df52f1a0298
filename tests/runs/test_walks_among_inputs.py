"""The rows of walks stand among those of the inputs: where, at what cost, and what becomes of them when a run is stopped."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fimaudit import Report, audit
from fimaudit.measurement.integrity_cost import AMONG_ROWS, BETWEEN, MOST_INTEGRITY_ROWS, PLAIN, RUNGS, TYPICAL_ROWS, WALKS
from tests.runs.test_integrity import FEATURES, Remembers, dumped, honest

Array = NDArray[np.float64]

#: More inputs than are measured side by side.
X = np.random.default_rng(7).random((56, FEATURES))
OPTIONS: dict[str, Any] = {
    "lower": 0.0, "upper": 1.0, "queries": 60, "mode": "black-box", "integrity": True, "name": "m", "order": "interleaved",
}  # fmt: skip


class Noting:
    """The model, which keeps the calls that it was asked."""

    def __init__(self, model: Callable[[Any], Array] = honest) -> None:
        self.model, self.calls = model, []

    calls: list[Array]

    def __call__(self, batch: Any) -> Array:
        self.calls.append(np.array(batch, dtype=np.float64))
        return self.model(batch)

    def walks(self) -> list[tuple[int, float, float]]:
        """The input where each walk begins, and the shares of all rows that were asked before it went out and came back."""
        rows = np.concatenate(self.calls)
        at: dict[bytes, list[int]] = {}
        for place in np.flatnonzero(np.minimum(rows, 1 - rows).max(axis=1) < 1e-6):  # a corner of the box
            at.setdefault(rows[place].tobytes(), []).append(int(place))
        starts = [int(np.flatnonzero((rows[places[0] - RUNGS + 1] == X).all(axis=1))[0]) for places in at.values()]
        return [
            (start, out / len(rows), back / len(rows)) for start, (out, back, *_) in zip(starts, at.values(), strict=True)
        ]


def row_by_row(batch: Any) -> Array:
    """Answers whose last digits do not depend on other rows."""
    return np.concatenate([honest(row[None]) for row in np.asarray(batch)])


def run(model: Callable[[Any], Array] = honest, x: Array = X, **changes: Any) -> Report:
    return audit(model, x, **{**OPTIONS, **changes})


def same(one: Report, other: Report) -> None:
    assert one.integrity == other.integrity
    assert dumped(one) == dumped(other)


@pytest.mark.parametrize("seed", range(4))
def test_ways_out_and_back_lie_anywhere_in_the_run_in_this_order(seed: int) -> None:
    model = Noting()
    report = run(model, seed=seed)
    walks = model.walks()
    assert len(walks) == WALKS
    inputs = 1 - sum(check.rows for check in report.integrity[2:]) / report.summary.queries
    pilot = 1.2 / len(X)  # it takes little more rows than an input
    assert all(pilot < out < back <= inputs for _, out, back in walks)  # after the pilot, before what needs results


def test_over_seeds_they_come_in_every_third_of_the_run() -> None:
    places = []
    for seed in range(8):
        model = Noting()
        run(model, seed=seed)
        places += [place for _, *ways in model.walks() for place in ways]
    thirds = np.bincount((3 * np.array(places)).astype(int), minlength=3)
    assert (thirds >= 3).all(), places


def test_they_cost_what_the_plan_says_and_no_result_depends_on_them() -> None:
    checked, free = run(), run(integrity=False)
    rows = [check.rows for check in checked.integrity]
    assert rows[0] == WALKS * 2 * RUNGS + 24  # there and back, and decoys
    assert rows[0] + rows[1] - (PLAIN + BETWEEN) == AMONG_ROWS  # all but the decoys' last time
    assert checked.summary.queries - free.summary.queries == sum(rows) <= 1.2 * TYPICAL_ROWS
    assert dumped(checked) == dumped(free)


def test_a_model_that_is_suspected_takes_no_more_than_the_plan_allows() -> None:
    for seed in range(3):
        suspected = run(Remembers(0.5, 0.1), seed=seed)
        assert suspected.integrity[0].outcome == "contradicted"
        assert sum(check.rows for check in suspected.integrity) <= MOST_INTEGRITY_ROWS


@pytest.mark.skipif(
    os.environ.get("FIMAUDIT_TESTS_LAST_DIGITS") == "1",
    reason="this model is to answer each row alike whatever shares a call with it",
)
@pytest.mark.parametrize("changes", [{"batch": 1}, {"batch": 5}, {"batch": 64}, {"order": "inputs"}])
def test_other_calls_lead_to_the_same_report(changes: dict[str, Any]) -> None:
    """But for how many calls of a walk were repeated, from which the power is worked out."""
    plain, other = run(row_by_row), run(row_by_row, **changes)
    assert dumped(plain) == dumped(other)
    counted = {"calls_repeated", "noticed_share_0.1", "noticed_share_0.5"}
    numbers = [[{k: v for k, v in c.numbers.items() if k not in counted} for c in r.integrity] for r in (plain, other)]
    assert numbers[0] == numbers[1]
    assert [check.outcome for check in plain.integrity] == [check.outcome for check in other.integrity]
    assert plain.summary.queries == other.summary.queries


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8, 0.9, 0.97])
def test_killed_anywhere_and_resumed_it_is_the_same_run(tmp_path: Path, share: float) -> None:
    whole = run(out=tmp_path / "whole", batch=4)
    left = share * whole.summary.queries

    def killed(batch: Any) -> Array:
        nonlocal left
        left -= len(batch)
        if left < 0:
            raise KeyboardInterrupt
        return honest(batch)

    with pytest.raises(KeyboardInterrupt):
        run(killed, out=tmp_path / "cut", batch=4)
    again = run(out=tmp_path / "cut", batch=4, resume=True)
    same(again, whole)
    assert 0 <= again.summary.queries - whole.summary.queries <= 4  # the call that died with its process


def test_a_budget_spent_again_and_again_leads_to_the_same_report(tmp_path: Path) -> None:
    whole = run(out=tmp_path / "whole")
    total = whole.summary.queries
    for share in (0.3, 0.5, 0.8, 0.99):
        budget = int(share * total)
        cut = run(out=tmp_path / "cut", budget=budget, resume=(tmp_path / "cut").exists())
        assert cut.summary.queries <= budget
    again = run(out=tmp_path / "cut", resume=True)
    same(again, whole)
    assert again.summary.queries == total


def test_a_budget_that_reaches_exactly_is_enough_for_checks_that_were_begun_among_the_inputs(tmp_path: Path) -> None:
    """What was asked among the inputs is not reserved a second time."""
    reached = []
    for budget in range(2900, 4600, 100):
        report = run(budget=budget, x=X[:24])
        assert report.summary.queries <= budget
        reached.append(bool(report.integrity))
    assert reached == sorted(reached)  # once it reaches, a larger one does
    assert reached[-1]


def test_from_an_input_that_fails_no_walk_begins() -> None:
    """Another takes its place, drawn from the seed too."""
    planned = Noting()
    run(planned)
    starts = {index for index, *_ in planned.walks()}

    def failing(batch: Any) -> Array:
        answers = honest(batch)
        near = np.linalg.norm(np.asarray(batch)[:, None] - X[sorted(starts)], axis=2) < 0.5
        answers[near.any(axis=1)] = np.nan
        return answers

    model = Noting(failing)
    report = run(model)
    assert {s.index for s in report.inputs if s.status == "failed"} == starts
    assert report.integrity[0].numbers["walks"] == WALKS
    assert report.integrity[0].outcome == "ok"


def test_of_a_focus_walks_begin_at_inputs_that_are_measured_in_full() -> None:
    model = Noting()
    report = run(model, focus="top:6", order="inputs")
    assert report.integrity[0].numbers["walks"] == WALKS
    full = {s.index for s in report.inputs if "screened" not in s.flags}
    assert {index for index, *_ in model.walks()} <= full
    assert max(back for *_, back in model.walks()) <= 1 - sum(c.rows for c in report.integrity[2:]) / report.summary.queries
