"""Same calls, same numbers: nothing that decides when an input is measured, or beside which, moves a digit of it.

The models' last digits depend on the number of rows in a call and on a row's place in it, as those of some matrix products
do, so that a test here fails where an input's rows share a call with another's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fimaudit import InputDomain, audit
from fimaudit.audit_report import Report
from fimaudit.data.arrays import Inputs
from fimaudit.engines.work import Work, measure_inputs
from fimaudit.measurement.pilot import choose_steps
from fimaudit.measurement.settings import Settings
from fimaudit.models.meter import Meter
from fimaudit.models.opening import open_classifier
from fimaudit.storage.answers import ANSWERS

X = np.random.default_rng(5).standard_normal((12, 9))
V = np.random.default_rng(6).standard_normal((9, 4)) / 2


def sensitive(batch: Any) -> Any:
    """Smooth; its last digits (1e-7) depend on the call."""
    x = np.asarray(batch, np.float64).reshape(len(batch), -1)
    z = np.tanh(x) @ V
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    n, classes = p.shape
    mixed = (np.arange(n)[:, None] * 7919 + np.arange(classes) * 104729 + n * 31) % 1009
    return p * (1 + 1e-7 * (mixed / 504.5 - 1))


def stepped(batch: Any) -> Any:
    """Piecewise constant, so that values are at a finite scale; its last digits depend on the call too."""
    return sensitive(np.round(np.asarray(batch) * 4) / 4)


def network() -> Any:
    """A torch module with a product whose digits may depend on the batch."""
    import torch

    torch.manual_seed(0)
    layers = [torch.nn.Linear(9, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4)]
    return torch.nn.Sequential(*layers)


#: Settings that lead an input down different ways: adaptive, focused, whole Jacobians, sketches, witnesses.
WAYS: dict[str, dict[str, Any]] = {
    "few rows": {"queries": 30},
    "whole jacobian": {"queries": 80},
    "adaptive": {"queries": 200, "precision": 0.2},
    "focus": {"queries": 60, "focus": "top:3"},
    "witness": {"queries": 60, "witness": True, "profile": "full"},
    "many classes behind steps": {"queries": 40, "model": stepped},
    "by derivatives": {"queries": 40, "model": network, "mode": "white-box"},
}


def run(out: Path | None, way: str, **changes: Any) -> Report:
    options = {key: value for key, value in WAYS[way].items() if key != "model"}
    model = WAYS[way].get("model", sensitive)
    x = changes.pop("x", X)
    if model is network:
        return audit(network(), x.astype(np.float32), name="m", out=out, link="softmax", **options, **changes)
    return audit(model, x, name="m", out=out, **options, **changes)


def facts(report: Report) -> dict[str, Any]:
    """All of a report but times, and a budget that is no part of the numbers."""
    whole = report.model_dump(mode="json", exclude={"environment"})
    whole["settings"].pop("budget")
    return whole


@pytest.mark.parametrize("way", WAYS)
def test_a_budget_spent_at_five_points_and_resumed_is_the_same_run(tmp_path: Path, way: str) -> None:
    whole = run(tmp_path / "whole", way)
    total = whole.summary.queries
    for share in (0.02, 0.25, 0.5, 0.77, 0.98):
        spent = run(tmp_path / "cut", way, budget=max(1, int(share * total)), resume=(tmp_path / "cut").exists())
        assert spent.summary.queries <= max(1, int(share * total))
    again = run(tmp_path / "cut", way, resume=True)
    assert facts(again) == facts(whole)  # the count of rows too: nothing was asked twice
    assert not (tmp_path / "cut" / ANSWERS).exists()
    assert (tmp_path / "cut" / "inputs.parquet").read_bytes() == (tmp_path / "whole" / "inputs.parquet").read_bytes()


@pytest.mark.parametrize("way", ["few rows", "adaptive", "focus"])
def test_each_budget_from_the_first_row_on_is_gone_on_with(tmp_path: Path, way: str) -> None:
    """Within the preflight, the pilot, the screening and the inputs: one more row of budget at a time, roughly."""
    whole = run(tmp_path / "whole", way, x=X[:4])
    for budget in range(1, whole.summary.queries, 17):
        spent = run(tmp_path / "cut", way, x=X[:4], budget=budget, resume=budget > 1)
        assert spent.summary.queries <= budget
    assert facts(run(tmp_path / "cut", way, x=X[:4], resume=True)) == facts(whole)


SCRIPT = """
import os, signal, sys
from pathlib import Path
from tests.runs import test_same_numbers as same

folder, way, most = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
asked = 0

def killed(name):
    plain = getattr(same, name)
    def model(batch):
        global asked
        asked += len(batch)
        if asked > most:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(batch)
    return model

for name in ("sensitive", "stepped"):
    setattr(same, name, killed(name))
same.WAYS = {key: {**one, **({"model": same.stepped} if "model" in one else {})} for key, one in same.WAYS.items()}
same.run(folder, way, resume=(folder / "journal.jsonl").exists(), overwrite=not (folder / "journal.jsonl").exists())
"""


@pytest.mark.parametrize("way", ["few rows", "adaptive", "focus", "many classes behind steps"])
def test_kills_lead_to_the_same_numbers(tmp_path: Path, way: str) -> None:
    whole = run(tmp_path / "whole", way)
    root = Path(__file__).parents[2]
    for share in (0.3, 0.2, 0.2):  # of the rows, further on each time
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "cut"), way, str(int(share * whole.summary.queries))]
        assert subprocess.run(command, cwd=root, capture_output=True, env=os.environ).returncode == -signal.SIGKILL
    again, same = facts(run(tmp_path / "cut", way, resume=True)), facts(whole)
    # A call that died with its process is counted and asked again: it may have been answered.
    for one in (again, same):
        counts = one["summary"].pop("queries"), one["summary"].pop("requests")
        assert counts[1] <= whole.summary.requests + 3
    assert again == same


def test_focus_measures_an_input_as_a_run_of_all_does(tmp_path: Path) -> None:
    every = audit(sensitive, X, name="m", queries=60)
    some = run(None, "focus")
    chosen = [s for s in some.inputs if "screened" not in s.flags]
    assert 3 <= len(chosen) < len(X)
    for one in chosen:
        assert one == every.inputs[one.index]


@given(st.permutations(range(len(X))), st.lists(st.integers(1, 12), min_size=1, max_size=4), st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_neither_order_nor_batch_moves_a_digit(order: list[int], cuts: list[int], adaptive: bool) -> None:
    """Inputs measured in any order, in any pieces, as engines and workers would hand them out."""
    meter = Meter(open_classifier(sensitive, input_shape=(9,), dtype="float64"))
    space = InputDomain(unit="u").resolve(X, "float64")
    chosen = Settings(60, 0.95, 0)
    steps = choose_steps(meter, X, space, chosen)
    if adaptive:
        chosen = replace(chosen, precision=0.3)
    work = Work(Inputs(X), space, chosen, steps)
    whole = {o.result.index: (o.result, o.rows, o.requests) for o in measure_inputs(range(len(X)), work, meter)}
    start, found = 0, {}
    for cut in [*cuts, len(X)]:
        piece, start = order[start : start + cut], start + cut
        for o in measure_inputs(piece, work, meter):
            found[o.result.index] = (o.result, o.rows, o.requests)
    assert found == whole
