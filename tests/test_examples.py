"""``examples/`` run as scripts, in another folder, with warnings as errors."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from fimaudit.audit_report import Report
from fimaudit.demo import DemoComparison
from tests.command_line import run_command, run_script

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str, cwd: Path) -> str:
    done = run_script(EXAMPLES / name, *arguments, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_every_example_is_tested() -> None:
    audits = {file.name for file in EXAMPLES.glob("audit_*.py")}
    assert audits == {"audit_estimator.py", "audit_onnx.py", "audit_torch.py"}


@pytest.mark.parametrize(
    ("name", "says"), [("audit_torch.py", "spectral norm"), ("audit_estimator.py", "margin_radius: median")]
)
def test_example(name: str, says: str, tmp_path: Path) -> None:
    assert says in run(name, cwd=tmp_path)


def command_here(command: list[str], *, cwd: Path, check: bool) -> None:
    """The command line of an example, which starts it as a process."""
    python, flag, name, *words = command
    assert ([python, flag, name], check) == ([sys.executable, "-m", "fimaudit"], True)
    done = run_command(*words, cwd=cwd)
    print(done.stdout)
    assert done.returncode == 0, done.stderr


def test_a_table_with_categories_and_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platform.platform()  # the first call of a process asks by subprocess itself
    monkeypatch.setattr(subprocess, "run", command_here)
    said = run("medical_pipeline.py", "run", cwd=tmp_path)
    assert "classes: disease, healthy; held: stage, sex, smoker" in said
    assert "PASS" in said
    python, cli = Report.read(tmp_path / "run" / "python"), Report.read(tmp_path / "run" / "cli")
    assert python.summary.margin_radius.median == cli.summary.margin_radius.median
    assert set(python.groups) == {"north", "south"}
    assert "sex" in (tmp_path / "run" / "cli" / "report.html").read_text()


def test_onnx_example(demo: list[DemoComparison], tmp_path: Path) -> None:
    model = demo[0].folder.with_suffix(".onnx")
    said = run("audit_onnx.py", str(model), str(model.with_suffix(".npz")), "run", cwd=tmp_path)
    assert "closest to another decision" in said
    assert len(Report.read(tmp_path / "run").inputs) == len(demo[0].report.inputs)
