"""Figures for papers."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_runs import picture_run, table_run
from typer.testing import CliRunner

from fimaudit.cli import app
from fimaudit.errors import UsageError
from fimaudit.report.plots import KINDS, plot

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("plots")
    picture_run(place / "pictures", count=12, queries=30)
    table_run(place / "table", count=12)
    return place


@pytest.mark.parametrize("kind", KINDS)
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
    assert "margin radius" in texts[0]


def test_refusals(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="kind="):
        plot(folder / "table", "pie", tmp_path / "x.png")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="ending in"):
        plot(folder / "table", "worst", tmp_path / "x.gif")
    with pytest.raises(UsageError, match="no such run folder"):
        plot(tmp_path / "none", "worst", tmp_path / "x.png")
