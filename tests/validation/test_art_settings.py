"""ART's own settings file: an import that finds half of it fails, so it is there whole before the import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fimaudit.validation.art_settings import write_settings

IMPORT = [sys.executable, "-c", "import fimaudit.validation.art_estimator"]


HALF = '{"ART_DATA'


def test_art_is_imported_where_half_a_settings_file_was_left(tmp_path: Path) -> None:
    file = tmp_path / ".art" / "config.json"
    file.parent.mkdir()
    file.write_text(HALF)
    subprocess.run(IMPORT, env={**os.environ, "HOME": str(tmp_path)}, check=True)
    assert json.loads(file.read_text())["ART_DATA_PATH"] == str(tmp_path / ".art" / "data")


@pytest.mark.parametrize("left", [None, "", HALF, "[]"], ids=["none", "empty", "half", "a list"])
def test_settings_that_cannot_be_read_are_replaced(tmp_path: Path, left: str | None) -> None:
    file = tmp_path / ".art" / "config.json"
    if left is not None:
        file.parent.mkdir()
        file.write_text(left)
    write_settings(file)
    assert json.loads(file.read_text())["ART_DATA_PATH"] == str(tmp_path / ".art" / "data")
    assert list(file.parent.iterdir()) == [file]


def test_settings_that_can_be_read_are_left_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"ART_DATA_PATH": "/elsewhere"}')
    write_settings(file)
    assert json.loads(file.read_text()) == {"ART_DATA_PATH": "/elsewhere"}
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    write_settings(tmp_path / "file" / ".art" / "config.json")
    assert (tmp_path / "file").read_text() == ""
