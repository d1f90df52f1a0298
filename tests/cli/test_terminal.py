"""What files and servers say cannot steer the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.table import Table

from fimaudit.cli.output import print_failure
from fimaudit.cli.terminal import Terminal
from fimaudit.errors import DataError

EVIL = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202eb"


def test_text_and_tables_show_no_control_characters_of_others() -> None:
    out = io.StringIO()
    table = Table("name")
    table.add_row(EVIL)
    console = Terminal(file=out, force_terminal=True, color_system=None, width=80)
    console.print(table)
    console.print(EVIL, markup=False)
    shown = out.getvalue()
    assert not any(sign in shown for sign in "\x1b\x07\x9b\u202e")
    assert shown.count("owned") == 2
    colours = Terminal(file=io.StringIO(), force_terminal=True, color_system="standard")
    colours.print("kept", style="red")
    assert colours.file.getvalue().startswith("\x1b[31m")


def test_an_error_shows_none_either(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    print_failure(DataError(f"expected {EVIL}, got another"))
    said = capsys.readouterr().err
    assert "owned" in said
    assert said.strip().isprintable()
