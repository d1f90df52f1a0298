"""Runs from labels as a user has them: kept, cut off and resumed to the same numbers, gated, compared, verified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from fimaudit import Report, audit, compare, open_classifier
from fimaudit.cli import app
from fimaudit.runs.cost import label_rows
from fimaudit.runs.planning import plan
from fimaudit.storage.counterexamples import recheck_witnesses

X, Y = load_wine(return_X_y=True)
NAMES = np.array(["red", "white", "rose"])
MODEL = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
SOFT = make_pipeline(StandardScaler(), LogisticRegression(C=0.02)).fit(X, Y)
SOME = X[::20]


def answers(batch: np.ndarray) -> np.ndarray:
    return NAMES[MODEL.predict(batch)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labels") / "run"
    audit(answers, SOME, link="labels", queries=300, scale="std", out=out)
    return out


def test_texts_are_named_in_the_report_and_on_the_page(run):
    report = Report.read(run)
    texts = report.model["details"]["label_texts"]
    named = [texts[str(s.predicted_class)] for s in report.inputs]
    assert named == answers(SOME).tolist()
    page = (run / "report.html").read_text()
    assert all(name in page for name in set(named))
    assert report.summary.spectral_norm.median.value is None
    assert report.summary.margin_radius.median.value > 0


def test_a_spent_budget_goes_on_to_the_same_numbers(run, tmp_path):
    whole = Report.read(run)
    cut = audit(answers, SOME, link="labels", queries=300, scale="std", out=tmp_path / "cut", budget=1000)
    assert 0 < len(cut.inputs) < len(whole.inputs)
    resumed = audit(answers, SOME, link="labels", queries=300, scale="std", out=tmp_path / "cut", resume=True)
    assert [s.margin_radius for s in resumed.inputs] == [s.margin_radius for s in whole.inputs]
    assert resumed.summary.queries == whole.summary.queries


def test_rules_on_the_radius_are_decided(run, tmp_path):
    lower = Report.read(run).summary.margin_radius.median.lower
    for limit, said in ((lower / 2, "pass"), (99.0, "fail")):
        policy = tmp_path / f"{said}.yaml"
        rule = f"{{rule: quantile, metric: margin_radius, statistic: median, at_least: {limit}}}"
        policy.write_text(f"rules:\n  - {rule}\n")
        result = CliRunner().invoke(app, ["gate", str(run), "--policy", str(policy)])
        assert result.exit_code == (said == "fail"), result.output
        assert said in result.output


def test_two_runs_are_compared_by_their_radii(run, tmp_path):
    audit(lambda b: SOFT.predict(b), SOME, link="labels", queries=300, scale="std", out=tmp_path / "soft")
    found = compare(run, tmp_path / "soft")
    assert "margin radius" in str(found)


def test_witnesses_hold_when_they_are_asked_again(run):
    again = recheck_witnesses(run, open_classifier(answers, "labels"))
    assert len(again.index) == len(SOME)
    assert not again.failed.size
    assert (again.now == again.after).all()


def test_inspect_and_plan_know_labels(tmp_path):
    planned = plan(100, features=13, queries=1000, labels=True)
    assert planned.cost.rows == label_rows(100, 1000) >= 100_000
    assert 0.5 < planned.interval.lower < 1 < planned.interval.upper < 1.6
    shown = CliRunner().invoke(app, ["plan", "--inputs", "10", "--features", "13", "--queries", "1000", "--labels"])
    assert shown.exit_code == 0
    assert "margin radius" in shown.output
