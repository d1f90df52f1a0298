"""The page of a ranking: what stands on it, that nothing from outside is markup, and that the command writes it."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

import pytest
from synthetic_runs import made_run, picture_run
from typer.testing import CliRunner

from fimaudit.cli import app
from fimaudit.comparison.ranking import Ranking, rank_runs
from fimaudit.report.ranking_page import ranking_html
from fimaudit.results import Interval
from fimaudit.storage.run_folder import read_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model three times, and one whose inputs all lie four times as far from another answer."""
    place = tmp_path_factory.mktemp("ranked")
    template = picture_run(place / "template", count=12, queries=30)
    for name in ("a", "b", "c"):
        made_run(place / name, template, 60)
    far = made_run(place / "far", template, 60)
    inputs = []
    for s in far.inputs:
        ends = {end: None if v is None else 4 * v for end, v in s.margin_radius.model_dump().items()}
        inputs.append(s.model_copy(update={"margin_radius": Interval(**ends)}))
    (place / "far" / "report.json").write_text(far.model_copy(update={"inputs": inputs, "inputs_file": None}).to_json())
    return place


def ranked(folder: Path, *names: str) -> Ranking:
    return rank_runs([read_run(folder / name) for name in names])


def test_the_page_says_who_is_first_and_how_sure_that_is(folder: Path) -> None:
    ranking = ranked(folder, "a", "far", "b")
    first = ranking.models[0]
    page = ranking_html(ranking, {"fimaudit": "1"})
    assert f"{escape(first.name)} is the most robust of them." in page
    assert "1 of 3 places are settled" in page
    assert "<td>2 to 3</td>" in page
    assert "left: 33.33%; width: 66.67%" in page
    assert f"fimaudit compare {folder / 'far'} " in page


def test_what_cannot_be_decided_is_said(folder: Path) -> None:
    page = ranking_html(ranked(folder, "a", "b", "c"), {"fimaudit": "1"})
    assert "Any of them may be the most robust" in page
    assert "0 of 3 places are settled" in page


def test_print_and_a_notebook_show_the_order(folder: Path) -> None:
    ranking = ranked(folder, "a", "far", "b")
    text = str(ranking)
    assert text.startswith("3 models on 60 inputs, by the median of the margin radius")
    assert f"1. {ranking.models[0].name}: " in text
    assert "place 2 to 3; interval" in text
    assert f'fimaudit.compare("{folder / "far"}"' in text
    evil = ranking.models[0].model_copy(update={"name": "<script>"})
    assert "<script>" not in ranking.model_copy(update={"models": [evil, *ranking.models[1:]]})._repr_html_()


def test_nothing_from_outside_is_markup_and_nothing_is_loaded(folder: Path) -> None:
    ranking = ranked(folder, "a", "far", "b")
    evil = "<script>alert(1)</script>"
    models = [m.model_copy(update={"name": evil, "folder": f"$(touch {evil})"}) for m in ranking.models]
    page = ranking_html(ranking.model_copy(update={"models": models, "warnings": [evil], "unit": evil}), {"fimaudit": evil})
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert re.findall(r"(?:src|href)=\"(?!#)", page) == []
    assert "compare &#39;$(touch " in page  # quoted for a shell, then escaped for a page


def test_the_command_writes_it(folder: Path, tmp_path: Path) -> None:
    runs = [str(folder / name) for name in ("a", "far", "b")]
    done = CliRunner().invoke(app, ["compare", *runs, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "out" / "ranking.html") in done.output
    assert "most robust of them" in (tmp_path / "out" / "ranking.html").read_text()
