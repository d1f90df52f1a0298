"""What ``print`` and a notebook show: the answer first, on one screen, escaped; and what a report does by itself."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from synthetic_runs import made_run, picture_run, pictures, softmax_model, table_run

from fimaudit import Report, audit, compare, gate
from fimaudit.audit_report import IntegrityCheck
from fimaudit.errors import UsageError
from fimaudit.evidence.verification import verify_bundle
from fimaudit.policy.gate import Verdict
from fimaudit.report.answer import Headline, answer_of
from fimaudit.report.charts import distribution_chart
from fimaudit.report.page import page_html, render
from fimaudit.report.screen import Screen, bar, histogram
from fimaudit.report.wording import number
from fimaudit.results import Interval, Sensitivity
from fimaudit.storage.run_folder import read_for_page
from fimaudit.validation.results import AttackedInput, Correlation, Validation

POLICY = """
rules:
- {rule: quantile, metric: margin_radius, statistic: median, at_least: 0.001}
- {rule: not_ok, at_most: 0.5}
"""
EVIL = "<script>window.hacked = 1</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("screens")
    picture_run(place / "pictures", count=12, queries=30)
    table_run(place / "table", count=20)
    return place


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return Report.read(folder / "pictures")


def test_a_report_opens_with_the_answer(report: Report, folder: Path) -> None:
    lines = report._screen().text(80).splitlines()
    assert len(lines) < 40
    assert max(map(len, lines)) <= max(80, *(len(line) for line in lines if line.startswith("    fimaudit")))
    first = " ".join(lines[:6])
    assert "(5 classes, 144 features) was audited from its probabilities alone, at 12 of 12 inputs" in first
    assert "grey levels everywhere" in first
    assert "in the worst direction and to first order" in first
    text = "\n".join(lines)
    for words in (
        "Distance to another answer:",
        "compared with: the nearest input of another class in this data",
        "Right answers:",
        "integrity: not checked",
        "What to do next",
        f"    fimaudit gate --init {folder / 'pictures'} > policy.yaml",
        "report.html",
    ):
        assert words in text, words
    assert "▁" in text or "█" in text
    assert len(repr(report)) < 200


def test_a_report_without_a_folder_speaks_python() -> None:
    report = audit(softmax_model(0, 144, 5), pictures(8).x, queries=20, lower=0.0, upper=1.0)
    text = str(report)
    assert "not measured: right answers: the data has no labels" in text
    assert "report.worst(5)" in text
    assert "fimaudit gate" not in text
    with pytest.raises(UsageError, match="give audit"):
        report.bundle("evidence.zip")
    assert report.worst(3) == sorted(report.inputs, key=lambda s: s.margin_radius.value or 9)[:3]
    assert report.html().startswith("<!doctype html>")


def test_what_a_report_does(report: Report, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    verdict = report.gate(tmp_path / "policy.yaml")
    assert isinstance(verdict, Verdict)
    assert str(verdict).startswith("PASS: within the policy")
    figure = report.plot("worst")
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(report.plot().axes) == 3
    with pytest.raises(UsageError, match="expected one of the kinds"):
        report.plot("pie")  # type: ignore[arg-type]
    assert report.html(tmp_path / "page.html") == (tmp_path / "page.html").read_text()
    assert report.html() == render(folder / "pictures").read_text()
    assert all(finding.fits for finding in verify_bundle(report.bundle(tmp_path / "evidence.zip")))
    assert list(report.to_frame()["index"]) == list(range(12))


def test_a_broken_rule_is_named_where_the_answer_stands(folder: Path, tmp_path: Path) -> None:
    """Seen: FAIL alone on the page's first screen; and two groups under one and the same cut name in the plot."""
    copytree(folder / "table", tmp_path / "run")
    (tmp_path / "policy.yaml").write_text(POLICY.replace("0.001", "1000"))
    verdict = gate(tmp_path / "run", tmp_path / "policy.yaml")
    names = [f"distance to another answer ({size} tumours)" for size in ("large", "small")]
    both = verdict.model_copy(update={"decisions": [verdict.decisions[0].model_copy(update={"name": n}) for n in names]})
    (tmp_path / "run" / "verdict.json").write_text(both.to_json())
    assert f"; not kept: “{names[0]}” and 1 more (<a href" in page_html(read_for_page(tmp_path / "run"))
    assert len({line[:24] for line in both._screen().plot}) == 2


def test_the_numbers_of_a_chart_are_those_of_the_summary(report: Report) -> None:
    """Seen: a median of 1.71 in the table below the chart, and of 1.69 at the top of the page."""
    chart = distribution_chart("margin_radius", [s.margin_radius for s in report.inputs], "unit")
    assert chart is not None
    assert chart.rows[2][1] == number(report.summary.margin_radius.median.value)


def test_a_large_run_is_read_from_its_folder(report: Report, tmp_path: Path) -> None:
    made_run(tmp_path / "many", report, 10_050)
    many = Report.read(tmp_path / "many")
    assert many.inputs == []
    frame = many.to_frame()
    assert len(frame) == 10_050
    worst = many.worst(5)
    assert [s.margin_radius.value for s in worst] == sorted(s.margin_radius.value or 9 for s in worst)
    assert worst[0].margin_radius.value == frame["margin_radius"].min()
    assert "10,050 of 10,050 inputs" in " ".join(str(many).split())


def test_an_input_a_comparison_and_a_verdict(report: Report, folder: Path) -> None:
    one = report.worst(1)[0]
    assert str(one).startswith(f"Input {one.index}: class {one.predicted_class}")
    assert "margin radius" in str(one)
    assert "├" in str(one)
    failed = Sensitivity(index=3, status="failed", method="none", reason="it said no", flags=["kinked"])
    assert "failed: it said no" in str(failed)
    assert "kinked: its answers bend at the input" in str(failed)
    found = compare(folder / "pictures", folder / "pictures")
    assert "cannot be told apart from" in str(found)
    assert len(str(found).splitlines()) < 40
    for thing in (one, failed, found, report):
        assert thing._repr_html_().count("<div") == thing._repr_html_().count("</div>")
    assert "<svg" in one._repr_html_()
    assert "<svg" in found._repr_html_()
    assert "<svg" in report._repr_html_()


def test_a_validation(tmp_path: Path) -> None:
    ends = Interval(value=0.9, lower=0.8, upper=0.95)
    inputs = [
        AttackedInput(
            index=i, status="found", margin_radius=0.1 * i, smallest_perturbation=0.11 * i, attacks={"pgd": 0.2 * i}
        )
        for i in range(1, 6)
    ]
    follows = Correlation(
        metric="margin_radius", spearman=ends, kendall=ends, ratio=ends, inputs=5, censored=0, unmeasured=0
    )
    found = Validation(
        model={"name": EVIL},
        data={"inputs": 5},
        unit="unit",
        settings={},
        environment={},
        correlations=[follows],
        attacked=5,
        inputs=inputs,
    )
    assert "The margin radius is 0.9 of the smallest change that attacks found" in str(found)
    assert EVIL not in found._repr_html_()
    assert "<svg" in found._repr_html_()
    frame = found.to_frame()
    assert list(frame["attack_pgd"]) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert "attacks" not in frame


def test_nothing_from_outside_is_markup(report: Report) -> None:
    hostile = report.model_copy(
        update={
            "model": {**report.model, "name": EVIL},
            "domain": {**report.domain, "unit": EVIL},
            "warnings": [EVIL],
        }
    )
    assert "<script" not in hostile._repr_html_()
    assert EVIL in str(hostile).replace("\n", " ")


def test_what_to_do_next_depends_on_what_was_found(report: Report, folder: Path) -> None:
    run = read_for_page(folder / "pictures")
    page = [step.command for step in answer_of(report, run.inputs, page=True).steps]
    assert page[0] == f"fimaudit gate --init {folder / 'pictures'} > policy.yaml"
    moved = report.model_copy(update={"environment": {**report.environment, "folder": "runs/my model"}})
    assert "--init 'runs/my model'" in answer_of(moved, page=True).steps[0].command
    part = report.model_copy(update={"data": {**report.data, "measured": 7}})
    assert answer_of(part, page=True).steps[0].command == "resume=True"  # as the run was made
    assert "5 of 12 inputs were not reached" in answer_of(part).unmeasured[0]
    bad = IntegrityCheck(name="slope", outcome="contradicted", notices="n", finding="f")
    assert answer_of(report.model_copy(update={"integrity": [bad]})).contradicted
    policy = folder / "undecided.yaml"
    cell = report.summary.margin_radius.median
    policy.write_text(f"rules:\n- {{rule: quantile, metric: margin_radius, statistic: median, at_least: {cell.value}}}\n")
    verdict = report.gate(policy)
    assert verdict.outcome == "undecided"
    known = verdict.decisions[0].model_copy(update={"queries": 700})
    steps = answer_of(report, (), verdict.model_copy(update={"decisions": [known]}), page=True).steps
    assert steps[0].command == "queries=700, overwrite=True"


def test_commands_are_never_broken_and_words_fit() -> None:
    long = "fimaudit compare " + "x" * 120
    screen = Screen("title " * 30, ["sentence " * 40], [Headline("name", "1", "says " * 30)], [("note", "word " * 40)])
    lines = [line for _, line in screen.lines(60)]
    assert max(map(len, lines)) <= 60
    from fimaudit.report.answer import NextStep

    with_step = Screen("t", [], steps=[NextStep("do", long)])
    assert f"    {long}" in [line for _, line in with_step.lines(60)]


def test_plots_in_characters() -> None:
    assert bar(Interval(value=1.0), 0.1, 10.0)[15] == "●"
    assert bar(Interval(value=50.0, lower=20.0, upper=90.0), 0.1, 10.0)[-1] == "●"
    assert bar(Interval(value=2.0, lower=1.5, upper=3.0), 0.1, 10.0, 1.0)[15] == "│"
    assert histogram([]) == histogram([1.0]) == histogram([2.0, 2.0]) == ""
    assert len(histogram(list(np.geomspace(1, 100, 50)))) == 32
