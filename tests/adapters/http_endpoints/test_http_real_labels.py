"""KServe and FastAPI servers that answer with a class and nothing else: audited within a budget, killed and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from fimaudit import Report
from tests.command_line import run_command

KSERVE = ("/v2/models/labels/infer", {})
FASTAPI = ("/classify", {"protocol": "json", "request": '{"rows": "$rows"}', "response": "results", "kind": "labels"})
INPUTS, BUDGET, KILLED_AFTER = 3, 350, 60
#: Rows of requests in flight when the client was killed, and of the checks after each start.
ASKED_AGAIN = 100


def words(url: str, settings: dict[str, str], data: Path, out: Path) -> list[str]:
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return ["audit", url, "--data", str(data), "--link", "labels", "--out", str(out), "--queries", "300", *sets, "--yes"]


def answered(counted: Path) -> int:
    """Rows that the server answered so far; it may be writing just now."""
    return int(counted.read_text() or 0) if counted.exists() else 0


def killed_midway(command: list[str], counted: Path) -> None:
    """Start a run, and kill it without notice once the server has answered some rows of it."""
    until = answered(counted) + KILLED_AFTER
    env = {**os.environ, "NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen([sys.executable, "-m", "fimaudit", *command], env=env, start_new_session=True)
    try:
        hung = time.monotonic() + 120
        while answered(counted) < until and time.monotonic() < hung:
            assert process.poll() is None
            time.sleep(0.01)
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_kserve(kserve_labels, base, cancer, tmp_path):
    cut_off_and_resumed(kserve_labels.url + KSERVE[0], KSERVE[1], base / "kserve.counted", cancer, tmp_path)


def test_fastapi(fastapi_labels, base, cancer, tmp_path):
    cut_off_and_resumed(fastapi_labels.url + FASTAPI[0], FASTAPI[1], base / "fastapi.counted", cancer, tmp_path)


def cut_off_and_resumed(url: str, settings: dict[str, str], counted: Path, cancer: Any, tmp_path: Path) -> None:
    """A budget, a kill and a resume end at the radii of a run in one piece, which hold the truth."""
    data = tmp_path / "x.npy"
    rows = cancer.rows[[0, 1, 20]]
    np.save(data, rows)

    before, whole = answered(counted), tmp_path / "whole"
    done = run_command(*words(url, settings, data, whole))
    assert done.returncode == 0, done.stderr
    cost, report = answered(counted) - before, Report.read(whole)
    assert report.summary.queries == cost
    truth = np.abs(cancer.model.decision_function(rows)) / np.linalg.norm(cancer.model.coef_)
    for s, t in zip(report.inputs, truth, strict=True):
        assert s.method == "labels"
        assert s.margin_radius.lower <= t <= s.margin_radius.upper * (1 + 1e-9)

    before, again = answered(counted), words(url, settings, data, tmp_path / "cut")
    short = run_command(*again, "--budget", BUDGET)
    assert short.returncode == 3, short.stderr
    assert answered(counted) - before <= BUDGET

    killed_midway([*again, "--resume"], counted)
    done = run_command(*again, "--resume")
    assert done.returncode == 0, done.stderr
    resumed = Report.read(tmp_path / "cut")
    assert [s.margin_radius for s in resumed.inputs] == [s.margin_radius for s in report.inputs]
    assert answered(counted) - before <= cost + ASKED_AGAIN
