"""Whether calls go out input by input or in random turns: the same report, whatever becomes of the run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fimaudit import Report, audit
from fimaudit.errors import UsageError
from fimaudit.measurement.integrity_cost import BETWEEN, DECOY_TIMES, PLAIN
from tests.runs.test_same_numbers import X, facts, sensitive

#: Twelve inputs, with the checks and their decoys.
OPTIONS: dict[str, Any] = {"queries": 180, "name": "m", "integrity": True, "lower": -4.0, "upper": 4.0}


def run(model: Callable[[Any], Any] = sensitive, **changes: Any) -> Report:
    return audit(model, X, **{**OPTIONS, "order": "interleaved", **changes})


def comparable(report: Report) -> dict[str, Any]:
    """All but times, budget and the order itself."""
    whole = facts(report)
    whole["settings"].pop("order")
    return whole


def nearest(batch: Any) -> NDArray[np.int64]:
    """Which of the inputs each row lies next to."""
    return np.asarray(np.linalg.norm(np.asarray(batch)[:, None] - X[None], axis=2).argmin(axis=1))


def noting(asked: list[tuple[int, int]]) -> Callable[[Any], Any]:
    """The model, which keeps of each call the input it is about, and its number of rows."""

    def model(batch: Any) -> Any:
        asked.append((int(np.bincount(nearest(batch)).argmax()), len(batch)))
        return sensitive(batch)

    return model


def test_both_orders_lead_to_the_same_report() -> None:
    asked: dict[str, list[tuple[int, int]]] = {"inputs": [], "interleaved": []}
    reports = {order: run(noting(calls), order=order, batch=3) for order, calls in asked.items()}
    assert reports["inputs"].settings["order"] == "inputs"
    assert comparable(reports["interleaved"]) == comparable(reports["inputs"])
    assert [check.outcome for check in reports["inputs"].integrity][:2] == ["ok", "ok"]
    assert sorted(asked["interleaved"]) == sorted(asked["inputs"])  # the same calls
    turns = {order: sum(a[0] != b[0] for a, b in pairwise(calls)) for order, calls in asked.items()}
    assert turns["interleaved"] > 2 * turns["inputs"]


@pytest.mark.parametrize("order", ["inputs", "interleaved"])
def test_a_budget_spent_and_resumed_is_the_same_run(tmp_path: Path, order: str) -> None:
    """Also with the other order, and with decoys that an earlier process asked."""
    whole = run(out=tmp_path / "whole", order="inputs")
    total = whole.summary.queries
    for share in (0.3, 0.6, 0.97):
        budget = int(share * total)
        spent = run(out=tmp_path / "cut", order=order, budget=budget, resume=(tmp_path / "cut").exists())
        assert spent.summary.queries <= budget
    again = run(out=tmp_path / "cut", resume=True)
    assert comparable(again) == comparable(whole)
    assert not (tmp_path / "cut" / "answers.bin").exists()


@pytest.mark.parametrize("share", [0.15, 0.5, 0.97])
def test_killed_anywhere_and_resumed_it_asks_nothing_twice(tmp_path: Path, share: float) -> None:
    whole = run(out=tmp_path / "whole", batch=30)
    left = share * whole.summary.queries

    def killed(batch: Any) -> Any:
        nonlocal left
        left -= len(batch)
        if left < 0:
            raise KeyboardInterrupt
        return sensitive(batch)

    with pytest.raises(KeyboardInterrupt):
        run(killed, out=tmp_path / "cut", batch=30)
    again = run(out=tmp_path / "cut", batch=30, resume=True)
    counted = [one.summary.queries for one in (again, whole)]
    assert counted[1] <= counted[0] <= counted[1] + 30  # the call that died with its process
    one, other = comparable(again), comparable(whole)
    for side in (one, other):
        side["summary"].pop("queries"), side["summary"].pop("requests")
    assert one == other


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_budget_finishes_as_many_inputs_in_random_turns(share: float) -> None:
    total = run(integrity=False).summary.queries
    budget = int(share * total)
    measured = {o: run(integrity=False, budget=budget, order=o).data["measured"] for o in ("inputs", "interleaved")}
    assert measured["interleaved"] == measured["inputs"] >= int(share * len(X)) - 1


def test_decoys_are_asked_among_the_inputs_and_cost_what_is_said() -> None:
    asked: list[tuple[int, int]] = []
    report = run(noting(asked))
    history = report.integrity[0]
    assert history.numbers["decoys"] == PLAIN + BETWEEN
    assert history.numbers["decoys_otherwise"] == 0
    assert report.summary.queries - run(integrity=False).summary.queries == sum(check.rows for check in report.integrity)
    alone = [place for place, (_, rows) in enumerate(asked) if rows == 1]
    among = [place for place in alone if 12 < place < len(asked) - 60]
    assert len(among) >= (PLAIN + BETWEEN) * DECOY_TIMES // 2


def test_another_order_is_refused_in_a_sentence() -> None:
    with pytest.raises(UsageError, match="expected order inputs or interleaved, got 'random'"):
        run(order="random")
