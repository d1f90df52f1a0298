"""Figures for papers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from synthetic_runs import picture_run, table_run
from typer.testing import CliRunner

from fimaudit.cli import app
from fimaudit.errors import UsageError
from fimaudit.report.charts import interval_chart
from fimaudit.report.drawing import inline_svg, log_axis
from fimaudit.report.plots import KINDS, figure_of, plot
from fimaudit.results import Interval, ScaleRung
from fimaudit.storage.run_folder import RunFolder, read_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("plots")
    picture_run(place / "pictures", count=12, queries=30)
    table_run(place / "table", count=12)
    return place


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "scale"])  # which takes more queries
@pytest.mark.parametrize("name", ["pictures", "table"])
def test_kinds(folder: Path, tmp_path: Path, kind: str, name: str) -> None:
    out = tmp_path / f"{kind}.png"
    done = CliRunner().invoke(app, ["plot", str(folder / name), "--kind", kind, "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_bytes().startswith(b"\x89PNG")
    assert out.stat().st_size > 5_000


def test_svg_is_the_same_each_time(folder: Path, tmp_path: Path) -> None:
    texts = [plot(folder / "table", "distribution", tmp_path / f"{i}.svg").read_text() for i in range(2)]
    assert texts[0] == texts[1]
    assert "Margin radius" in texts[0]


def test_a_run_with_a_profile_over_longer_displacements(folder: Path) -> None:
    run = read_run(folder / "table")
    with pytest.raises(UsageError, match="audit with profile="):
        figure_of(run, "scale")
    rungs = [ScaleRung(displacement=d, radius=2.0 - d, flips=0, flips_upper=0.3, directions=10) for d in (0.1, 0.3, 1.0)]
    inputs = tuple(s.model_copy(update={"profile": rungs}) for s in run.inputs)
    axes = figure_of(RunFolder(run.folder, run.report, inputs), "scale").axes[0]
    assert axes.lines[0].get_xydata().round(2).tolist() == [[0.1, 1.9], [0.3, 1.7], [1.0, 1.0]]


def test_colours_are_names_and_texts_are_texts() -> None:
    """What comes from outside stays text; no colour of paper is left in a page."""
    name = "a $b$ </text><script>"
    cells = [(name, Interval(value=1.0, lower=0.5, upper=2.0)), ("other", Interval(value=30.0))]
    svg = inline_svg(interval_chart("fig-x", name, name, cells, ["", "", ""]))
    assert "<script" not in svg
    assert svg.count("a $b$ &lt;/text&gt;&lt;script&gt;") == 4  # name, description, tick and axis
    assert not re.search(r"#[0-9a-f]{6}|xmlns|<!--|<style", svg)
    assert "var(--main)" in svg


def test_ticks_are_few_and_plain() -> None:
    from matplotlib.figure import Figure

    for low, high in ((0.9, 1.1), (0.02, 0.9), (1e-7, 3.0), (3.0, 4e12)):
        axes = Figure().add_subplot()
        log_axis(axes.xaxis, "x", low, high)
        shown = [label.get_text() for label in axes.get_xticklabels()]
        assert 2 <= len(shown) <= 6, shown
        assert not any("$" in text for text in shown)


def test_refusals(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="kind="):
        plot(folder / "table", "pie", tmp_path / "x.png")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="ending in"):
        plot(folder / "table", "worst", tmp_path / "x.gif")
    with pytest.raises(UsageError, match="no such run folder"):
        plot(tmp_path / "none", "worst", tmp_path / "x.png")
