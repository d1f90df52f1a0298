"""A seeded sample of ``make crash``: kills and faults at system calls, and power cuts, then the same command again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def can_trace() -> bool:
    """Whether there is strace, and leave to trace: containers may have neither."""
    traced = ["strace", "-o", os.devnull, "true"]
    return shutil.which("strace") is not None and not subprocess.run(traced, capture_output=True, check=False).returncode


pytestmark = pytest.mark.skipif(not can_trace(), reason="needs strace, and leave to trace")


def crash(tmp_path: Path, *arguments: str) -> tuple[int, str, dict[str, dict[str, object]]]:
    table = tmp_path / "table.json"
    done = subprocess.run(
        [sys.executable, "-m", "scripts.crash", "--json", str(table), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr, json.loads(table.read_text())


def test_a_sample_of_all_points(tmp_path: Path) -> None:
    kept = ["--operations", "local", "endpoint", "--kept", str(tmp_path / "points.jsonl"), "--sample", "2", "--seed", "1"]
    code, said, table = crash(tmp_path, *kept, "--power", "1000")
    assert code == 0, said
    for name, least in (("local", 400), ("endpoint", 1000)):
        assert table[name]["points"] > least
        assert sum(table[name]["tried"].values()) + table[name]["not reached"] == 2
        assert table[name]["power cuts"] == 3
    lines = [json.loads(line) for line in (tmp_path / "points.jsonl").read_text().splitlines()]
    assert [line["operation"] for line in lines] == ["local", "local", "endpoint", "endpoint"]


def test_a_run_whose_files_are_not_synced_is_found_out(tmp_path: Path) -> None:
    code, said, table = crash(tmp_path, "--operations", "local", "--sample", "0", "--power", "1000", "--never-sync")
    assert code == 1
    assert table["local"]["power cuts failed"] >= 1
    assert "the command had ended, and yet" in said
