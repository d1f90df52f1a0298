"""Whole audits of plain functions: truth, reproducibility, budget, failures, and runs that were killed."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fimaudit import Report, audit, sensitivity
from fimaudit.audit_report import json_schema
from fimaudit.errors import DataError, ModelFailure, RunFolderError, TargetError, UsageError
from fimaudit.results import Sensitivity
from fimaudit.storage.journal import JOURNAL, REPORT
from fimaudit.storage.tables import read_inputs_table
from tests.cases import CASES, Case, SoftmaxModel, linear, normal_inputs, tanh_network

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = tanh_network(0, 3, 12)
X = normal_inputs(0, 5, 12)
WIDE = linear(3, 4, 400, 3.0)


def audit_case(case: Case, **changes: Any) -> Report:
    bounds = {"lower": case.lower, "upper": case.upper}
    if case.frozen:
        from fimaudit import InputDomain

        bounds = {"domain": InputDomain(**bounds, frozen=case.frozen)}
    return audit(case.model, case.x, **{"dtype": case.dtype, "name": "case", **bounds, **changes})


def facts(report: Report) -> dict[str, Any]:
    """All that must be the same in equal runs."""
    return {k: v for k, v in report.model_dump(mode="json").items() if k != "environment"}


def uncounted(report: Report) -> dict[str, Any]:
    """The same without the rows and calls of the run as a whole: an input that is cut off is asked again."""
    whole = facts(report)
    return {**whole, "summary": {k: v for k, v in whole["summary"].items() if k not in ("queries", "requests")}}


@pytest.fixture(scope="module")
def audited() -> dict[str, Report]:
    from fimaudit.engines.driver import small_algebra

    with small_algebra():
        return {case.name: audit_case(case, witness=False) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_values_are_near_the_truth(case: Case, audited: dict[str, Report]) -> None:
    """Whole Jacobians within 1 % (5 % where float32 answers limit the step); random directions within 4 standard errors."""
    for found in audited[case.name].inputs:
        truth = case.truth(found.index)
        exact = found.method.startswith("basis")
        near = (0.05 if case.model.answers == "float32" else 0.01) if exact else 4 * np.sqrt(2 / 150)
        assert found.status == "ok", found.reason
        assert found.spectral_norm.value == pytest.approx(truth.spectral, rel=near)
        assert found.peak_spectral_norm.value == pytest.approx(truth.peak, rel=near)
        assert found.margin_radius.value == pytest.approx(truth.radius, rel=near)
        assert found.trace.value == pytest.approx(truth.trace, rel=near)
        assert found.effective_rank == pytest.approx(truth.trace / truth.spectral, rel=2 * near)


def test_intervals_of_whole_audits_hold(audited: dict[str, Report]) -> None:
    """54 inputs, four numbers each, nominal 95 %: at most 5 % and 3 standard errors outside."""
    outside, total = 0, 0
    for case in CASES:
        for found in audited[case.name].inputs:
            truth = case.truth(found.index)
            for interval, value in (
                (found.spectral_norm, truth.spectral),
                (found.peak_spectral_norm, truth.peak),
                (found.margin_radius, truth.radius),
                (found.trace, truth.trace),
            ):
                assert interval.lower is not None
                assert interval.upper is not None
                outside += not interval.lower <= value <= interval.upper
                total += 1
    assert outside <= 0.05 * total + 3 * np.sqrt(0.05 * 0.95 * total), (outside, total)


def test_methods_follow_the_number_of_features(audited: dict[str, Report]) -> None:
    methods = {name: {s.method for s in report.inputs} for name, report in audited.items()}
    assert methods["linear K=2 d=1"] == {"basis-central"}
    assert methods["tanh K=3 d=70, central once"] == {"basis-central"}
    assert methods["tanh K=3 d=150, forward"] == {"basis-forward"}
    assert methods["tanh K=10 d=300 orthonormal"] == {"orthonormal"}
    assert methods["linear K=30 d=5000"] == {"rademacher"}
    assert methods["tanh K=3 d=3000 float32"] == {"orthonormal"}


@pytest.mark.parametrize("model", [QUICK, WIDE], ids=["whole Jacobian", "random directions"])
def test_same_seed_same_report_bit_for_bit(model: SoftmaxModel, tmp_path: Path) -> None:
    x = normal_inputs(1, 4, model.jacobian(X[0]).shape[1] if model.U is None else 12)
    runs = [audit(model, x, name="m", queries=80, out=tmp_path / str(i)) for i in range(2)]
    assert facts(runs[0]) == facts(runs[1])
    one, two = (json.loads((tmp_path / str(i) / REPORT).read_text()) for i in range(2))
    del one["environment"], two["environment"]
    assert one == two
    other = audit(model, x, name="m", queries=80, seed=1)
    if model is WIDE:
        assert other.inputs[0].spectral_norm != runs[0].inputs[0].spectral_norm


@pytest.mark.parametrize("case", [c for c in CASES if "d=300 " in c.name or "image" in c.name], ids=lambda c: c.name)
def test_batch_size_changes_no_result(case: Case, audited: dict[str, Report]) -> None:
    for batch in (1, 7, 1000):
        for one, other in zip(audited[case.name].inputs, audit_case(case, batch=batch, witness=False).inputs, strict=True):
            assert other.spectral_norm.value == pytest.approx(one.spectral_norm.value, rel=1e-6)
            assert other.margin_radius.upper == pytest.approx(one.margin_radius.upper, rel=1e-6)


@pytest.mark.parametrize("queries", [2, 3, 5, 9, 20])
@pytest.mark.parametrize("features", [1, 2, 7, 400])
def test_few_queries_give_limits_that_hold_or_none(queries: int, features: int) -> None:
    model = linear(1, 3, features)
    report = audit(model, normal_inputs(2, 3, features), queries=queries, name="m")
    for found in report.inputs:
        assert found.status in ("ok", "below_detection")
        case = Case("few", model, normal_inputs(2, 3, features))
        norm = found.spectral_norm
        if queries <= 6 and found.method == "rademacher":
            assert norm.upper is None  # a gradient of one feature might have met equal signs throughout
        if norm.value is not None:
            assert norm.lower <= norm.value
        if norm.upper is not None:
            assert norm.upper >= case.truth(found.index).spectral * 0.99


@pytest.mark.parametrize("count", [1, 5, 30])
@pytest.mark.parametrize("features", [2, 300, 1000])
def test_pilot_and_checks_cost_at_most_a_tenth(count: int, features: int) -> None:
    model = tanh_network(1, 3, features)
    report = audit(model, normal_inputs(1, count, features), queries=200, name="m")
    most = 1.1 * 200 * count + 5  # five rows of preflight beside
    assert report.summary.queries <= most
    assert all(s.queries <= 200 for s in report.inputs)
    assert min(s.queries for s in report.inputs) >= (100 if features > 2 else 8)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of the C library of Linux")
def test_arrays_of_megabytes_are_not_fetched_page_by_page() -> None:
    code = """
import resource
import numpy as np
from fimaudit import audit
rng = np.random.default_rng(0)
model = lambda x: np.stack([1 / (1 + np.exp(-x[:, 0])), 1 / (1 + np.exp(x[:, 0]))], axis=1)
audit(model, rng.standard_normal((2, 30)), queries=50, name="m")
faults = [0]
for _ in range(11):
    some = [np.ones(2**18) for _ in range(6)]
    del some
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[1])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout.split()[-1]) < 600  # 30,000 where each page is new each time


def test_a_million_features_in_bounded_memory() -> None:
    """One float64 row is 8 MB; 200 of them would be 1.6 GB."""
    d = 1_000_000
    g = np.random.default_rng(0).standard_normal(d)

    def model(batch: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-(batch @ g) / 1e3))
        return np.stack([1 - p, p], axis=1)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    x = np.random.default_rng(1).standard_normal((1, d))
    report = audit(model, x, queries=60, name="m")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    p = model(x)[0, 1]
    truth = p * (1 - p) * (g @ g) / 1e6
    assert report.inputs[0].spectral_norm.lower <= truth <= report.inputs[0].spectral_norm.upper
    assert grown < 500, f"{grown:.0f} MB"


def test_budget_ends_cleanly_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    whole = audit(WIDE, normal_inputs(1, 5, 400), queries=60, name="m", out=tmp_path / "whole")
    arguments: dict[str, Any] = {"queries": 60, "name": "m", "out": tmp_path / "run"}
    budget = whole.summary.queries // 2
    partial = audit(WIDE, normal_inputs(1, 5, 400), budget=budget, **arguments)
    assert partial.summary.queries <= budget
    assert 0 < len(partial.inputs) < 5
    assert any("of 5 inputs were measured: the budget of" in warning for warning in partial.warnings)
    assert Report.read(tmp_path / "run") == partial
    for done, same in zip(partial.inputs, whole.inputs, strict=False):
        assert done == same
    rest = audit(WIDE, normal_inputs(1, 5, 400), budget=10**6, resume=True, **arguments)
    assert rest.inputs == whole.inputs
    again = rest.summary.queries - whole.summary.queries  # of the input that the budget cut off
    assert 0 <= again < 60
    assert uncounted(rest)["summary"] == uncounted(whole)["summary"]
    assert rest.step == whole.step


def test_a_budget_too_small_for_the_first_look_leaves_a_valid_report(tmp_path: Path) -> None:
    report = audit(QUICK, X, budget=1, name="m", out=tmp_path / "run")
    assert report.inputs == []
    assert report.summary.queries <= 1
    assert "0 of 5 inputs were measured" in report.warnings[-1]
    assert Report.read(tmp_path / "run") == report
    assert len(audit(QUICK, X, name="m", out=tmp_path / "run", resume=True).inputs) == 5


class Fails:
    """Answers like QUICK, but not near the inputs of these positions."""

    __qualname__ = "m"

    def __init__(self, positions: tuple[int, ...], how: Callable[[np.ndarray], np.ndarray]) -> None:
        self._bad, self._how = X[list(positions)], how

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        near = np.linalg.norm(batch[:, None] - self._bad[None], axis=2).min(axis=1) < 1.0
        return self._how(batch) if near.any() else QUICK(batch)


def raises(batch: np.ndarray) -> np.ndarray:
    raise RuntimeError("out of patience")


def nan(batch: np.ndarray) -> np.ndarray:
    return np.full((len(batch), 3), np.nan)


@pytest.mark.parametrize(("how", "words"), [(raises, "RuntimeError .* out of patience"), (nan, "finite|NaN")])
@pytest.mark.parametrize("positions", [(3,), (2, 4), (1, 2, 3, 4)])
def test_inputs_that_fail_later_are_named_and_the_run_goes_on(
    how: Callable[[np.ndarray], np.ndarray], words: str, positions: tuple[int, ...], tmp_path: Path
) -> None:
    report = audit(Fails(positions, how), X, queries=60, name="m", out=tmp_path / "run")
    import re

    for found in report.inputs:
        assert found.status == ("failed" if found.index in positions else "ok")
        if found.status == "failed":
            assert re.search(words, found.reason or "")
            assert found.spectral_norm.value is None
            assert found.queries == 0
    assert report.summary.statuses["failed"] == len(positions)
    assert report.summary.spectral_norm.median.value is not None
    assert Report.read(tmp_path / "run") == report


def test_when_every_input_fails_the_run_has_failed(tmp_path: Path) -> None:
    class Tires:
        """Answers preflight and pilot, then no more."""

        __qualname__ = "m"

        def __init__(self, limit: int) -> None:
            self.rows, self.limit = 0, limit

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            self.rows += len(batch)
            if self.rows > self.limit:
                raise RuntimeError("gone")
            return QUICK(batch)

    def rows_of_the_start() -> int:
        file = tmp_path / "whole" / JOURNAL
        audit(QUICK, X, queries=60, name="m", out=file.parent)
        return int(json.loads(file.read_text().splitlines()[1])["asked"][0])

    with pytest.raises(ModelFailure, match=r"no input could be measured; the first failed with: .*gone"):
        audit(Tires(rows_of_the_start()), X, queries=60, name="m", out=tmp_path / "run")
    report = Report.read(tmp_path / "run")  # there is one all the same
    assert report.summary.statuses == {"failed": 5}
    with pytest.raises(TargetError, match=r"cannot be asked: .*gone"):  # within the pilot already: before the measurement
        audit(Tires(5), X, queries=60, name="m")


def test_a_model_that_answers_nan_at_first_is_wrong_use() -> None:
    with pytest.raises(UsageError, match=r"NaN|finite"):
        audit(Fails(range(4), nan), X, name="m")
    with pytest.raises(TargetError, match="cannot be asked: the model raised RuntimeError"):
        audit(Fails(range(4), raises), X, name="m")


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "one query": ({"queries": 1}, UsageError, "at least 2 queries an input"),
    "confidence of 1": ({"confidence": 1.0}, UsageError, "confidence from 0.5 to below 1"),
    "confidence of 95": ({"confidence": 95}, UsageError, "confidence from 0.5"),
    "no budget": ({"budget": 0}, UsageError, "budget of at least one row"),
    "no batch": ({"batch": 0}, UsageError, "batch of at least one row"),
    "negative batch": ({"batch": -3}, UsageError, "batch of at least one row"),
    "outside the bounds": ({"lower": 0, "upper": 1}, DataError, "within the bounds"),
    "labels of another length": ({"y": [1, 2]}, DataError, "one label for each"),
    "an option that no adapter knows": ({"temperature": 3}, UsageError, "temperature"),
    "white box of a function": ({"mode": "white-box"}, UsageError, "white-box|derivatives|differentiable"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_refused_before_the_first_question(name: str, tmp_path: Path) -> None:
    changes, kind, words = WRONG[name]
    asked: list[int] = []

    def model(batch: np.ndarray) -> np.ndarray:
        asked.append(len(batch))
        return QUICK(batch)

    with pytest.raises(kind, match=words):
        audit(model, X, out=tmp_path / "run", **changes)
    assert asked == []
    assert not (tmp_path / "run").exists()


def test_run_folder_rules(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = audit(QUICK, X, queries=60, name="m", out=run)
    with pytest.raises(RunFolderError, match="already holds a run"):
        audit(QUICK, X, queries=60, name="m", out=run)
    with pytest.raises(RunFolderError, match=r"another run .*queries was 60, is 61"):
        audit(QUICK, X, queries=61, name="m", out=run, resume=True)
    with pytest.raises(RunFolderError, match=r"another run .*data was"):
        audit(QUICK, X + 1, queries=60, name="m", out=run, resume=True)
    assert Report.read(run) == first
    again = audit(QUICK, X, queries=60, name="m", out=run, resume=True)
    assert facts(again) == facts(first)
    other = audit(QUICK, X, queries=61, name="m", out=run, overwrite=True)
    assert Report.read(run) == other
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(RunFolderError, match="not empty and holds no run"):
        audit(QUICK, X, queries=60, name="m", out=tmp_path / "mine")


def test_report_round_trips_and_fits_its_schema(tmp_path: Path, audited: dict[str, Report]) -> None:
    for name, report in audited.items():
        text = report.to_json()
        assert Report.model_validate_json(text) == report, name
        jsonschema.validate(json.loads(text), json_schema())
    report = audit(QUICK, X, y=[0, 1, 2, 0, 1], group=list("aabba"), queries=60, name="m", out=tmp_path / "run")
    jsonschema.validate(json.loads((tmp_path / "run" / REPORT).read_text()), json_schema())
    assert Report.read(tmp_path / "run") == report == Report.read(tmp_path / "run" / REPORT)
    assert read_inputs_table(tmp_path / "run" / "inputs.parquet") == report.inputs
    assert report.inputs_file == "inputs.parquet"
    assert [s.label for s in report.inputs] == [0, 1, 2, 0, 1]
    assert {name: sum(s.statuses.values()) for name, s in report.groups.items()} == {"a": 3, "b": 2}
    assert [s.index for s in report.inputs] == list(range(5))


def test_sensitivity_is_the_audit_of_one_input() -> None:
    found = sensitivity(QUICK, X[0], queries=60)
    assert isinstance(found, Sensitivity)
    assert found == audit(QUICK, X[:1], queries=60).inputs[0]


def test_progress_counts_rows_and_inputs() -> None:
    progress: list[tuple[int, int, int, int]] = []
    report = audit(QUICK, X, queries=60, progress=lambda *numbers: progress.append(numbers))
    rows = [t[0] for t in progress]
    assert rows == sorted(rows)
    assert progress[-1][0] == report.summary.queries
    assert progress[-1][2:] == (5, 5)


SCRIPT = """
import os, signal, sys
import numpy as np
from fimaudit import audit
from tests.cases import linear, normal_inputs

folder, kill_after = sys.argv[1], int(sys.argv[2])
model, rows = linear(3, 4, 400, 3.0), 0

def asked(batch):
    global rows
    rows += len(batch)
    with open(folder + ".asked", "a") as asked:
        print(len(batch), file=asked)
    if kill_after and rows > kill_after:
        os.kill(os.getpid(), signal.SIGKILL)
    return model(batch)

audit(asked, normal_inputs(1, 56, 400), queries=60, name="m", out=folder, resume=True)
"""


def run_script(folder: Path, kill_after: int) -> int:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(kill_after)], cwd=root, capture_output=True
    ).returncode


def test_a_killed_run_goes_on_to_the_same_report(tmp_path: Path) -> None:
    assert run_script(tmp_path / "whole", 0) == 0
    whole = Report.read(tmp_path / "whole")
    for kill_after in (3200, 100):  # within the second block of inputs, and within it again
        assert run_script(tmp_path / "killed", kill_after) == -signal.SIGKILL
    kept = (tmp_path / "killed" / JOURNAL).read_text().count('"input": ')
    assert 0 < kept < 56
    assert not (tmp_path / "killed" / REPORT).exists()
    assert run_script(tmp_path / "killed", 0) == 0
    again = Report.read(tmp_path / "killed")
    assert uncounted(again) == uncounted(whole)
    asked = [int(n) for n in (tmp_path / "killed.asked").read_text().split()]
    assert again.summary.queries == sum(asked) > whole.summary.queries  # what a kill cut off is counted too
    assert again.summary.requests == len(asked)
    assert read_inputs_table(tmp_path / "killed" / "inputs.parquet") == whole.inputs


@given(st.data())
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_journal_cut_at_any_byte_leads_to_the_same_report(tmp_path: Path, data: st.DataObject) -> None:
    whole = tmp_path / "whole"
    if not whole.exists():
        audit(QUICK, X[:3], queries=30, name="m", out=whole)
    shutil.rmtree(tmp_path / "cut", ignore_errors=True)
    (tmp_path / "cut").mkdir()
    text = (whole / JOURNAL).read_bytes()
    (tmp_path / "cut" / JOURNAL).write_bytes(text[: data.draw(st.integers(0, len(text)))])
    again = audit(QUICK, X[:3], queries=30, name="m", out=tmp_path / "cut", resume=True)
    first = Report.read(whole)
    assert uncounted(again) == uncounted(first)
    assert again.summary.queries >= first.summary.queries
    lines = [line for line in (tmp_path / "cut" / JOURNAL).read_bytes().splitlines() if b'{"asked"' not in line]
    assert lines == [line for line in text.splitlines() if b'{"asked"' not in line]


def test_other_labels_or_groups_are_another_run(tmp_path: Path) -> None:
    options: dict[str, Any] = {"queries": 30, "name": "m", "out": tmp_path / "run"}
    first = audit(QUICK, X, y=[0, 1, 2, 0, 1], group=list("aabba"), **options)
    assert facts(audit(QUICK, X, y=[0, 1, 2, 0, 1], group=list("aabba"), resume=True, **options)) == facts(first)
    for changes in ({"y": [0, 1, 2, 0, 2], "group": list("aabba")}, {"y": [0, 1, 2, 0, 1], "group": list("aabbb")}, {}):
        with pytest.raises(RunFolderError, match=r"holds another run \(labels and groups was .*use another folder"):
            audit(QUICK, X, resume=True, **changes, **options)
    assert facts(Report.read(tmp_path / "run")) == facts(first)


@pytest.mark.parametrize("bad", [0, 1, 4])
@pytest.mark.parametrize("how", ["NaN", "raises"])
def test_an_input_that_has_no_answer_fails_alone_wherever_it_stands(bad: int, how: str) -> None:
    def answers(batch: np.ndarray) -> np.ndarray:
        wrong = batch[:, 0] > 5
        if how == "raises" and wrong.any():
            raise ValueError("no such patient")
        p = 1 / (1 + np.exp(-np.tanh(batch).sum(axis=1)))
        return np.where(wrong[:, None], np.nan, np.stack([1 - p, p], axis=1))

    x = np.random.default_rng(0).normal(size=(8, 40))
    x[bad, 0] = 6.0
    report = audit(answers, x, queries=60, scale="raw")
    assert [one.index for one in report.inputs if one.status == "failed"] == [bad]
    x[:, 0] = 6.0
    with pytest.raises(UsageError, match=r"expected finite numbers|no such patient"):
        audit(answers, x, queries=60, scale="raw")
